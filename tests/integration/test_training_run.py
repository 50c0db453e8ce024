"""Complete runs on tiny models: all sequences of stages, stopping, exact resuming, and the final model."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from hart_studio.errors import InputError, ModelError
from hart_studio.models.loading import load_model
from hart_studio.runs import writer as writer_module
from hart_studio.runs.checkpoints import list_checkpoints
from hart_studio.runs.config import RunConfig
from hart_studio.runs.events import Evaluated, StepDone, Warned
from hart_studio.runs.launcher import request_stop
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import drop_superseded, read_events
from hart_studio.runs.rollouts import list_rollout_steps, read_groups
from hart_studio.runs.status import read_status, record_signal
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.training import hart_trainer, held_out_evaluation
from hart_studio.training.train import explain_out_of_memory, run
from tests.integration.training_runs import ScriptedPolicy, small_config, write_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]


def start(config: RunConfig, root: Path) -> RunLayout:
    return create_run(root, "training", config, config.method.stages, config.total_steps)


def losses(layout: RunLayout) -> list[tuple[int, float | None, float | None]]:
    """Step, loss and norm of the gradient of every step, without those that were done again."""
    events = drop_superseded(read_events(layout).events)
    return [
        (event.step, event.payload.metrics["loss"], event.payload.metrics["grad_norm"])
        for event in events
        if isinstance(event.payload, StepDone)
    ]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ask for a stop once a step is logged; it takes effect at the end of the next one."""
    log_step = RunWriter.log_step

    def log_and_ask(self: RunWriter, done: int, stage: str, metrics: Any) -> None:
        log_step(self, done, stage, metrics)
        if done == step:
            self.layout.stop.touch()

    monkeypatch.setattr(RunWriter, "log_step", log_and_ask)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(str(folder), device="cpu").model.state_dict())


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data", 10)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hart_trainer, "TrainableModel", ScriptedPolicy)


@pytest.mark.core
def test_a_stopped_run_resumes_exactly(
    tiny_folder: Callable[[str], Path], jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripted: None
) -> None:
    config = small_config(
        tiny_folder("qwen2_5_vl"),
        "ap_grpo+sft",
        data={"source": "jsonl", "path": str(jsonl)},
        schedule={"rl_steps": 3, "sft_steps": 1},
    )
    whole, parts = start(config, tmp_path / "whole"), start(config, tmp_path / "parts")
    run(config, whole.folder)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert run(config, parts.folder).step == 2
    assert run(config, parts.folder, resume=True).step == 4
    assert losses(parts) == losses(whole)
    assert any(norm for _, _, norm in losses(whole)[2:3]), "the resumed step learns from rewards"
    one, other = weights(whole.folder / "model"), weights(parts.folder / "model")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_was_stopped_and_resumed_is_the_uninterrupted_one(
    tiny_folder: Callable[[str], Path],
    jsonl: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scripted: None,
) -> None:
    config = small_config(
        tiny_folder("qwen2_5_vl"),
        "sft+ap_grpo",
        data={"source": "jsonl", "path": str(jsonl), "eval_samples": 2},
        model={"lora": "on"},
        schedule={"rl_steps": 4, "sft_steps": 4, "rollout_log_steps": 1, "eval_steps": 4},
    )
    whole = start(config, tmp_path / "whole")
    result = run(config, whole.folder)
    assert (result.step, result.model) == (8, whole.folder / "model")
    parts = start(config, tmp_path / "parts")
    for step in (1, 5):  # once in each stage
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            stopped = run(config, parts.folder, resume=True)
        assert (stopped.step, stopped.model) == (step + 1, None)
        assert read_status(parts).state == "stopped"
    assert run(config, parts.folder, resume=True).step == 8
    assert losses(parts) == losses(whole)
    assert [step for step, *_ in losses(whole)] == list(range(1, 9))
    assert any(norm for _, _, norm in losses(whole)[:4]) and any(norm for _, _, norm in losses(whole)[4:])
    one, other = weights(whole.folder / "model"), weights(parts.folder / "model")
    assert all(torch.equal(one[name], other[name]) for name in one)
    base = weights(tiny_folder("qwen2_5_vl"))
    assert any(not torch.equal(one[name], base[name]) for name in base)
    kept = [found.manifest.step for found in list_checkpoints(parts) if found.manifest.is_kept]
    assert kept == [4, 8]
    assert not (parts.checkpoint_of(8) / "training_args.bin").exists()
    AutoModelForImageTextToText.from_pretrained(whole.folder / "model", local_files_only=True)
    figures = [event.payload.metrics for event in read_events(whole).events if isinstance(event.payload, Evaluated)]
    assert len(figures) == 3 and {"accuracy", "iog_above_0.3", "iou"} <= figures[0].keys()
    assert all(("area_share" in each) == (each["valid_box_rate"] > 0) for each in figures), "no box has no area"
    assert list_rollout_steps(whole) == [5, 6, 7, 8]
    groups = read_groups(whole, list_rollout_steps(whole)[0])
    assert all(group.group.credits and group.overview for group in groups)
    with pytest.raises(InputError, match="already has checkpoints"):
        run(config, whole.folder)


