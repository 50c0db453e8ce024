"""Identify processes and hold locks. A PID alone does not identify a process: PIDs are reused.

A process is identified by its PID AND its start time. On Linux the start is the boot id and the kernel tick count,
elsewhere the output of ``ps``. Linux and macOS only.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from hart_studio.errors import InputError
from hart_studio.files import read_regular_file
from hart_studio.symlinks import open_append_nofollow

SHORT_LOCK_TIMEOUT_SECONDS: Final = 0.5
"""Wait for a lock whose holder is about to finish."""

_PROC: Final = Path("/proc")
_POLL_SECONDS: Final = 0.05
_MAX_HOLDER_BYTES: Final = 4096


def get_process_start(pid: int) -> str | None:
    """Return the start time of a process, in a form for equality comparison only.

    Returns:
        None if there is no such process, or it is a zombie.
    """
    if pid < 1:
        return None
    return _start_from_proc(pid) if (_PROC / "self" / "stat").exists() else _start_from_ps(pid)


def is_alive(pid: int | None, start: str | None) -> bool:
    """Whether the process with this PID and this start time still runs."""
    return pid is not None and start is not None and get_process_start(pid) == start


def signal_group(pid: int, start: str, number: int) -> bool:
    """Send a signal to the process group of a job only.

    Args:
        pid: PID of the first process of the job.
        start: Its start time, from ``get_process_start``.
        number: The signal; 0 = none, only check whether one could be sent.

    Returns:
        False if the process or its group is gone.

    Raises:
        InputError: If the process does not lead its own group, so that a signal would reach other programs.
    """
    if pid < 2 or not is_alive(pid, start):
        return False
    try:
        group = os.getpgid(pid)
        if group != pid or group == os.getpgid(0):
            raise InputError(
                f"Cannot stop this run from here: process {pid} shares a process group with other programs. "
                "Stop it in the terminal that started it."
            )
        os.killpg(pid, number)
    except ProcessLookupError:
        return False
    return True


class LockHolder(NamedTuple):
    """Holder of a lock, as written in the lock file."""

    work: str
    """Purpose of the lock, such as the id of a run."""
    pid: int
    """PID of the process."""
    start: str | None
    """Its start time, from ``get_process_start``."""
    host: str
    """Name of the machine."""
    since: str
    """Time when the lock was acquired, ISO 8601, UTC."""

    @property
    def description(self) -> str:
        """Describe process and time, and the machine if it is another one."""
        host = f" on {self.host}" if self.host != platform.node() else ""
        return f"process {self.pid}{host}, started at {self.since[:16].replace('T', ' ')} UTC"


class LockedError(InputError):
    """A lock is held by another holder.

    Attributes:
        holder: The holder; None = unknown.
    """

    def __init__(self, message: str, holder: LockHolder | None) -> None:
        super().__init__(message)
        self.holder = holder


@contextmanager
def hold_lock(path: Path, timeout_seconds: float = 0.0, *, work: str = "") -> Iterator[None]:
    """Hold an exclusive lock; the operating system releases it when the process ends.

    Processes forked while it is held share it, so it is held until they end too.

    Args:
        path: The lock file, created if missing and never removed.
        timeout_seconds: Time to wait for another holder.
        work: Purpose of the lock. If given, the holder is written to the file; see ``LockHolder``.

    Raises:
        LockedError: If another process, or another holder in this one, still holds the lock.
        InputError: If the lock file is a link.
    """
    deadline = time.monotonic() + timeout_seconds
    with _open_lock(path) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise LockedError(
                        f"Run {path.parent.name} is already running. Stop it first.",
                        _read_holder(path),
                    ) from error
            time.sleep(_POLL_SECONDS)
        if not work:
            yield
            return
        now = datetime.now(UTC).isoformat()
        holder = LockHolder(work, os.getpid(), get_process_start(os.getpid()), platform.node(), now)
        with suppress(OSError):  # a full disk must not prevent locking
            file.truncate(0)
            file.write(json.dumps(holder._asdict()).encode())
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)


def _open_lock(path: Path) -> BinaryIO:
    try:
        return open_append_nofollow(path, is_buffered=False)
    except OSError as error:
        if not path.is_symlink():
            raise
        raise InputError(
            f"The lock file {path.name} of {path.parent.name} is a symbolic link. Nothing was written. Remove the link."
        ) from error


def _read_holder(path: Path) -> LockHolder | None:
    try:
        found = json.loads(read_regular_file(path, _MAX_HOLDER_BYTES))
        return LockHolder(
            str(found["work"]), int(found["pid"]), found["start"], str(found["host"]), str(found["since"])
        )
    except (OSError, ValueError, TypeError, KeyError):  # not written yet, or a lock without a holder
        return None


def _start_from_proc(pid: int) -> str | None:
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may contain any character, so fields are counted from its end: state is the 3rd, start the
    # 22nd.
    fields = text[text.rfind(b")") + 1 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    boot = (_PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
    return f"{boot}:{fields[19].decode()}"


def _start_from_ps(pid: int) -> str | None:
    output = subprocess.run(
        ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
    )
    state, _, start = output.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else " ".join(start.split())
