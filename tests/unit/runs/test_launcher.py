from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.runs import launcher
from hart_studio.runs.events import Finished
from hart_studio.runs.launcher import SAVE_SECONDS, request_stop, resume_stop, start_run, stop_in_background, stop_run
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.processes import get_process_start, is_alive
from hart_studio.runs.queue import LaunchPlan, enqueue_launch
from hart_studio.runs.reader import read_events, read_log
from hart_studio.runs.status import RunStatus, get_state, read_status, record_signal, recorded_signals, write_status
from hart_studio.runs.writer import KILLED_ON_REQUEST
from tests.unit.runs.conftest import wait_until

WORK = """
import os, signal, sys, time
from pathlib import Path
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.writer import RunWriter
layout, habit = RunLayout(Path(sys.argv[1])), sys.argv[2]
with RunWriter(layout, total=3) as run:
    if habit == "finish":
        print("x" * 200_000 + "end", os.getsid(0) == os.getpid(), os.environ["SHADE"])
        run.log_step(3, "", {})
    elif habit == "yielding":
        run.mark_stopping()
    elif habit == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif habit == "slow":
        received = []
        signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    run.log_step(1, "", {}) if habit != "finish" else None
    while habit in ("busy", "deaf", "yielding") or (habit == "polite" and not run.is_stop_requested):
        time.sleep(0.02)
    if habit == "slow":
        while not received:
            time.sleep(0.02)
        assert run.is_stop_requested
if habit == "polite":
    last = layout.folder / "lingers"
    while last.exists():
        time.sleep(0.02)
"""

LAUNCH = """
import sys
from pathlib import Path
from hart_studio.runs.launcher import start_run
from hart_studio.runs.layout import RunLayout
start_run(RunLayout(Path(sys.argv[1])), [sys.executable, "-c", sys.argv[2], sys.argv[1], sys.argv[3]])
"""


@pytest.fixture
def start(layout: RunLayout) -> Callable[[str], RunStatus]:
    """Start the job with one of the habits of ``WORK`` and wait until it works."""

    def run(habit: str) -> RunStatus:
        status = start_run(layout, [sys.executable, "-c", WORK, str(layout.folder), habit], {"SHADE": "blue"})
        if habit != "finish":
            wait_until(lambda: read_events(layout).events)
        return status

    return run


@pytest.fixture(autouse=True)
def no_job_is_left(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launcher, "_WATCH_SECONDS", 60.0)  # a busy machine takes its time
    yield
    status = read_status(layout)
    if status.pid and status.pid_start and is_alive(status.pid, status.pid_start) and status.pid != os.getpid():
        os.kill(status.pid, signal.SIGKILL)


def wait_for_end(layout: RunLayout) -> RunStatus:
    wait_until(lambda: not read_status(layout).is_active)
    return read_status(layout)


def test_a_job_runs_in_its_own_session_and_prints_into_its_log(
    layout: RunLayout, start: Callable[[str], RunStatus]
) -> None:
    queued = start("finish")
    assert (queued.state, queued.attempt, queued.total) == ("queued", 1, 10)
    status = wait_for_end(layout)
    assert (status.state, status.exit_code, status.attempt, status.pid) == ("completed", 0, 1, queued.pid)
    text = read_log(layout, 1).text
    assert text.startswith(f"$ {sys.executable} -c ")
    assert text.endswith("xend True blue\n"), "more than a pipe holds, and no one had to read it"
    with pytest.raises(InputError, match="is completed"):
        start("finish")


def test_a_job_that_dies_before_it_can_write_is_failed(layout: RunLayout) -> None:
    start_run(layout, [sys.executable, "-c", "import sys; print('no such model'); sys.exit(3)"])
    status = wait_for_end(layout)
    assert (status.state, status.exit_code) == ("failed", 3)
    assert status.error == "ended with exit code 3; see the end of logs/attempt_1.log"
    assert read_log(layout, 1).text.endswith("no such model\n")
    assert read_events(layout).events[-1].payload == Finished(state="failed", exit_code=3, error=status.error)


def test_a_job_that_is_killed_is_failed_and_the_next_attempt_goes_on(
    layout: RunLayout, start: Callable[[str], RunStatus]
) -> None:
    pid = start("busy").pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    status = wait_for_end(layout)
    assert (status.state, status.exit_code) == ("failed", -9)
    assert status.error.startswith("ended by SIGKILL, which often means out of memory; ")
    second = start("finish")
    assert second.attempt == 2
    assert wait_for_end(layout).state == "completed"
    assert sorted(path.name for path in layout.logs.iterdir()) == ["attempt_1.log", "attempt_2.log"]
    assert [event.seq for event in read_events(layout).events] == list(range(4))


