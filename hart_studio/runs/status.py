"""State of a run: recorded by the job, and derived from its process."""

from __future__ import annotations

import os
import signal
from typing import Any, Final, Literal

from pydantic import AwareDatetime, Field, ValidationError

from hart_studio.errors import DataError, InputError
from hart_studio.files import read_regular_file, write_json
from hart_studio.records import Record
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.processes import is_alive
from hart_studio.symlinks import reject_external_symlinks

JobType = Literal["training", "labeling", "evaluation"]
State = Literal["queued", "running", "stopping", "completed", "stopped", "failed"]
DisplayState = Literal["queued", "running", "stopping", "completed", "stopped", "failed", "lost"]
"""``lost``: the process is gone without recording its end. Never written, always derived."""

ACTIVE: Final[frozenset[State]] = frozenset({"queued", "running", "stopping"})
"""States of a run that has not ended."""

_MAX_STOP_BYTES: Final = 4096


class RunStatus(Record):
    """Content of ``status.json``."""

    job: JobType
    """Kind of job; all kinds share this format."""
    state: State
    """Last written state; ``get_state`` returns the current one."""
    pid: int | None = Field(default=None, ge=1)
    """PID of the first process of the attempt, the process group leader if started by the launcher."""
    pid_start: str | None = None
    """Its start time, from ``processes.get_process_start``."""
    folder_identity: str = ""
    """Device and inode of the run's folder when the attempt started, from ``get_folder_identity``. In a copy of the
    folder they differ: the process belongs to the original, and actions on the copy must not affect it."""
    attempt: int = Field(default=0, ge=0)
    """Number of attempts; 0 = never started."""
    step: int = Field(default=0, ge=0)
    """Steps done, counted across all stages."""
    total: int = Field(ge=0)
    """Total steps; 0 = unknown."""
    phase: str = Field(default="", max_length=200)
    """Activity other than steps, such as ``evaluating held-out questions, 16 of 40``; empty = its
    steps."""
    heartbeat: AwareDatetime | None = None
    """Time of the last progress, UTC."""
    exit_code: int | None = None
    """0 = success, negative = ended by that signal; None = not ended, or unknown."""
    error: str = ""
    """Cause of a failure or an early end, without secrets; empty = stopped on request, with a checkpoint."""

    def replace(self, **changes: Any) -> RunStatus:
        """Return a validated copy with changed fields."""
        return RunStatus(**{**dict(self), **changes})

    @property
    def is_active(self) -> bool:
        """Whether the job has not recorded its end."""
        return self.state in ACTIVE


def write_status(layout: RunLayout, status: RunStatus) -> None:
    """Replace the status; a reader sees the old one or the new one."""
    write_json(layout.status, status.model_dump(mode="json"))


def read_status(layout: RunLayout) -> RunStatus:
    """Read the status.

    Raises:
        DataError: If the file is missing or is not a status.
    """
    try:
        return RunStatus.model_validate_json(read_regular_file(layout.status))
    except OSError as error:
        raise DataError(f"Cannot read the run status {layout.status}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise DataError(f"{layout.status} is damaged: {where}: {first['msg']}. Start a new run.") from error


def get_state(layout: RunLayout) -> tuple[DisplayState, RunStatus]:
    """Return the current state, and the status it is derived from.

    A job with a stop request is ``stopping``. A job whose process is gone, or belongs to the folder
    that this one was copied from, is ``lost``, unless it was never started.

    Raises:
        DataError: See ``read_status``.
    """
    status = read_status(layout)
    while status.is_active and status.pid is not None and not _is_own_process_alive(layout, status):
        # It may have ended between the two checks: the end is recorded before the process exits.
        again = read_status(layout)
        if again == status:
            return "lost", status
        status = again
    if status.is_active and status.pid is not None and layout.stop.exists():
        return "stopping", status
    return status.state, status


def get_folder_identity(layout: RunLayout) -> str:
    """Device and inode of a run's folder, which a copy of the folder does not share.

    Raises:
        OSError: If the folder is missing.
    """
    found = layout.folder.stat()
    return f"{found.st_dev}:{found.st_ino}"


def _is_own_process_alive(layout: RunLayout, status: RunStatus) -> bool:
    try:
        is_own = status.folder_identity in ("", get_folder_identity(layout))
    except OSError:
        return False
    return is_own and is_alive(status.pid, status.pid_start)


def record_signal(layout: RunLayout, number: signal.Signals) -> None:
    """Record that a stop request is about to send this signal, to distinguish it from other senders.

    Raises:
        OSError: If there is no stop request, the stop file is a link, or the disk is full.
    """
    # Append, because a slower sender must not overwrite another one; never create the file, because a run that ended
    # at this moment may start its next attempt, which has no stop request.
    file = os.open(layout.stop, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.write(file, f"{number.name}\n".encode())
    finally:
        os.close(file)


def recorded_signals(layout: RunLayout) -> frozenset[int]:
    """Signals that a stop request has sent to the attempt; empty if it may still save, or has no stop request."""
    try:
        names = read_regular_file(layout.stop, _MAX_STOP_BYTES).split()
    except OSError:
        return frozenset()
    return frozenset(number for number in signal.Signals if number.name.encode() in names)


def check_startable(layout: RunLayout) -> RunStatus:
    """Check that a run may start its next attempt, and return its status; call it while holding the lock.

    Raises:
        InputError: If it is complete or still runs, or its folder contains a link out of it.
        DataError: See ``read_status``.
    """
    state, status = get_state(layout)
    if state == "completed":
        raise InputError(f"Run {layout.run_id} is completed. Start a new run.")
    if status.is_active and status.pid is not None and state != "lost":
        raise InputError(f"Run {layout.run_id} is already running (process {status.pid}). Stop it first.")
    reject_external_symlinks(layout.folder)
    return status
