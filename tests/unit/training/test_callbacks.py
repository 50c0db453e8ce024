from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from hart_studio.runs.config import RunConfig
from hart_studio.runs.status import read_status
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.training.callbacks import RunCallback
from hart_studio.training.checkpoints import Stage
from hart_studio.training.stopping import StopSignals


class OneOfTwo:
    """An accelerator of two processes, of which the other one was asked to stop, or was not."""

    num_processes = 2
    device = torch.device("cpu")

    def __init__(self, others_wish: int) -> None:
        self.others_wish = others_wish

    def reduce(self, asked: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        return asked + self.others_wish


@pytest.mark.parametrize(
    ("others_wish", "done", "is_stopping", "state"),
    [(1, 2, True, "stopped"), (1, 4, False, "completed"), (0, 2, False, "completed")],
)
def test_a_signal_to_another_process_stops_the_run_that_this_one_writes(
    tmp_path: Path, others_wish: int, done: int, is_stopping: bool, state: str
) -> None:
    config = RunConfig()
    layout = create_run(tmp_path / "runs", "training", config, "sft", total=4)
    trainer: Any = SimpleNamespace(accelerator=OneOfTwo(others_wish), last_groups=[], check_weights=lambda: ())
    control = TrainerControl()
    with RunWriter(layout, total=4) as writer:
        callback = RunCallback(Stage("sft", 0, 4, writer), config, StopSignals(lambda _: None), None, 0)
        callback.trainer = trainer
        writer.log_step(done, "sft", {})
        callback.on_step_end(TrainingArguments(str(tmp_path)), TrainerState(global_step=done), control)
        assert callback.was_stopped == control.should_training_stop == is_stopping
        assert read_status(layout).state == ("stopping" if others_wish else "running")
    assert read_status(layout).state == state