def test_sampling_goes_on_as_it_would_have(
    tiny_folder: Callable[[str], Path], jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(
        tiny_folder("qwen3_vl"),
        "grpo",
        data={"source": "jsonl", "path": str(jsonl)},
        schedule={"rl_steps": 3, "rollout_log_steps": 1},
    )
    whole, parts = start(config, tmp_path / "whole"), start(config, tmp_path / "parts")
    run(config, whole.folder)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        run(config, parts.folder)
    run(config, parts.folder, resume=True)

    def said(layout: RunLayout) -> list[str]:
        return [
            turn.text
            for step in list_rollout_steps(layout)
            for group in read_groups(layout, step)
            for rollout in group.group.rollouts
            for turn in rollout.turns
        ]

    assert said(parts) == said(whole)
    assert len(set(said(whole))) > 10


def test_a_signal_lets_the_step_finish_and_saves(
    tiny_folder: Callable[[str], Path], jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripted: None
) -> None:
    config = small_config(
        tiny_folder("qwen3_vl"), data={"source": "jsonl", "path": str(jsonl)}, schedule={"rl_steps": 3}
    )
    layout = start(config, tmp_path)
    log_step = RunWriter.log_step

    def log_and_signal(self: RunWriter, done: int, stage: str, metrics: Any) -> None:
        log_step(self, done, stage, metrics)
        if done == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunWriter, "log_step", log_and_signal)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            run(config, layout.folder)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [found.manifest.step for found in list_checkpoints(layout)] == [2]
    status = read_status(layout)
    assert (status.state, status.exit_code, status.step) == ("stopped", 130, 2)


