"""Start jobs that outlive the server, and stop them without affecting other processes. The same for every kind of run.

A job is started from an argument list, never by a shell; it leads its own session, and its output goes to a file.

A job is stopped by a stop file, then SIGTERM, then SIGKILL. The modification time of the stop file is the time of the
request. A server that restarts, or another server, continues an earlier stop request (``resume_stop``).
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from hart_studio.errors import HartError, InputError
from hart_studio.runs.events import EventLog
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.processes import SHORT_LOCK_TIMEOUT_SECONDS, get_process_start, hold_lock, is_alive, signal_group
from hart_studio.runs.redaction import redact_command
from hart_studio.runs.status import (
    DisplayState,
    JobType,
    RunStatus,
    check_startable,
    get_folder_identity,
    get_state,
    read_status,
    record_signal,
    recorded_signals,
    write_status,
)
from hart_studio.runs.writer import ATTEMPT_VARIABLE, KILLED_ON_REQUEST, RUN_VARIABLE, record_end
from hart_studio.symlinks import open_append_nofollow, unlink_symlink

PACKAGE_PARENT: Final = Path(__file__).resolve().parents[2]
"""Folder that contains this package."""

_POLL_SECONDS: Final = 0.05
_LOCK_TIMEOUT_SECONDS: Final = 2.0
_WATCH_SECONDS: Final = 1.0

SAVE_SECONDS: Final[dict[JobType, float]] = {"training": 1800.0, "evaluation": 1800.0, "labeling": 300.0}
"""Time limit for a run to finish its step and save after a stop request, before it gets a signal. Training saves a
checkpoint, which takes minutes for a large model; labeling saves each batch anyway. Project defaults."""

_lock = threading.Lock()

_stopping: dict[Path, threading.Thread] = {}


def start_run(
    layout: RunLayout,
    argv: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    is_queued: bool = False,
) -> RunStatus:
    """Start the next attempt of a run: the first one, or one that resumes it in the same folder.

    Args:
        layout: A run made by ``writer.create_run``.
        argv: Program and arguments. The program must open the run with ``RunWriter``.
        environment: Additional environment variables, such as ``CUDA_VISIBLE_DEVICES``. Never saved.
        is_queued: Start only a run that is still queued: it may have been stopped meanwhile.

    Returns:
        The status with the new attempt, ``queued`` until the job updates it.

    Raises:
        InputError: If the run is completed, an attempt still runs, or the program cannot be started.
        DataError: If the status of the run cannot be read.
    """
    if not argv or any("\0" in argument for argument in argv):
        raise InputError(f"expected a program and arguments, got {list(argv)!r}")
    with hold_lock(layout.lock, SHORT_LOCK_TIMEOUT_SECONDS):
        status = check_startable(layout)
        if is_queued and (status.state != "queued" or layout.stop.exists()):
            raise InputError(f"Run {layout.run_id} is no longer queued: it was stopped. Resume it.")
        attempt = status.attempt + 1
        layout.stop.unlink(missing_ok=True)
        process = _spawn(
            layout, argv, {**(environment or {}), RUN_VARIABLE: layout.run_id, ATTEMPT_VARIABLE: str(attempt)}, attempt
        )
        status = RunStatus(
            job=status.job,
            state="queued",
            pid=process.pid,
            # A job that ended at once has no start time; any text that matches no process works.
            pid_start=get_process_start(process.pid) or "ended",
            folder_identity=get_folder_identity(layout),
            attempt=attempt,
            step=status.step,
            total=status.total,
            phase="starting",
            heartbeat=datetime.now(UTC),
        )
        write_status(layout, status)
    threading.Thread(target=_watch, args=(layout, process, attempt), daemon=True).start()
    return status


def request_stop(layout: RunLayout) -> None:
    """Request that the job stops at its next step and saves; returns at once.

    The first request counts: the time limit for saving starts with it.
    """
    unlink_symlink(layout.stop)  # the job would not see a dangling link
    with suppress(FileExistsError):
        layout.stop.touch(exist_ok=False)


def stop_run(layout: RunLayout, save_seconds: float = 60.0, end_seconds: float = 10.0) -> DisplayState:
    """Stop a run: stop request, then SIGTERM, then SIGKILL, each to its own process group only.

    Args:
        layout: The run.
        save_seconds: Time limit for finishing the step and saving.
        end_seconds: Time limit after SIGTERM, and again after SIGKILL.

    Returns:
        The state afterwards; a run that had already ended keeps its state.

    Raises:
        InputError: If the job does not stop, and does not lead its own process group.
        DataError: If the status of the run cannot be read.
    """
    state, status = get_state(layout)
    if not status.is_active or state == "lost":
        return state
    request_stop(layout)
    if status.pid is None or status.pid_start is None:
        _close(layout, status.attempt, None, "stopped before it was started", has_process=False)
        return get_state(layout)[0]
    pid, start = status.pid, status.pid_start
    is_signalled = False
    if not _wait(lambda: not is_alive(pid, start), save_seconds):
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not _signal(layout, pid, start, number):
                break
            is_signalled = True
            if _wait(lambda: not is_alive(pid, start), end_seconds):
                break
    if not is_alive(pid, start):
        # The parent process knows the exit code; without a parent, the end is recorded without an exit code. A job
        # that was gone before any signal is lost: the cause is unknown.
        _wait(lambda: not read_status(layout).is_active, _WATCH_SECONDS)
        if is_signalled:
            _close(layout, status.attempt, None, KILLED_ON_REQUEST)
    return get_state(layout)[0]


def job_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Environment of a job: variables of this process, the import path of this package, and its own variables."""
    paths = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **variables}


