"""The state of a run: what the job says of itself, and what can be seen from outside."""

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
"""``lost``: the process is gone and could not say how it ended. Never written, always derived."""

ACTIVE: Final[frozenset[State]] = frozenset({"queued", "running", "stopping"})
"""States of a run that has not ended."""

_MAX_STOP_BYTES: Final = 4096


class RunStatus(Record):
    """What ``status.json`` holds."""

    job: JobType
    """Kind of job; all kinds share this layout."""
    state: State
    """As the job last wrote it; ``get_state`` says what is true now."""
    pid: int | None = Field(default=None, ge=1)
    """First process of the attempt, which leads its process group when it came from the launcher."""
    pid_start: str | None = None
    """Its start, from ``processes.get_process_start``."""
    folder_identity: str = ""
    """Device and inode of the run's folder when the attempt began, from ``get_folder_identity``. In a copy of the
    folder
    they differ: the process belongs to the original, and nothing done to the copy may reach it."""
    attempt: int = Field(default=0, ge=0)
    """Attempts so far; 0 = never started."""
    step: int = Field(default=0, ge=0)
    """Steps done, counted through all stages."""
    total: int = Field(ge=0)
    """Steps in all; 0 = not known."""
    phase: str = Field(default="", max_length=200)
    """What the job does beside its steps, for people, such as ``measuring held-out questions, 16 of 40``; empty = its
    steps."""
    heartbeat: AwareDatetime | None = None
    """When the job last got on, UTC."""
    exit_code: int | None = None
    """0 = well, negative = ended by that signal; None = not ended, or no one was there to see."""
    error: str = ""
    """Why it failed, or who or what ended it early, without secrets; empty = it was asked to stop, and saved."""

    def replace(self, **changes: Any) -> RunStatus:
        """A checked copy with some fields changed."""
        return RunStatus(**{**dict(self), **changes})

    @property
    def is_active(self) -> bool:
        """Whether the job has not written that it ended."""
        return self.state in ACTIVE


def write_status(layout: RunLayout, status: RunStatus) -> None:
    """Replace the status; a reader sees the old one or the new one."""
    write_json(layout.status, status.model_dump(mode="json"))


def read_status(layout: RunLayout) -> RunStatus:
    """Read the status.

    Raises:
        DataError: If the file is missing or holds no status.
    """
    try:
        return RunStatus.model_validate_json(read_regular_file(layout.status))
    except OSError as error:
        raise DataError(f"expected the status of a run at {layout.status}, got {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise DataError(f"{layout.status} is no status of a run: {where}: {first['msg']}") from error


def get_state(layout: RunLayout) -> tuple[DisplayState, RunStatus]:
    """The state that is true now, with the status that it was read from.

    A job that was asked to stop is ``stopping`` before it says so. One whose process is gone, or belongs to the folder
    that this one was copied from, is ``lost``, unless it was made but never started.

    Raises:
        DataError: As for ``read_status``.
    """
    status = read_status(layout)
    while status.is_active and status.pid is not None and not _is_own_process_alive(layout, status):
        # It may have ended well between the two looks: its last words are written before its process goes.
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
        OSError: If it is gone.
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
    """Write down that whoever stops a run is about to send it this signal, so that no other sender is taken for them.

    Raises:
        OSError: If no one asked for a stop, the file that says so is a link, or the disk is full.
    """
    # Added, because a slower sender must not take back what another one wrote; never made, because a run that ended
    # in this moment may continue in its next attempt, which no one asked to stop.
    file = os.open(layout.stop, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.write(file, f"{number.name}\n".encode())
    finally:
        os.close(file)


def recorded_signals(layout: RunLayout) -> frozenset[int]:
    """The signals that were sent to the attempt by whoever stops it; none when it is still to save, or not to stop."""
    try:
        names = read_regular_file(layout.stop, _MAX_STOP_BYTES).split()
    except OSError:
        return frozenset()
    return frozenset(number for number in signal.Signals if number.name.encode() in names)


def check_startable(layout: RunLayout) -> RunStatus:
    """The status of a run that may begin its next attempt; to be asked while its lock is held.

    Raises:
        InputError: If it is complete or still runs, or its folder holds a link that leads out of it.
        DataError: As for ``read_status``.
    """
    state, status = get_state(layout)
    if state == "completed":
        raise InputError(f"expected a run with steps left, got {layout.run_id}, which is completed; start a new run")
    if status.is_active and status.pid is not None and state != "lost":
        raise InputError(f"expected no other attempt of {layout.run_id}, got process {status.pid}; stop it first")
    reject_external_symlinks(layout.folder)
    return status
