"""Several processes compute the same update as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hart_studio.models.loading import load_model

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ROOT = Path(__file__).resolve().parents[2]


def launch(arguments: list[str], **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_in(processes: int, module: str, out: Path, folder: Path, *more: str) -> None:
    """Run a module as so many processes of one training, to its end."""
    out.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    jobs = [
        launch(
            [module, str(out), str(folder), *more],
            **(
                {
                    "WORLD_SIZE": str(processes),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                    "ACCELERATE_USE_CPU": "true",
                }
                if processes > 1
                else {}
            ),
        )
        for rank in range(processes)
    ]
    for job in jobs:
        output, _ = job.communicate(timeout=900)
        assert job.returncode == 0, output[-4000:]


def train_in(
    processes: int, out: Path, folder: Path, strategy: str, tuning: str
) -> dict[str, tuple[list[Any], dict[str, torch.Tensor]]]:
    run_in(processes, "tests.integration.one_of_processes", out, folder, strategy, tuning)
    return {
        name: (json.loads((out / name / "log.json").read_text()), load_file(out / name / "weights.safetensors"))
        for name in ("rl", "sft")
    }


@pytest.mark.parametrize(("strategy", "tuning"), [("ddp", "full"), ("fsdp", "full"), ("fsdp", "lora")])
def test_two_processes_make_the_update_of_one(
    strategy: str, tuning: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_folder("qwen2_5_vl")
    alone = train_in(1, tmp_path / "one", folder, strategy, tuning)
    together = train_in(2, tmp_path / "two", folder, strategy, tuning)
    base = load_model(str(folder), device="cpu").model.state_dict()
    one, other_one = (json.loads((tmp_path / "two" / "rl" / f"passes_{rank}.json").read_text()) for rank in (0, 1))
    assert len(one) == len(other_one) and one != other_one, "the processes do not need equally many passes"
    for name in ("rl", "sft"):
        (log, weights), (other_log, other_weights) = alone[name], together[name]
        assert len(log) == len(other_log) == 3
        for step, other in zip(log[:2], other_log[:2], strict=True):
            assert step["loss"] == pytest.approx(other["loss"], rel=1e-4, abs=1e-6)
            assert step["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3) and step["grad_norm"] > 0
            for figure in ("reward", "failed_share", "entropy", "kl"):
                if figure in step:
                    assert step[figure] == pytest.approx(other[figure], rel=1e-3, abs=1e-5), figure
        assert any(step["failed_share"] > 0 for step in log[:2])
        assert weights.keys() == other_weights.keys()
        trained = {key: weight for key, weight in weights.items() if tuning == "full" or "lora_B" in key}
        starts = {key: base.get(key, torch.zeros_like(weight)) for key, weight in trained.items()}  # lora_B starts at 0
        moved = sum(float((weight - starts[key]).abs().sum()) for key, weight in trained.items())
        apart = sum(float((weight - other_weights[key]).abs().sum()) for key, weight in weights.items())
        assert moved > 0
        assert apart < 0.01 * moved


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_ends_both_at_the_same_step(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    run_in(2, "tests.integration.non_finite_process", tmp_path / "two", tiny_folder("qwen2_5_vl"))
    one, other = (json.loads((tmp_path / "two" / f"end_{rank}.json").read_text()) for rank in (0, 1))
    assert one["step"] == other["step"] == 3
    assert one["reason"] == other["reason"]
    assert one["reason"].startswith("step 3: loss not finite for 2 steps in a row, since step 2")
    assert one["weights"] == other["weights"], "both skipped the same updates"
