from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from hart_studio.runs import launcher, stopping
from hart_studio.runs.launcher import request_stop, start_run
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.processes import is_alive
from hart_studio.runs.reader import read_events
from hart_studio.runs.status import RunStatus, get_state, read_status, record_signal
from hart_studio.runs.stopping import SAVE_SECONDS, resume_stop, stop_in_background
from tests.unit.runs.conftest import wait_until

WORK = """
import sys, time
from pathlib import Path
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.writer import RunWriter
with RunWriter(RunLayout(Path(sys.argv[1])), total=3) as run:
    run.log_step(1, "", {})
    while not run.is_stop_requested:
        time.sleep(0.02)
"""


@pytest.fixture
def start(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], RunStatus]]:
    monkeypatch.setattr(launcher, "_WATCH_SECONDS", 60.0)  # a busy machine takes its time

    def run() -> RunStatus:
        start_run(layout, [sys.executable, "-c", WORK, str(layout.folder)])
        wait_until(lambda: read_events(layout).events)
        return read_status(layout)

    yield run
    status = read_status(layout)
    if status.pid and is_alive(status.pid, status.pid_start):
        os.kill(status.pid, signal.SIGKILL)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds to save of every stop that was begun."""
    seconds: list[float] = []
    monkeypatch.setattr(stopping, "stop_run", lambda layout, left: (seconds.append(left), time.sleep(0.2)))
    return seconds


def make_old(layout: RunLayout, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(layout.stop, (then, then))


def test_a_run_that_listens_saves_and_stops(layout: RunLayout, start: Callable[[], RunStatus]) -> None:
    start()
    stop_in_background(layout)
    wait_until(lambda: not read_status(layout).is_active)
    status = read_status(layout)
    assert (status.state, status.error) == ("stopped", "")


def test_a_process_that_hangs_is_ended_when_it_is_asked_again(
    layout: RunLayout, start: Callable[[], RunStatus], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = stopping.stop_run
    monkeypatch.setattr(stopping, "stop_run", lambda layout, left: plain(layout, left, end_seconds=0.5))
    status = start()
    assert status.pid is not None
    os.kill(status.pid, signal.SIGSTOP)
    stop_in_background(layout)
    time.sleep(0.5)
    assert get_state(layout)[0] == "stopping"
    stop_in_background(layout, now=True)
    wait_until(lambda: not is_alive(status.pid, status.pid_start))
    wait_until(lambda: get_state(layout)[0] == "stopped")


def test_a_stop_of_an_earlier_server_goes_on(
    layout: RunLayout, start: Callable[[], RunStatus], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = stopping.stop_run
    monkeypatch.setattr(stopping, "stop_run", lambda layout, left: plain(layout, left, end_seconds=0.5))
    status = start()
    assert status.pid is not None
    os.kill(status.pid, signal.SIGSTOP)
    request_stop(layout)
    make_old(layout, SAVE_SECONDS["training"] + 1)
    resume_stop(layout)
    wait_until(lambda: get_state(layout)[0] == "stopped")


def test_the_time_to_save_counts_from_the_request(layout: RunLayout, asked: list[float]) -> None:
    request_stop(layout)
    make_old(layout, 600)
    request_stop(layout)  # again: the first one counts
    resume_stop(layout)
    resume_stop(layout)  # one thread is enough
    wait_until(lambda: asked)
    time.sleep(0.3)
    (left,) = asked
    assert SAVE_SECONDS["training"] - 610 < left <= SAVE_SECONDS["training"] - 599


def test_a_run_that_was_signaled_already_gets_no_more_time(layout: RunLayout, asked: list[float]) -> None:
    request_stop(layout)
    record_signal(layout, signal.SIGTERM)
    resume_stop(layout)
    wait_until(lambda: asked)
    assert asked == [0.0]


def test_a_clock_that_was_put_back_gives_no_more_than_the_whole_time(layout: RunLayout, asked: list[float]) -> None:
    request_stop(layout)
    make_old(layout, -86_400)
    resume_stop(layout)
    wait_until(lambda: asked)
    assert asked == [SAVE_SECONDS["training"]]


def test_a_run_that_no_one_asked_to_stop_goes_on(layout: RunLayout, asked: list[float]) -> None:
    resume_stop(layout)
    resume_stop(RunLayout(layout.folder / "gone"))
    time.sleep(0.1)
    assert not asked
    assert not layout.stop.exists()
