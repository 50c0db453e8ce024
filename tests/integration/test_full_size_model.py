"""A model of the true size of Qwen2.5-VL-3B, with random weights, through the closed loop on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hart_studio.models.devices import has_cpu_bfloat16
from hart_studio.models.memory import estimate_inference_memory
from hart_studio.models.meta_model import read_architecture
from hart_studio.models.published_models import find_published
from hart_studio.runs.config import RunConfig
from hart_studio.training.dry_run import estimate_memory

pytestmark = [pytest.mark.slow, pytest.mark.integration]

WEIGHTS = 3_754_622_976
"""Of Qwen2.5-VL-3B, the tied output layer counted once."""

NEEDED_GIB = 14


def free_gib() -> float:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


@pytest.mark.timeout(1800)
def test_the_full_size_model_loads_and_answers_within_its_estimate(tmp_path: Path) -> None:
    if free_gib() < NEEDED_GIB:
        pytest.skip(f"needs {NEEDED_GIB} GiB of free memory, this machine has {free_gib():.0f}")
    if not has_cpu_bfloat16():
        pytest.skip("needs a CPU with bfloat16 instructions: in float32 the model takes 15 GB")
    command = [sys.executable, "-m", "tests.integration.full_size_model"]
    subprocess.run([*command, "build", str(tmp_path)], check=True)
    output = subprocess.run([*command, "ask", str(tmp_path)], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    assert found["dtype"] == "torch.bfloat16" and found["weights"] == WEIGHTS
    assert found["outcome"] in ("ok", "truncated") and found["crops"] == 1
    assert found["visual_tokens"] > 0 and found["tokens"] > 0
    config = RunConfig.model_validate({"model": {"id": str(tmp_path), "dtype": "bfloat16", "lora": "on"}})
    plan = estimate_memory(config, torch.device("cpu"))
    assert plan is not None and plan.weight_count == WEIGHTS
    taken, expected = found["peak"] - found["before"], 2 * plan.weight_count
    assert taken == pytest.approx(expected, rel=0.15), f"{taken / 1e9:.2f} GB, estimated {expected / 1e9:.2f}"
    architecture = read_architecture(tmp_path)
    published = find_published("qwen2.5-vl-3b")
    assert published is not None and published.architecture == architecture
    checked = estimate_inference_memory(architecture, "bfloat16").total  # what "models check" states
    assert taken == pytest.approx(checked, rel=0.15), f"{taken / 1e9:.2f} GB, estimated {checked / 1e9:.2f}"
    print(f"peak {taken / 1e9:.2f} GB, models check {checked / 1e9:.2f} GB")  # noqa: T201