def test_two_clicks_start_one_job(layout: RunLayout) -> None:
    outcomes: list[object] = []
    gate = threading.Barrier(2)

    def click() -> None:
        gate.wait()
        try:
            outcomes.append(start_run(layout, [sys.executable, "-c", WORK, str(layout.folder), "polite"]).attempt)
        except InputError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=click) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 in outcomes
    assert sum("Stop it first" in str(outcome) for outcome in outcomes) == 1
    with pytest.raises(InputError, match="Stop it first"):
        start_run(layout, [sys.executable, "-c", "0"])
    assert stop_run(layout, save_seconds=120) == "stopped"
    assert read_status(layout).attempt == 1


def test_a_job_that_is_asked_saves_and_stops(layout: RunLayout, start: Callable[[str], RunStatus]) -> None:
    start("polite")
    request_stop(layout)
    assert stop_run(layout, save_seconds=120) == "stopped"
    assert (read_status(layout).exit_code, read_status(layout).error) == (0, "")
    assert stop_run(layout) == "stopped", "a second time does no harm"


def test_what_waits_for_its_next_attempt_is_not_ended_by_the_last_one(
    layout: RunLayout, start: Callable[[str], RunStatus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_WATCH_SECONDS", 1.0)  # the next attempt keeps the run active all that time
    (layout.folder / "lingers").touch()  # a process takes a while to end after it has said that it stopped
    status = start("polite")
    stopping = threading.Thread(target=stop_run, args=(layout, 20.0))
    stopping.start()
    wait_until(lambda: read_status(layout).state == "stopped")
    enqueue_launch(layout, LaunchPlan(argv=("python",)))
    (layout.folder / "lingers").unlink()
    stopping.join(30.0)
    wait_until(lambda: not is_alive(status.pid, status.pid_start))
    time.sleep(0.5)  # for the thread that waits for the process
    assert read_status(layout).state == "queued"
    ends = [event.payload for event in read_events(layout).events if isinstance(event.payload, Finished)]
    assert ends == [Finished(state="stopped", exit_code=0)]


def test_a_job_that_does_not_listen_is_ended_and_no_other(
    layout: RunLayout, start: Callable[[str], RunStatus], spawn: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    bystander = spawn("import time; time.sleep(600)", str(layout.folder), "busy")
    status = start("busy")
    assert stop_run(layout, save_seconds=0, end_seconds=120) == "stopped"
    ended = read_status(layout)
    assert (ended.exit_code, ended.error) == (143, KILLED_ON_REQUEST), "its end was asked for, so it is no failure"
    assert not is_alive(status.pid, status.pid_start)
    assert bystander.poll() is None


def test_a_job_that_ignores_sigterm_is_killed(layout: RunLayout, start: Callable[[str], RunStatus]) -> None:
    status = start("deaf")
    assert stop_run(layout, save_seconds=0, end_seconds=1) == "stopped"
    assert not is_alive(status.pid, status.pid_start)
    ended = read_status(layout)
    assert (ended.state, ended.exit_code, ended.error) == ("stopped", -9, KILLED_ON_REQUEST)


def test_a_job_that_saves_after_all_once_it_is_signalled_has_just_stopped(
    layout: RunLayout, start: Callable[[str], RunStatus]
) -> None:
    start("slow")
    assert stop_run(layout, save_seconds=0, end_seconds=120) == "stopped"
    ended = read_status(layout)
    assert (ended.state, ended.exit_code, ended.error) == ("stopped", 0, "")


@pytest.mark.parametrize(
    ("number", "state", "exit_code", "error"),
    [
        (signal.SIGKILL, "failed", -9, "ended by SIGKILL, which often means out of memory; see the end of logs/"),
        (signal.SIGSEGV, "failed", -11, "ended by SIGSEGV; see the end of logs/"),
        (signal.SIGTERM, "stopped", 143, "ended by SIGTERM"),
    ],
)
def test_what_ends_a_job_that_was_to_save_is_reported(
    layout: RunLayout,
    start: Callable[[str], RunStatus],
    number: signal.Signals,
    state: str,
    exit_code: int,
    error: str,
) -> None:
    pid = start("busy").pid
    assert pid
    request_stop(layout)
    os.kill(pid, number)
    status = wait_for_end(layout)
    assert (status.state, status.exit_code) == (state, exit_code)
    assert status.error == error + ("attempt_1.log" if state == "failed" else "")


def test_a_kill_by_someone_else_is_reported_also_after_a_job_was_terminated(
    layout: RunLayout, start: Callable[[str], RunStatus]
) -> None:
    pid = start("deaf").pid
    assert pid
    stopping = threading.Thread(target=stop_run, args=(layout, 0.0, 120.0))
    stopping.start()
    wait_until(lambda: recorded_signals(layout) == {signal.SIGTERM})
    os.kill(pid, signal.SIGKILL)
    stopping.join(120)
    status = read_status(layout)
    assert (status.state, status.exit_code) == ("failed", -9)
    assert status.error.startswith("ended by SIGKILL, which often means out of memory; ")


@pytest.mark.parametrize(("is_terminated", "state"), [(True, "stopped"), (False, "failed")])
def test_a_program_with_an_exit_code_of_its_own_has_failed_unless_it_was_terminated(
    layout: RunLayout, tmp_path: Path, is_terminated: bool, state: str
) -> None:
    ready = tmp_path / "ready"
    code = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); "
        "pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    )
    pid = start_run(layout, [sys.executable, "-c", code, str(ready)]).pid
    assert pid
    wait_until(ready.exists)
    if is_terminated:
        assert stop_run(layout, save_seconds=0, end_seconds=120) == "stopped"
    else:
        request_stop(layout)
        os.kill(pid, signal.SIGTERM)
    status = wait_for_end(layout)
    assert (status.state, status.exit_code) == (state, 1)
    assert status.error == "ended with exit code 1; see the end of logs/attempt_1.log"


def test_a_job_that_is_killed_while_it_stops_by_itself_is_stopped(
    layout: RunLayout, start: Callable[[str], RunStatus]
) -> None:
    pid = start("yielding").pid
    assert pid
    wait_until(lambda: read_status(layout).state == "stopping")
    os.kill(pid, signal.SIGKILL)  # as a machine does that goes down and has waited long enough
    status = wait_for_end(layout)
    assert (status.state, status.exit_code) == ("stopped", -9) and not layout.stop.exists()
    assert status.error == "ended by SIGKILL; see the end of logs/attempt_1.log"


def test_a_job_outlives_who_started_it_and_is_found_again(
    layout: RunLayout, spawn: Callable[..., subprocess.Popen[bytes]]
) -> None:
    page = spawn(LAUNCH, str(layout.folder), WORK, "polite")
    assert page.wait(120) == 0
    wait_until(lambda: get_state(layout)[0] == "running")
    assert stop_run(layout, save_seconds=120) == "stopped"
    assert read_status(layout).exit_code == 0


def test_a_killed_job_that_no_one_watched_is_lost_and_can_be_resumed(
    layout: RunLayout, spawn: Callable[..., subprocess.Popen[bytes]], start: Callable[[str], RunStatus]
) -> None:
    assert spawn(LAUNCH, str(layout.folder), WORK, "polite").wait(120) == 0
    wait_until(lambda: read_status(layout).state == "running")
    pid = read_status(layout).pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: get_state(layout)[0] == "lost")
    assert stop_run(layout) == "lost"
    assert start("finish").attempt == 2
    assert wait_for_end(layout).state == "completed"


@pytest.mark.parametrize("is_own", [True, False])
def test_a_job_that_no_one_watched_is_ended_on_request_or_lost(
    layout: RunLayout,
    spawn: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    is_own: bool,
) -> None:
    monkeypatch.setattr(launcher, "_WATCH_SECONDS", 0.0)  # there is no one to wait for
    assert spawn(LAUNCH, str(layout.folder), WORK, "deaf").wait(120) == 0
    wait_until(lambda: read_events(layout).events)
    pid = read_status(layout).pid
    assert pid
    if is_own:
        assert stop_run(layout, save_seconds=0, end_seconds=1) == "stopped"
        assert (read_status(layout).exit_code, read_status(layout).error) == (None, KILLED_ON_REQUEST)
        return
    killing = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
    killing.start()
    assert stop_run(layout, save_seconds=120) == "lost", "no one knows why it is gone"
    killing.join()


def test_the_process_that_got_the_number_of_a_dead_job_is_left_alone(
    layout: RunLayout, spawn: Callable[..., subprocess.Popen[bytes]]
) -> None:
    stranger = spawn("import time; time.sleep(600)")
    write_status(
        layout,
        RunStatus(job="training", state="running", pid=stranger.pid, pid_start="the job's", attempt=1, total=10),
    )
    assert stop_run(layout, save_seconds=0, end_seconds=0) == "lost"
    assert stranger.poll() is None


def test_stopping_a_copy_of_a_running_run_leaves_the_job_of_the_original_alone(
    layout: RunLayout, start: Callable[[str], RunStatus], tmp_path: Path
) -> None:
    start("busy")
    wait_until(lambda: read_status(layout).step == 1)
    copy = RunLayout(tmp_path / "copied" / layout.run_id)
    shutil.copytree(layout.folder, copy.folder)
    assert get_state(copy)[0] == "lost" and get_state(layout)[0] == "running"
    assert stop_run(copy, 0.0, 0.2) == "lost"
    status = read_status(layout)
    assert is_alive(status.pid, status.pid_start) and get_state(layout)[0] == "running"


def test_a_job_of_a_foreign_group_is_asked_but_not_signalled(layout: RunLayout) -> None:
    own = os.getpid()
    write_status(
        layout,
        RunStatus(job="training", state="running", pid=own, pid_start=get_process_start(own), attempt=1, total=10),
    )
    with pytest.raises(InputError, match="shares a process group"):
        stop_run(layout, save_seconds=0, end_seconds=0)
    assert layout.stop.exists() and not recorded_signals(layout), "no signal was sent"


def test_a_run_that_was_never_started_is_stopped_without_a_signal(layout: RunLayout) -> None:
    assert stop_run(layout) == "stopped"
    assert read_status(layout).error == "stopped before it was started"


def test_a_program_that_cannot_be_started_leaves_the_run_as_it_was(layout: RunLayout) -> None:
    before = read_status(layout)
    for argv in ([], ["/nowhere/python"], ["python", "a\0b"]):
        with pytest.raises(InputError, match=r"expected a program|Cannot start the program"):
            start_run(layout, argv)
    assert read_status(layout) == before


def test_nothing_secret_is_written_and_nothing_reaches_a_shell(layout: RunLayout, tmp_path: Path) -> None:
    code = "import os, sys; sys.exit(int(sys.argv[3:] != [os.environ['HF_TOKEN'], '; touch x #']))"
    argv = [sys.executable, "-c", code, "--token", "s3cret-word", "open-sesame", "; touch x #"]
    start_run(layout, argv, {"HF_TOKEN": "open-sesame"})
    assert wait_for_end(layout).exit_code == 0
    log = read_log(layout, 1).text
    assert "--token '***'" in log
    assert "s3cret-word" not in log
    written = [path.read_text() for path in layout.folder.rglob("*") if path.is_file()]
    assert sum("open-sesame" in text for text in written) == 0


LISTENING_WORK = """
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
def start_listening(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], RunStatus]]:
    monkeypatch.setattr(launcher, "_WATCH_SECONDS", 60.0)  # a busy machine takes its time

    def run() -> RunStatus:
        start_run(layout, [sys.executable, "-c", LISTENING_WORK, str(layout.folder)])
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
    monkeypatch.setattr(launcher, "stop_run", lambda layout, left: (seconds.append(left), time.sleep(0.2)))
    return seconds


def make_old(layout: RunLayout, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(layout.stop, (then, then))


def test_a_run_that_listens_saves_and_stops(layout: RunLayout, start_listening: Callable[[], RunStatus]) -> None:
    start_listening()
    stop_in_background(layout)
    wait_until(lambda: not read_status(layout).is_active)
    status = read_status(layout)
    assert (status.state, status.error) == ("stopped", "")


def test_a_process_that_hangs_is_ended_when_it_is_asked_again(
    layout: RunLayout, start_listening: Callable[[], RunStatus], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = launcher.stop_run
    monkeypatch.setattr(launcher, "stop_run", lambda layout, left: plain(layout, left, end_seconds=0.5))
    status = start_listening()
    assert status.pid is not None
    os.kill(status.pid, signal.SIGSTOP)
    stop_in_background(layout)
    time.sleep(0.5)
    assert get_state(layout)[0] == "stopping"
    stop_in_background(layout, now=True)
    wait_until(lambda: not is_alive(status.pid, status.pid_start))
    wait_until(lambda: get_state(layout)[0] == "stopped")


def test_a_stop_of_an_earlier_server_goes_on(
    layout: RunLayout, start_listening: Callable[[], RunStatus], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = launcher.stop_run
    monkeypatch.setattr(launcher, "stop_run", lambda layout, left: plain(layout, left, end_seconds=0.5))
    status = start_listening()
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
