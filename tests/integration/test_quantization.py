"""4-bit and 8-bit models of every architecture, with random weights, on the CPU; and QLoRA training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hart_studio import ask
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.chat import ChatRequest, SamplingParams
from hart_studio.models.loading import load_model
from hart_studio.models.quantization import is_quantized_layer
from hart_studio.runs.writer import create_run
from hart_studio.training import hart_trainer
from hart_studio.training.train import run
from tests.fakes import ask_about
from tests.integration.training_runs import ScriptedPolicy, make_samples, make_trainer, small_config, write_jsonl
from tests.tiny_models import FAMILY_KEYS, build_tiny

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install -r requirements-quantization.txt")
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]