def _spawn(
    layout: RunLayout, argv: Sequence[str], environment: Mapping[str, str], attempt: int
) -> subprocess.Popen[bytes]:
    variables = job_environment(environment)
    layout.logs.mkdir(exist_ok=True)
    with open_append_nofollow(layout.log_of(attempt)) as log:
        log.write(f"$ {shlex.join(redact_command(argv, variables))}\n".encode(errors="replace"))
        log.flush()
        try:
            return subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"Cannot start the program {argv[0]!r}: {error.strerror}") from error


def _signal(layout: RunLayout, pid: int, start: str, number: signal.Signals) -> bool:
    """Send a signal to a job, and record the sender; False if the job is gone."""
    if not signal_group(pid, start, 0):
        return False
    with suppress(OSError):  # a full disk must not block the signal
        record_signal(layout, number)
    return signal_group(pid, start, number)


def _watch(layout: RunLayout, process: subprocess.Popen[bytes], attempt: int) -> None:
    """Wait for the job, and record its end if it could not."""
    _close(layout, attempt, process.wait())


def _close(
    layout: RunLayout, attempt: int, exit_code: int | None, error: str = "", *, has_process: bool = True
) -> None:
    """Record the end of an attempt whose process is gone, unless it did so itself or another attempt started.

    An attempt that was queued meanwhile has no process yet and is not affected.
    """
    # The folder may be deleted, or a process forked by the job may still hold the lock: then the reader derives `lost`.
    with suppress(HartError, OSError), hold_lock(layout.lock, _LOCK_TIMEOUT_SECONDS):
        status = read_status(layout)
        is_own_attempt = status.attempt == attempt and (status.pid is not None) == has_process
        if is_own_attempt and status.is_active and not is_alive(status.pid, status.pid_start):
            state: Literal["stopped", "failed"] = "stopped"
            if exit_code is not None and -exit_code in recorded_signals(layout):
                error = KILLED_ON_REQUEST
            elif exit_code is not None:
                state = "stopped" if _is_stop(layout, status, exit_code) else "failed"
                error = _record_exit(layout, attempt, exit_code, state)
            record_end(layout, EventLog(layout.events), status, state, exit_code, error)


def _is_stop(layout: RunLayout, status: RunStatus, exit_code: int) -> bool:
    """Whether a job without a recorded end was stopped by a request or a shutdown, not by its own failure."""
    if not layout.stop.exists():
        # A shutdown of the machine sends SIGTERM, and SIGKILL after a while.
        return status.state == "stopping"
    # The launcher of several processes has its own exit code when it is terminated.
    return exit_code in {0, -signal.SIGTERM} or (exit_code > 0 and bool(recorded_signals(layout)))


def _record_exit(layout: RunLayout, attempt: int, exit_code: int, state: str) -> str:
    """Describe the cause of the end of a job that could not record it."""
    cause = f"ended with exit code {exit_code}"
    if exit_code < 0:
        cause = f"ended by {signal.Signals(-exit_code).name}"
    if exit_code == -signal.SIGKILL and state == "failed":
        cause += ", which often means out of memory"
    return f"{cause}; see the end of logs/{layout.log_of(attempt).name}"


def _wait(is_over: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; False on timeout."""
    deadline = time.monotonic() + seconds
    while not is_over():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def stop_in_background(layout: RunLayout, *, now: bool = False) -> None:
    """Request that a run saves and ends, and end it if it does not; returns at once.

    Args:
        layout: The run.
        now: Send the signal at once.
    """
    request_stop(layout)
    if now:
        # A thread may still wait for the run to save.
        threading.Thread(target=_stop, args=(layout, 0.0), name="stop-now", daemon=True).start()
    else:
        resume_stop(layout)


def resume_stop(layout: RunLayout) -> None:
    """Ensure that a run with a stop request ends, even if the requested server is gone; returns at once.

    The time limit counts from the request. Does nothing for a run without a stop request.
    """
    try:
        requested = layout.stop.lstat().st_mtime
        seconds = SAVE_SECONDS[read_status(layout).job]
    except (OSError, HartError):
        return
    # Already signaled: the sender is gone, or about to send the next signal.
    left = 0.0 if recorded_signals(layout) else seconds - (time.time() - requested)
    with _lock:
        for folder, thread in list(_stopping.items()):
            if not thread.is_alive():
                del _stopping[folder]
        if layout.folder in _stopping:
            return
        thread = threading.Thread(target=_stop, args=(layout, min(seconds, max(0.0, left))), name="stop", daemon=True)
        _stopping[layout.folder] = thread
        thread.start()


def _stop(layout: RunLayout, save_seconds: float) -> None:
    """Stop a run; a run that cannot be stopped keeps the state running."""
    with suppress(HartError, OSError):
        stop_run(layout, save_seconds)