def test_a_run_that_was_asked_to_stop_and_saved_has_just_stopped_also_when_it_was_signalled(
    tiny_folder: Callable[[str], Path], jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(
        tiny_folder("qwen2_5_vl"), "sft", data={"source": "jsonl", "path": str(jsonl)}, schedule={"sft_steps": 3}
    )
    layout = start(config, tmp_path)
    log_step = RunWriter.log_step

    def log_and_lose_patience(self: RunWriter, done: int, stage: str, metrics: Any) -> None:
        log_step(self, done, stage, metrics)
        if done == 1:
            request_stop(layout)
            record_signal(layout, signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RunWriter, "log_step", log_and_lose_patience)
    result = run(config, layout.folder)
    assert (result.step, result.model) == (2, None)
    assert [found.manifest.step for found in list_checkpoints(layout)] == [2]
    status = read_status(layout)
    assert (status.state, status.exit_code, status.error) == ("stopped", 0, "")


@pytest.fixture
def long_measuring(
    tiny_folder: Callable[[str], Path], jsonl: Path, scripted: None, monkeypatch: pytest.MonkeyPatch
) -> RunConfig:
    """Two stages of two steps, each measured at its end, on held-out questions that go into two batches."""
    monkeypatch.setattr(held_out_evaluation, "BATCH_SIZE", 1)
    return small_config(
        tiny_folder("qwen2_5_vl"),
        "ap_grpo+sft",
        data={"source": "jsonl", "path": str(jsonl), "rl_samples": 2, "sft_samples": 2, "eval_samples": 2},
        schedule={"eval_steps": 100},
    )


def stop_while_measuring(monkeypatch: pytest.MonkeyPatch, step: int) -> list[tuple[int, str]]:
    """Ask for a stop when the first batch of the evaluation at a step is done; returns (step, phase) of all reports."""
    reports: list[tuple[int, str]] = []
    set_phase = RunWriter.set_phase

    def record_and_request(self: RunWriter, phase: str) -> None:
        set_phase(self, phase)
        now = read_status(self.layout)
        reports.append((now.step, now.phase))
        if now.step == step and phase.startswith("evaluating held-out questions, 1 of"):
            self.layout.stop.touch()

    monkeypatch.setattr(writer_module, "STATUS_PERIOD_SECONDS", 0.0)
    monkeypatch.setattr(RunWriter, "set_phase", record_and_request)
    return reports


def evaluations(layout: RunLayout) -> list[int]:
    return [event.step for event in read_events(layout).events if isinstance(event.payload, Evaluated)]


def test_a_stop_does_not_wait_for_the_first_evaluation(
    long_measuring: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = start(long_measuring, tmp_path)
    with monkeypatch.context() as patch:
        reports = stop_while_measuring(patch, 0)
        result = run(long_measuring, layout.folder)
    assert reports[:4] == [
        (0, "reading the samples"),
        (0, "loading the model"),
        (0, "evaluating held-out questions, 0 of 2"),
        (0, "evaluating held-out questions, 1 of 2"),
    ]
    assert len(reports) == 4 and (result.step, result.model) == (0, None)
    status = read_status(layout)
    assert (status.state, status.step, status.error, status.phase) == ("stopped", 0, "", "")
    assert not list_checkpoints(layout) and evaluations(layout) == []
    assert run(long_measuring, layout.folder, resume=True).step == 4, "nothing was done, so all of it is done now"
    assert evaluations(layout) == [0, 2, 4]


@pytest.mark.parametrize(("step", "state"), [(2, "stopped"), (4, "completed")])
def test_a_stop_does_not_wait_for_the_evaluation_of_a_stage(
    long_measuring: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, state: str
) -> None:
    layout = start(long_measuring, tmp_path)
    with monkeypatch.context() as patch:
        stop_while_measuring(patch, step)
        result = run(long_measuring, layout.folder)
    assert (result.step, result.model is None, read_status(layout).state) == (step, step < 4, state)
    assert [found.manifest.step for found in list_checkpoints(layout)][-1] == step, "its last step is saved"
    assert step not in evaluations(layout)
    warned = [event.payload.message for event in read_events(layout).events if isinstance(event.payload, Warned)]
    assert warned == [f"the stop request cancelled the evaluation at step {step}: its metrics are missing"]
    if step < 4:
        assert run(long_measuring, layout.folder, resume=True).step == 4
        assert [at for at, *_ in losses(layout)] == [1, 2, 3, 4]


def test_out_of_memory_names_the_knobs() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ModelError, match=r"Lower schedule\.rl_micro_batch_size"), explain_out_of_memory(cpu):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    with pytest.raises(RuntimeError, match="something else"), explain_out_of_memory(cpu):
        raise RuntimeError("something else")


def test_an_adapter_is_no_model_to_begin_with(tmp_path: Path, jsonl: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    config = small_config(tmp_path / "adapter", data={"source": "jsonl", "path": str(jsonl)})
    layout = start(config, tmp_path)
    with pytest.raises(ModelError, match=r"model.id is the adapter"):
        run(config, layout.folder)
    assert read_status(layout).state == "failed"
