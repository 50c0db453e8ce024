from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from hart_studio.records import RolloutGroup, Sample
from hart_studio.runs.config import RunConfig
from hart_studio.runs.events import Evaluated, RolloutsSaved
from hart_studio.runs.reader import read_events
from hart_studio.runs.rollouts import list_rollout_steps
from hart_studio.runs.status import read_status
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.training.callbacks import RunCallback, StopSignals, with_images
from hart_studio.training.checkpoints import Stage
from hart_studio.training.rollouts import TrainingGroup


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
        callback = RunCallback(Stage("sft", 0, 4, writer), config, StopSignals(lambda _: None), None, 0, "")
        callback.trainer = trainer
        writer.log_step(done, "sft", {})
        callback.on_step_end(TrainingArguments(str(tmp_path)), TrainerState(global_step=done), control)
        assert callback.was_stopped == control.should_training_stop == is_stopping
        assert read_status(layout).state == ("stopping" if others_wish else "running")
    assert read_status(layout).state == state


@pytest.mark.parametrize(("every", "expected"), [(5, [11, 12, 15, 20]), (1, list(range(11, 22))), (0, [])])
def test_the_first_steps_of_a_stage_are_recorded_then_every_nth(
    tmp_path: Path, every: int, expected: list[int]
) -> None:
    config = RunConfig.model_validate({"schedule": {"rollout_log_steps": every}})
    layout = create_run(tmp_path / "runs", "training", config, "sft+ap_grpo", total=21)
    alone = SimpleNamespace(num_processes=1)
    trainer: Any = SimpleNamespace(accelerator=alone, last_groups=[rolled_group()], check_weights=lambda: ())
    with RunWriter(layout, total=21) as writer:
        stage = Stage("ap_grpo", 10, 11, writer)
        callback = RunCallback(stage, config, StopSignals(lambda _: None), None, 0, "")
        callback.trainer = trainer
        for step in range(1, 12):
            state = TrainerState(global_step=step)
            callback.on_step_end(TrainingArguments(str(tmp_path)), state, TrainerControl())
    assert list_rollout_steps(layout) == expected


def test_held_out_rollouts_are_there_before_the_figures(tmp_path: Path) -> None:
    config = RunConfig()
    layout = create_run(tmp_path / "runs", "training", config, "ap_grpo", total=4)
    trainer: Any = SimpleNamespace(accelerator=SimpleNamespace(num_processes=1), last_groups=[])
    group = with_images(rolled_group())
    assert group is not None

    def measure(trainer: Any, should_continue: Any, record: Any) -> dict[str, float]:
        assert should_continue(0) and read_status(layout).phase == "evaluating held-out questions, 0 of 40"
        record([group])
        assert list_rollout_steps(layout, is_held_out=True) == [0]
        return {"accuracy": 0.5}

    with RunWriter(layout, total=4) as writer:
        callback = RunCallback(Stage("ap_grpo", 0, 4, writer), config, StopSignals(lambda _: None), measure, 40, "f1")
        callback.trainer = trainer
        callback.on_train_begin(TrainingArguments(str(tmp_path)), TrainerState(), TrainerControl())
    kinds = [event.payload for event in read_events(layout).events]
    assert kinds[:2] == [
        RolloutsSaved(groups=1, is_held_out=True),
        Evaluated(metrics={"accuracy": 0.5}, samples=40, fingerprint="f1"),
    ]


def rolled_group() -> TrainingGroup:
    """A group without rollouts, whose image opened."""
    sample = Sample(id="q", image="x.png", question="Which?", choices=(), answer=None)
    group = RolloutGroup(sample_id="q", protocol="crops_only", rollouts=())
    return TrainingGroup(sample=sample, group=group, rewards=(), sequences=(), image_wh=(10, 10))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_one_acts(number: signal.Signals) -> None:
    reached: list[int] = []
    before = signal.signal(number, lambda received, frame: reached.append(received))
    messages: list[str] = []
    try:
        with StopSignals(messages.append) as signals:
            assert signals.received is None
            os.kill(os.getpid(), number)
            assert (signals.received, reached) == (number, [])
            assert messages == [f"{number.name}: stopping after this step and saving; send it again to end at once"]
            os.kill(os.getpid(), number)
            assert reached == [number]
        os.kill(os.getpid(), number)
        assert reached == [number, number], "handlers are not given back"
    finally:
        signal.signal(number, before)


def test_handlers_are_given_back_when_no_signal_came() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals(lambda _: None):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_leaves_signals_alone() -> None:
    problems: list[BaseException] = []

    def enter() -> None:
        try:
            with StopSignals(lambda _: None) as signals:
                assert signals.received is None
        except BaseException as error:  # a thread would swallow it
            problems.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert problems == []
