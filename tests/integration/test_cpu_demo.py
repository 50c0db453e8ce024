"""The unmodified CPU preset: reward improves, the model loads, and a stopped run resumes."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, variance

import pytest

from hart_studio.models.loading import load_model
from hart_studio.runs.checkpoints import newest_checkpoint
from hart_studio.runs.events import StepDone
from hart_studio.runs.presets import DEFAULT_PRESET, get_preset
from hart_studio.runs.reader import drop_superseded, read_events
from hart_studio.runs.status import read_status
from hart_studio.runs.writer import create_run
from hart_studio.training.train import run
from tests.integration.test_training_run import stop_after

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_the_demo_learns_and_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = get_preset(DEFAULT_PRESET).config
    layout = create_run(tmp_path, "training", config, config.method.stages, config.total_steps)
    half = config.total_steps // 2
    with monkeypatch.context() as patch:
        stop_after(patch, half - 1)
        stopped = run(config, layout.folder)
    assert (stopped.step, stopped.model, read_status(layout).state) == (half, None, "stopped")
    saved = newest_checkpoint(layout)
    assert saved is not None and saved.manifest.step == half
    load_model(str(saved.folder), device="cpu")
    done = run(config, layout.folder, resume=True)
    assert done.step == config.total_steps and done.model is not None
    load_model(str(done.model), device="cpu")
    events = drop_superseded(read_events(layout).events)
    rewards = [event.payload.metrics["reward"] for event in events if isinstance(event.payload, StepDone)]
    assert len(rewards) == config.total_steps
    first, last = ([value for value in part if value is not None] for part in thirds(rewards))
    noise = (variance(first) / len(first) + variance(last) / len(last)) ** 0.5
    gain = fmean(last) - fmean(first)
    assert gain > 2 * noise, f"reward {fmean(first):.3f} -> {fmean(last):.3f}, standard error {noise:.3f}"


def thirds(values: list[float | None]) -> tuple[list[float | None], list[float | None]]:
    """Means of the first and the last third."""
    size = len(values) // 3
    return values[:size], values[-size:]
