"""The folder of served copies: one for each server, bounded in size, and gone when its server is.

It holds what visitors upload and what the pages show of it. A server that was killed leaves its folder behind; the next
one removes it. Imported before Gradio, which reads the name of the folder once.
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
"""Beginning of the folder's name, in the system's folder for temporary files."""

MAX_SECONDS: Final = 24 * 3600.0
"""Age at which a file goes in any case."""

MIN_AGE_SECONDS: Final = 180.0
"""A file younger than this stays while there is room: it may be on its way to a page, or be asked about."""

USED_SECONDS: Final = 20.0
"""A file younger than this stays in any case: it may be written now. ``renew`` makes a file young."""

CLEANUP_INTERVAL_SECONDS: Final = 30.0
"""Between two sweeps."""

_LOCK: Final = ".hart-studio-lock"


@contextmanager
def open_cache(root: Path | None = None) -> Iterator[Path]:
    """A new folder, removed at the end, after those that killed servers have left behind.

    Args:
        root: Where; None = the system's folder for temporary files.

    Raises:
        OSError: If no folder can be made there.
    """
    root = root or Path(tempfile.gettempdir())
    remove_orphans(root)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        # Named once it is held: another server never finds a lock of a living one that is free.
        stack.enter_context(hold_lock(folder / f"{_LOCK}.new"))
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)
        yield folder


def remove_orphans(root: Path) -> list[Path]:
    """Remove the folders of servers that are gone; returns them.

    Only real folders of this user are looked at, and only those go whose lock no one holds: the system lets go of it
    when the server ends in whatever way. A folder without a lock is someone else's.
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
    """Whether no one holds the lock of a folder; it is held here while the block runs."""
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
    """Say that a file is in use. Its content and the time of its last change stay as they are."""
    with suppress(OSError):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class CacheCleaner:
    """Keeps the folder below a size: the oldest files go first, and an upload that would not fit is refused.

    Ages are counted from when a file was first seen as it is now, by a clock that cannot be set; ``renew`` makes
    it young.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        max_age_seconds: float = MAX_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """What is there already belongs to the pages themselves, such as the examples, and stays.

        Args:
            folder: The folder.
            max_bytes: Size above which the oldest files go.
            max_age_seconds: Age at which a file goes in any case.
            clock: The seam for tests.
        """
        self._folder, self.max_bytes, self._most_seconds, self._clock = folder, max_bytes, max_age_seconds, clock
        self._seen: dict[str, tuple[int, float]] = {}
        self._kept = {file.path for file in _walk(folder)}
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._reserved = 0

    def start(self) -> None:
        """Sweep from time to time, in a thread that ends with the program."""
        threading.Thread(target=self._run_cleanup_loop, name="cache-sweeper", daemon=True).start()

    def stop(self) -> None:
        """Sweep no more."""
        self._is_over.set()

    def fits(self, size: int) -> bool:
        """Whether an upload of that many bytes would have room now. Nothing is reserved and nothing is removed."""
        with self._lock:
            return self._has_room(size)

    def reserve(self, size: int) -> bool:
        """Make room for bytes of an upload that have arrived, and keep it until ``release``.

        Only files older than ``MIN_AGE_SECONDS`` go for it: who sends much must not push out what others just sent.
        None goes for bytes that are refused.

        Returns:
            Whether there is room.
        """
        with self._lock:
            if not self._has_room(size):
                return False
            left = self._remove(self.max_bytes - self._reserved - size, MIN_AGE_SECONDS)
            if left + self._reserved + size > self.max_bytes:
                return False
            self._reserved += size
            return True

    def _has_room(self, size: int) -> bool:
        """Whether that many bytes fit beside the reserved ones and the files that must stay for now."""
        now = self._clock()
        spared = sum(taken for first, _, _, taken in self._scan(now) if now - first < MIN_AGE_SECONDS)
        return spared + self._reserved + size <= self.max_bytes

    def release(self, size: int) -> None:
        """The bytes are on the disk, or the upload has ended; what it has written is counted as it lies there."""
        with self._lock:
            self._reserved -= size

    def sweep(self) -> int:
        """Remove what is too old or too much.

        Where that is not enough, files younger than ``MIN_AGE_SECONDS`` go, too, the oldest first, but for those that
        are in use.

        Returns:
            Bytes that are left, without what belongs to the pages themselves.
        """
        with self._lock:
            left = self._remove(self.max_bytes, MIN_AGE_SECONDS)
            return left if left <= self.max_bytes else self._remove(self.max_bytes, USED_SECONDS)

    def _remove(self, max_bytes: int, spared_seconds: float) -> int:
        """Remove the oldest files until the others take that many bytes, and those that are too old in any case."""
        now = self._clock()
        files = self._scan(now)
        total = sum(size for _, _, _, size in files)
        for first, _, path, size in files:
            age = now - first
            if age < spared_seconds or (age < self._most_seconds and total <= max_bytes):
                break
            with suppress(OSError):
                Path(path).unlink()
                total -= size
                self._seen.pop(path)
                self._prune(Path(path).parent)
        return total

    def _scan(self, now: float) -> list[tuple[float, int, str, int]]:
        """(first seen, time of the last change in ns, path, bytes) of each file, the oldest first."""
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
        """Remove folders that hold nothing any more; the upper two levels are the pages' own."""
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
    """Every file below a folder; links are not followed, and a folder that goes meanwhile is left out."""
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
