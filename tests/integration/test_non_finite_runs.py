"""Runs with NaN or infinite loss, gradient or weights stop with a reason, and keep the last finite checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from hart_studio.models.loading import load_model
from hart_studio.runs.checkpoints import list_checkpoints
from hart_studio.runs.config import RunConfig
from hart_studio.runs.events import CheckpointSaved, StepDone, Warned
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import drop_superseded, read_events
from hart_studio.runs.status import read_status
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.training import hart_trainer
from hart_studio.training.checkpoints import RunCheckpoints
from hart_studio.training.hart_trainer import HartTrainer
from hart_studio.training.non_finite import NonFiniteError
from hart_studio.training.sft import SftTrainer
from hart_studio.training.train import run
from tests.integration.training_runs import ScriptedPolicy, small_config, write_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]

TRAINERS = (HartTrainer, SftTrainer)


def break_steps(monkeypatch: pytest.MonkeyPatch, kind: str, steps: Collection[int]) -> None:
    """Make the loss NaN, the gradient of one of two micro-batches NaN, or a weight infinite in these steps."""
    if kind == "weights":
        check = RunCheckpoints.check_weights

        def break_and_check(self: Any) -> tuple[str, ...]:
            if self.state.global_step in steps:
                weight = next(one for one in self.model.parameters() if one.requires_grad)
                weight.data.view(-1)[0] = math.inf
            return check(self)

        monkeypatch.setattr(RunCheckpoints, "check_weights", break_and_check)
        return
    for trainer in TRAINERS:
        monkeypatch.setattr(trainer, "_chunk_loss", broken_loss(trainer._chunk_loss, kind, steps))


def broken_loss(original: Callable[..., torch.Tensor], kind: str, steps: Collection[int]) -> Callable[..., Any]:
    seen: set[int] = set()

    def chunk_loss(self: Any, *arguments: Any) -> torch.Tensor:
        loss = original(self, *arguments)
        step = self.state.global_step + 1
        if step not in steps:
            return loss
        if kind == "loss":
            return loss + math.nan  # a constant: the gradient stays finite
        if step not in seen:  # the first micro-batch of the step
            seen.add(step)
            loss.register_hook(lambda gradient: gradient * math.nan)
        return loss

    return chunk_loss


@pytest.fixture
def make_config(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunConfig]:
    monkeypatch.setattr(hart_trainer, "TrainableModel", ScriptedPolicy)
    jsonl = write_jsonl(tmp_path / "data", 10)

    def make(stages: str, **sections: dict[str, Any]) -> RunConfig:
        values: dict[str, dict[str, Any]] = {
            "data": {"source": "jsonl", "path": str(jsonl)},
            "optim": {"max_nonfinite_steps": 2},
            "schedule": {"rl_steps": 4, "sft_steps": 4, "save_steps": 1, "save_total_limit": 1},
        }
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section}
        return small_config(tiny_folder("qwen2_5_vl"), stages, **values)

    return make


def start(config: RunConfig, root: Path) -> RunLayout:
    return create_run(root, "training", config, config.method.stages, config.total_steps)


def steps_of(layout: RunLayout) -> list[tuple[int, float | None]]:
    events = drop_superseded(read_events(layout).events)
    return [(event.step, event.payload.metrics["loss"]) for event in events if isinstance(event.payload, StepDone)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(str(folder), device="cpu").model.state_dict())


@pytest.mark.parametrize(
    ("stages", "kind", "what", "lora"),
    [
        ("ap_grpo", "loss", "loss", "off"),
        ("mgpo", "gradient", "gradient norm", "off"),
        ("sft", "gradient", "gradient norm", "on"),
        ("sft", "weights", "weights", "off"),
    ],
)
def test_a_run_stops_after_non_finite_steps_in_a_row_and_goes_on_from_the_last_finite_checkpoint(
    make_config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stages: str,
    kind: str,
    what: str,
    lora: str,
) -> None:
    config = make_config(stages, model={"lora": lora})
    broken = start(config, tmp_path / "broken")
    with monkeypatch.context() as patch:
        break_steps(patch, kind, range(2, 100))
        with pytest.raises(NonFiniteError):
            run(config, broken.folder)
    status = read_status(broken)
    assert (status.state, status.exit_code, status.step) == ("failed", 1, 3)
    assert what in status.error and "step 3" in status.error and "since step 2" in status.error
    assert "learning_rate (now 0.001)" in status.error and "dtype=float32" in status.error
    assert "step 1 is the last finite checkpoint" in status.error
    assert [found.manifest.step for found in list_checkpoints(broken)] == [1]
    saved = [event.step for event in read_events(broken).events if isinstance(event.payload, CheckpointSaved)]
    assert saved == [1], "no checkpoint of a non-finite step was ever complete"
    assert all(torch.isfinite(weight).all() for weight in weights(broken.checkpoint_of(1)).values())
    assert not (broken.folder / "model").exists()

    assert run(config, broken.folder, resume=True).step == 4
    if stages != "sft":
        return
    whole = start(config, tmp_path / "whole")
    run(config, whole.folder)
    assert steps_of(broken) == steps_of(whole)
    one, other = weights(broken.folder / "model"), weights(whole.folder / "model")
    assert all(torch.equal(one[name], other[name]) for name in one), "the broken steps left no trace"


def test_a_single_non_finite_step_is_skipped(
    make_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("sft", schedule={"sft_steps": 4, "save_total_limit": 9})
    layout = start(config, tmp_path)
    break_steps(monkeypatch, "gradient", {2})
    assert run(config, layout.folder).step == 4
    assert read_status(layout).state == "completed"
    assert [found.manifest.step for found in list_checkpoints(layout)] == [1, 3, 4]
    assert all(torch.isfinite(weight).all() for weight in weights(layout.folder / "model").values())
    warned = [event.payload.message for event in read_events(layout).events if isinstance(event.payload, Warned)]
    assert "step 2: gradient norm not finite; its update is skipped, and no checkpoint is saved" in warned


def test_zero_never_stops_and_weights_stay_as_they_were(
    make_config: Callable[..., RunConfig],
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config("sft", optim={"max_nonfinite_steps": 0}, schedule={"sft_steps": 3})
    layout = start(config, tmp_path)
    break_steps(monkeypatch, "gradient", range(1, 100))
    assert run(config, layout.folder).step == 3
    base, trained = weights(tiny_folder("qwen2_5_vl")), weights(layout.folder / "model")
    assert all(torch.equal(base[name], trained[name]) for name in base)


def test_no_stage_ends_on_weights_that_are_not_finite(
    make_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("sft", optim={"max_nonfinite_steps": 0}, schedule={"sft_steps": 3})
    layout = start(config, tmp_path)
    break_steps(monkeypatch, "weights", {3})
    with pytest.raises(NonFiniteError, match="step 3: weights not finite"):
        run(config, layout.folder)
    assert read_status(layout).state == "failed"
    assert [found.manifest.step for found in list_checkpoints(layout)] == [2]
    assert not (layout.folder / "model").exists()


@pytest.mark.parametrize(("kind", "kept"), [("gradient", [1, 2]), ("weights", [1])])
def test_a_stop_in_a_non_finite_step_saves_finite_weights_only(
    make_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, kept: list[int]
) -> None:
    config = make_config("sft", optim={"max_nonfinite_steps": 9}, schedule={"sft_steps": 4})
    layout = start(config, tmp_path)
    log_step = RunWriter.log_step

    def log_and_ask(self: RunWriter, done: int, stage: str, metrics: Any) -> None:
        log_step(self, done, stage, metrics)
        if done == 1:
            self.layout.stop.touch()

    monkeypatch.setattr(RunWriter, "log_step", log_and_ask)
    break_steps(monkeypatch, kind, {2})
    assert run(config, layout.folder).model is None
    assert read_status(layout).state == "stopped"
    assert [found.manifest.step for found in list_checkpoints(layout)] == kept, "the finite one is not pushed out"
