"""The initial model of a stage is checked like any other, also if it is a checkpoint of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from hart_studio.errors import ModelError
from hart_studio.runs.config import RunConfig
from hart_studio.runs.presets import DEFAULT_PRESET, get_preset
from hart_studio.training.checkpoints import RunCheckpoints
from hart_studio.training.dry_run import estimate_memory
from hart_studio.training.initial_model import load_initial_model

# peft asks transformers in a way that transformers is about to retire.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CPU = torch.device("cpu")


@pytest.fixture
def base(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("qwen3_vl")


@pytest.fixture
def checkpoint(base: Path, tmp_path: Path) -> Path:
    """Adapters at the end of a stage."""
    model = AutoModelForImageTextToText.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def _config(model: Path) -> RunConfig:
    config = get_preset(DEFAULT_PRESET).config
    return config.model_copy(update={"model": config.model.model_copy(update={"id": str(model)})})


def _spoil(checkpoint: Path, how: str) -> None:
    if how == "pickled":
        weights = checkpoint / "adapter_model.safetensors"
        (checkpoint / "adapter_model.bin").hardlink_to(weights)
        weights.rename(checkpoint / "adapter_model_x.safetensors")
    else:
        (checkpoint / "config.json").write_text(json.dumps({"transformers_weights": "adapter_model.bin"}))


def test_adapters_of_the_stage_before_are_loaded(base: Path, checkpoint: Path) -> None:
    assert load_initial_model(_config(base), CPU, checkpoint).new_adapters is None


@pytest.mark.parametrize(("how", "words"), [("pickled", "no pickled weights"), ("config", "something else to open")])
def test_a_spoiled_checkpoint_is_refused(
    base: Path, checkpoint: Path, how: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    _spoil(checkpoint, how)
    with pytest.raises(ModelError, match=words):
        load_initial_model(_config(base), CPU, checkpoint)


@pytest.mark.parametrize(("how", "words"), [("pickled", "no pickled weights"), ("config", "something else to open")])
def test_a_spoiled_checkpoint_is_not_resumed(base: Path, checkpoint: Path, how: str, words: str) -> None:
    model: Any = load_initial_model(_config(base), CPU, checkpoint).model
    _spoil(checkpoint, how)
    trainer: Any = SimpleNamespace(model=model)
    with pytest.raises(ModelError, match=words):
        RunCheckpoints._load_from_checkpoint(trainer, str(checkpoint))


def test_memory_is_not_planned_for_a_model_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl", "auto_map": {"AutoConfig": "x.Y"}}))
    with pytest.raises(ModelError, match="something else to open"):
        estimate_memory(_config(tmp_path), CPU)
