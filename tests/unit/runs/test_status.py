from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import DataError, InputError
from hart_studio.runs import status as status_module
from hart_studio.runs.launcher import request_stop
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.processes import get_process_start
from hart_studio.runs.status import (
    RunStatus,
    check_startable,
    get_state,
    read_status,
    record_signal,
    recorded_signals,
    write_status,
)

OWN: dict[str, Any] = {"pid": os.getpid(), "pid_start": get_process_start(os.getpid())}
GONE: dict[str, Any] = {"pid": os.getpid(), "pid_start": "an earlier process of the same number"}


def write(layout: RunLayout, **fields: Any) -> RunStatus:
    status = RunStatus(job="training", total=10, **fields)
    write_status(layout, status)
    return status


def test_round_trip(layout: RunLayout) -> None:
    status = write(layout, state="failed", attempt=2, step=3, exit_code=-9, error="memory ran out", **OWN)
    assert read_status(layout) == status
    assert status.replace(step=4).step == 4
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        status.replace(step=-1)


@pytest.mark.parametrize("state", ["queued", "running", "stopping"])
def test_lost_is_derived_from_number_and_start(layout: RunLayout, state: str) -> None:
    write(layout, state=state, attempt=1, **OWN)
    assert get_state(layout)[0] == state
    write(layout, state=state, attempt=1, **GONE)
    assert get_state(layout)[0] == "lost"
    assert read_status(layout).state == state, "lost is never written"


@pytest.mark.parametrize("state", ["completed", "stopped", "failed"])
def test_a_run_that_ended_keeps_its_state(layout: RunLayout, state: str) -> None:
    write(layout, state=state, attempt=1, **GONE)
    layout.stop.touch()
    assert get_state(layout)[0] == state


def test_a_run_that_no_one_started_is_queued(layout: RunLayout) -> None:
    assert get_state(layout)[0] == "queued"
    assert check_startable(layout).attempt == 0


def test_a_running_job_that_is_asked_to_stop_is_stopping_at_once(layout: RunLayout) -> None:
    write(layout, state="running", attempt=1, **OWN)
    layout.stop.touch()
    assert get_state(layout)[0] == "stopping"


def test_who_stops_a_run_notes_the_signals_that_it_sends(layout: RunLayout, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        record_signal(layout, signal.SIGTERM)
    assert recorded_signals(layout) == frozenset() and not layout.stop.exists(), "a note is no wish for a stop"
    layout.stop.touch()
    assert recorded_signals(layout) == frozenset()
    record_signal(layout, signal.SIGTERM)
    assert recorded_signals(layout) == {signal.SIGTERM}
    record_signal(layout, signal.SIGKILL)
    record_signal(layout, signal.SIGTERM)  # by one who is slower
    request_stop(layout)
    assert recorded_signals(layout) == {signal.SIGTERM, signal.SIGKILL}
    layout.stop.write_bytes(b"\xff SIGNAL now")
    assert recorded_signals(layout) == frozenset()
    layout.stop.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("SIGTERM")
    layout.stop.symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic"):
        record_signal(layout, signal.SIGKILL)
    assert recorded_signals(layout) == frozenset() and elsewhere.read_text() == "SIGTERM"


def test_a_job_that_ends_between_two_reads_is_not_lost(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    write(layout, state="running", attempt=1, **OWN)

    def die_well(pid: int, start: str) -> bool:
        write(layout, state="completed", attempt=1, **OWN)
        return False

    monkeypatch.setattr(status_module, "is_alive", die_well)
    assert get_state(layout)[0] == "completed"


def test_an_attempt_that_begins_between_two_reads_is_seen(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    write(layout, state="running", attempt=1, **GONE)

    def next_attempt(pid: int, start: str) -> bool:
        write(layout, state="queued", attempt=2, **OWN)
        return start == OWN["pid_start"]

    monkeypatch.setattr(status_module, "is_alive", next_attempt)
    state, status = get_state(layout)
    assert (state, status.attempt) == ("queued", 2)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"job": "training", "state": "lost", "total": 1}', "[]"])
def test_a_status_that_is_none(layout: RunLayout, content: str) -> None:
    layout.status.write_text(content)
    with pytest.raises(DataError, match="json is damaged"):
        read_status(layout)


def test_a_folder_without_status(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_status(RunLayout(tmp_path))


def test_who_may_start(layout: RunLayout) -> None:
    for state in ("queued", "running", "stopping"):
        write(layout, state=state, attempt=1, **OWN)
        with pytest.raises(InputError, match=f"process {os.getpid()}.. Stop it first"):
            check_startable(layout)
        write(layout, state=state, attempt=1, **GONE)
        assert check_startable(layout).attempt == 1
    for state in ("stopped", "failed"):
        write(layout, state=state, attempt=3, **GONE)
        assert check_startable(layout).attempt == 3
    write(layout, state="completed", attempt=1, **GONE)
    with pytest.raises(InputError, match=r"is completed. Start a new run"):
        check_startable(layout)
