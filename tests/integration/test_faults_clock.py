"""Clock changes by years: no run is lost, ids stay unique, and claims expire."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from hart_studio.labeling.item_locks import ITEM_LOCK_SECONDS, ConflictError
from hart_studio.labeling.review import ReviewQueue
from hart_studio.runs import layout as run_layout
from hart_studio.runs import writer
from hart_studio.runs.config import RunConfig
from hart_studio.runs.events import StepDone
from hart_studio.runs.processes import get_process_start
from hart_studio.runs.reader import list_runs, read_events
from hart_studio.runs.status import get_state, read_status, write_status
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.ui.api.handler import call_handler
from hart_studio.ui.api.runs import RunMonitor
from hart_studio.ui.security.rate_limiter import RateLimiter
from tests.integration.test_labeling_kills import make_project
from tests.unit.labeling.conftest import add_label

YEAR = timedelta(days=365).total_seconds()


@pytest.fixture
def put_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``put_clock(seconds)``: shift the wall clock from now on; the monotonic clock continues."""
    now, offset = time.time, [0.0]

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: timezone | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(now() + offset[0], tz)

    monkeypatch.setattr(time, "time", lambda: now() + offset[0])
    for module in (run_layout, writer, *(__import__(f"hart_studio.{name}", fromlist=["x"]) for name in MODULES)):
        monkeypatch.setattr(module, "datetime", Shifted)
    return lambda seconds: offset.__setitem__(0, seconds)


MODULES = ("runs.events", "runs.launcher", "runs.checkpoints", "ui.api.runs", "labeling.review", "labeling.project")


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_run_goes_on_through_a_jump(tmp_path: Path, put_clock: Callable[[float], None], jump: float) -> None:
    config = RunConfig()
    layout = create_run(tmp_path, "training", config, "ap_grpo", 4)
    watch = RunMonitor(tmp_path, tmp_path / "served")
    with RunWriter(layout, total=4) as run:
        run.log_step(1, "ap_grpo", {"loss": 1.0})
        put_clock(jump)
        assert get_state(layout)[0] == "running", "the state of a run does not depend on the clock"
        shown = call_handler(watch.poll, {"run": layout.run_id})
        assert shown is not None and shown["status"]["state"] == "running" and shown["status"]["age"] >= 0
        run.log_step(2, "ap_grpo", {"loss": 1.0})
        with run.saving_checkpoint(2, "ap_grpo") as folder:
            (folder / "weights").write_text("w")
        assert get_state(layout)[0] == "running"
        put_clock(0)
        run.log_step(3, "ap_grpo", {"loss": 1.0})
        run.log_step(4, "ap_grpo", {"loss": 1.0})
    assert get_state(layout)[0] == "completed"
    events = read_events(layout).events
    assert [event.seq for event in events] == list(range(len(events)))
    assert [event.step for event in events if isinstance(event.payload, StepDone)] == [1, 2, 3, 4]


def test_runs_of_one_moment_and_of_a_moment_that_comes_again_are_all_there(
    tmp_path: Path, put_clock: Callable[[float], None]
) -> None:
    config, made = RunConfig(), []
    for jump in (0.0, YEAR, -YEAR, 0.0):
        put_clock(jump)
        made += [create_run(tmp_path, "training", config, "ap_grpo", 1).run_id for _ in range(5)]
    assert len(set(made)) == 20
    assert {run.layout.run_id for run in list_runs(tmp_path)} == set(made)
    assert all(run.state == "queued" for run in list_runs(tmp_path))


@pytest.mark.parametrize("days", [-4000, 4000])
def test_a_heartbeat_of_another_time_is_no_sign_of_death(tmp_path: Path, days: int) -> None:
    layout = create_run(tmp_path, "training", RunConfig(), "ap_grpo", 4)
    beat = datetime.now(UTC) + timedelta(days=days)
    write_status(
        layout,
        read_status(layout).replace(
            state="running", pid=os.getpid(), pid_start=get_process_start(os.getpid()), attempt=1, heartbeat=beat
        ),
    )
    assert [run.state for run in list_runs(tmp_path)] == ["running"]


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_claim_ends_and_no_decision_is_lost(tmp_path: Path, put_clock: Callable[[float], None], jump: float) -> None:
    project = make_project(tmp_path, 2)
    for item in list(project.items()):
        add_label(project, item.id, score=0.5)
    queue = ReviewQueue(project)
    held = queue.next_item("Ada")
    assert held is not None
    with pytest.raises(ConflictError, match="Ada has this item open"):
        queue.open_item("Bob", held.id)
    put_clock(jump)
    assert queue.open_item("Bob", held.id).id == held.id, "a claim that ends in a year would be one for ever"
    queue.decide("Bob", held.id, held.label.revision, "accept")
    put_clock(jump + 2 * ITEM_LOCK_SECONDS)
    with pytest.raises(ConflictError):
        queue.decide("Ada", held.id, held.label.revision, "reject")
    assert project.item(held.id).label.reviewer == "Bob"


def test_guesses_are_slowed_down_all_the_same(put_clock: Callable[[float], None]) -> None:
    throttle = RateLimiter(tries=2)
    for jump in (0.0, YEAR):
        put_clock(jump)
        assert throttle.admit("10.0.0.1")
    for jump in (YEAR, -YEAR, 2 * YEAR):
        put_clock(jump)
        assert not throttle.admit("10.0.0.1")
