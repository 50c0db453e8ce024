"""Cache folder of uploads and served copies: one per server, limited in size, removed at exit.

Folders of killed servers are removed by the next server. Must be imported before Gradio, which reads the folder name on
import.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from hart_studio.runs.processes import hold_lock

PREFIX: Final = "hart-studio-"
"""Prefix of the folder name in the temporary folder of the system."""

MAX_SECONDS: Final = 24 * 3600.0
"""Age at which a file is always removed."""

MIN_AGE_SECONDS: Final = 180.0
"""A younger file is kept while space is left, because it may be in use by a page or a question."""

USED_SECONDS: Final = 20.0
"""A younger file is always kept, because it may be written. ``renew`` resets the age."""

CLEANUP_INTERVAL_SECONDS: Final = 30.0
"""Interval of the cleanup."""

_LOCK: Final = ".hart-studio-lock"


@contextmanager
def open_cache(root: Path | None = None) -> Iterator[Path]:
    """Create a folder that is removed at the end; also removes folders of killed servers.

    Args:
        root: Parent folder; None = the temporary folder of the system.

    Raises:
        OSError: If the folder cannot be created.
    """
    root = root or Path(tempfile.gettempdir())
    remove_orphans(root)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        # Renamed once it is held, so that other servers never see a free lock of a running server.
        stack.enter_context(hold_lock(folder / f"{_LOCK}.new"))
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)
        yield folder


def remove_orphans(root: Path) -> list[Path]:
    """Remove the folders of ended servers; returns them.

    Only folders of this user with a free lock file are removed; the system releases the lock when a server ends in any
    way. Folders without a lock file are ignored.
    """
    removed = []
    for folder in sorted(root.glob(f"{PREFIX}*")):
        with suppress(OSError), _claim(folder) as is_orphan:
            if is_orphan:
                shutil.rmtree(folder)
                removed.append(folder)
    return removed


@contextmanager
def _claim(folder: Path) -> Iterator[bool]:
    """Try to acquire the lock of a folder for the block; yields whether it was free."""
    if not _is_own(folder.lstat(), stat.S_ISDIR):
        yield False
        return
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        is_free = _is_own(os.fstat(descriptor), stat.S_ISREG)
        if is_free:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_free = False
        yield is_free
    finally:
        os.close(descriptor)


def _is_own(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    return is_kind(status.st_mode) and status.st_uid == os.getuid()


def renew(path: Path) -> None:
    """Mark a file as used, without changing its content and modification time."""
    with suppress(OSError):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class CacheCleaner:
    """Limits the size of the folder: removes the oldest files first and refuses uploads that do not fit.

    The age of a file starts when its current version is first seen (monotonic clock); ``renew`` resets it.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        max_age_seconds: float = MAX_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Existing files belong to the pages, such as the examples, and are never removed.

        Args:
            folder: The folder.
            max_bytes: Size limit.
            max_age_seconds: Age at which a file is always removed.
            clock: Replaced in tests.
        """
        self._folder, self.max_bytes, self._max_age_seconds, self._clock = folder, max_bytes, max_age_seconds, clock
        self._seen: dict[str, tuple[int, float]] = {}
        self._kept = {file.path for file in _walk(folder)}
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._reserved = 0

    def start(self) -> None:
        """Start the cleanup in a daemon thread."""
        threading.Thread(target=self._run_cleanup_loop, name="cache-cleanup", daemon=True).start()

    def stop(self) -> None:
        """Stop the cleanup."""
        self._is_over.set()

    def fits(self, size: int) -> bool:
        """Whether an upload of this size would fit now, without reserving or removing anything."""
        with self._lock:
            return self._has_space(size)

    def reserve(self, size: int) -> bool:
        """Reserve space for received bytes of an upload until ``release``.

        Removes only files older than ``MIN_AGE_SECONDS``, so that large uploads do not evict recent files of others,
        and none if the bytes are refused.

        Returns:
            Whether the space was reserved.
        """
        with self._lock:
            if not self._has_space(size):
                return False
            left = self._remove(self.max_bytes - self._reserved - size, MIN_AGE_SECONDS)
            if left + self._reserved + size > self.max_bytes:
                return False
            self._reserved += size
            return True

    def _has_space(self, size: int) -> bool:
        """Whether this many bytes fit beside reserved bytes and files that cannot be removed yet."""
        now = self._clock()
        spared = sum(taken for first, _, _, taken in self._scan(now) if now - first < MIN_AGE_SECONDS)
        return spared + self._reserved + size <= self.max_bytes

    def release(self, size: int) -> None:
        """Release reserved bytes that are on disk, or whose upload has ended."""
        with self._lock:
            self._reserved -= size

    def sweep(self) -> int:
        """Remove old files, and the oldest ones above the size limit.

        If that is not enough, also removes files younger than ``MIN_AGE_SECONDS``, oldest first, except those in use.

        Returns:
            Remaining bytes, without files of the pages.
        """
        with self._lock:
            left = self._remove(self.max_bytes, MIN_AGE_SECONDS)
            return left if left <= self.max_bytes else self._remove(self.max_bytes, USED_SECONDS)

    def _remove(self, max_bytes: int, spared_seconds: float) -> int:
        """Remove files above the age limit, and the oldest ones until the size limit is met."""
        now = self._clock()
        files = self._scan(now)
        total = sum(size for _, _, _, size in files)
        for first, _, path, size in files:
            age = now - first
            if age < spared_seconds or (age < self._max_age_seconds and total <= max_bytes):
                break
            with suppress(OSError):
                Path(path).unlink()
                total -= size
                self._seen.pop(path)
                self._prune(Path(path).parent)
        return total

    def _scan(self, now: float) -> list[tuple[float, int, str, int]]:
        """(first seen, modification time in ns, path, bytes) of each file, oldest first."""
        seen, files = {}, []
        for file in _walk(self._folder):
            if file.path in self._kept:
                continue
            with suppress(OSError):
                status = file.stat(follow_symlinks=False)
                known = self._seen.get(file.path)
                first = known[1] if known and known[0] == status.st_ctime_ns else now
                seen[file.path] = (status.st_ctime_ns, first)
                files.append((first, status.st_mtime_ns, file.path, status.st_size))
        self._seen = seen
        return sorted(files)

    def _prune(self, folder: Path) -> None:
        """Remove empty folders below the upper two levels."""
        while len(folder.relative_to(self._folder).parts) > 2:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def _run_cleanup_loop(self) -> None:
        while not self._is_over.wait(CLEANUP_INTERVAL_SECONDS):
            with suppress(OSError):
                self.sweep()


def _walk(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """All files below a folder; does not follow links, ignores folders that disappear."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        else:
            yield entry
