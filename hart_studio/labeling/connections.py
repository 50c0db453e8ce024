"""Connection pool for the SQLite files of labeling projects: one bound for the whole process, checks at every use.

A connection keeps working after its file was deleted, moved or overwritten, and then writes into a file that nobody
finds. So every lease compares the file at the path with the one that the connection was opened on:

- Device and inode tell a deleted, moved or renamed file.
- A file that was overwritten in place keeps both. Every transaction increments a number in the header of the file (the
  application id), which starts at a random value. Checkpoints are the only regular writes to the file, and let the
  number in it grow, up to that of the last transaction. A smaller or a larger number is the number of another file.
  With the same number, the file holds the state that it held before, and the log applies to it.

The write-ahead log of the earlier file would be applied to the new one. It is moved away before the new file is opened.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from hart_studio.errors import DataError
from hart_studio.files import PROTECTED_FILES

MOST_OPEN: Final = 24
"""Open connections of the process. Each has up to three open files. Project default."""

PATIENCE_SECONDS: Final = 30.0
"""How long to wait for a lock of the file, or for a free connection."""

_HEADER_BYTES: Final = 100
_READS: Final = 3
_CHECKPOINT_SECONDS: Final = 1.0
_READ_PAUSE_SECONDS: Final = 0.02

_logger = logging.getLogger(__name__)


class FileIdentity(NamedTuple):
    """Which file is at a path."""

    device: int
    """Device number."""
    inode: int
    """Inode number."""
    generation: int
    """How often the file was overwritten in place while it was open in this process."""


class _Stamp(NamedTuple):
    size: int
    modified_ns: int
    changed_ns: int


class PooledConnection:
    """A connection that one thread uses at a time.

    Attributes:
        connection: The connection.
        path: Path of the file.
        identity: The file at the time of opening.
        number: Transaction number in the file, without its write-ahead log.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, identity: FileIdentity) -> None:
        self.connection = connection
        self.path = path
        self.identity = identity
        self.number = 0
        self.owner = 0
        self.stamp: _Stamp | None = None
        self.log: tuple[int, int] | None = None

    def close(self) -> None:
        """Close it. SQLite writes the log into the file when this is the last connection and the file is in place."""
        with suppress(sqlite3.Error):
            self.connection.close()


class ConnectionPool:
    """Opens at most ``most_open`` connections, and closes the least recently used one for another.

    A thread that has a lease already gets another connection in any case: it would wait for itself otherwise.
    """

    def __init__(self, most_open: int = MOST_OPEN) -> None:
        self._most_open = most_open
        self._condition = threading.Condition(threading.RLock())
        self._idle: OrderedDict[int, PooledConnection] = OrderedDict()  # least recently used first
        self._leased: dict[int, PooledConnection] = {}
        self._held: Counter[int] = Counter()  # thread -> leases
        self._opening = 0
        self._generations: Counter[tuple[int, int]] = Counter()
        self._users: Counter[tuple[int, int]] = Counter()  # file -> connections
        self._descriptors: dict[tuple[int, int], int] = {}
        self._protected: dict[tuple[int, int], set[tuple[int, int]]] = {}  # file -> it, its log, the index of the log

    @property
    def open_count(self) -> int:
        """Number of open connections, with those that are being opened."""
        with self._condition:
            return len(self._idle) + len(self._leased) + self._opening

    def identify(self, path: Path) -> FileIdentity:
        """Which file is at a path.

        Raises:
            DataError: If there is none.
        """
        found = _stat(path)
        key = (found.st_dev, found.st_ino)
        return FileIdentity(*key, self._generations[key])

    def lease(self, path: Path) -> PooledConnection:
        """A connection to the file at a path, until ``give_back``.

        Args:
            path: Absolute path of the file.

        Raises:
            DataError: If the file is gone or was overwritten, or no connection is free for 30 seconds.
            sqlite3.Error: If it cannot be opened.
        """
        with self._condition:
            if (found := self._take_idle(path)) is not None:
                return self._register(found)
            oldest = self._make_room()
            self._opening += 1
        try:
            if oldest is not None:
                self._close(oldest)
            found = self._open(path)  # without the lock: another program may keep this file busy, not all of them
        finally:
            with self._condition:
                self._opening -= 1
                self._condition.notify_all()
        with self._condition:
            return self._register(found)

    def _register(self, found: PooledConnection) -> PooledConnection:
        found.owner = threading.get_ident()
        self._held[found.owner] += 1
        self._leased[id(found)] = found
        return found

    def give_back(self, leased: PooledConnection) -> None:
        """End a lease, from any thread. The connection stays open for the next one."""
        with suppress(sqlite3.Error):
            if leased.connection.in_transaction:
                leased.connection.execute("ROLLBACK")
        with self._condition:
            del self._leased[id(leased)]
            self._held[leased.owner] -= 1
            if self._held[leased.owner] <= 0:
                del self._held[leased.owner]
            try:
                is_current = self.identify(leased.path) == leased.identity
            except DataError:
                is_current = False
            is_kept = is_current and self.open_count < self._most_open
            if is_kept:
                self._idle[id(leased)] = leased
            self._condition.notify_all()
        if not is_kept:
            self._close(leased)

    def check(self, leased: PooledConnection) -> None:
        """See that the file at the path is still the one of a lease.

        Raises:
            DataError: If it is gone, was replaced, or was overwritten.
        """
        with self._condition:
            current = self.identify(leased.path)
            if current != leased.identity:
                raise DataError(replaced_message(leased.path))
            if _stamp(leased.path) != leased.stamp and not self._is_same_content(leased):
                self._set_aside(leased)
                raise DataError(replaced_message(leased.path))

    def close_idle(self, path: Path) -> None:
        """Close the connections to a file, or to the files below a folder, that no lease holds."""
        path = path.resolve()
        with self._condition:
            for key, each in list(self._idle.items()):
                if path in (each.path, *each.path.parents):
                    del self._idle[key]
                    self._close(each)

    def _take_idle(self, path: Path) -> PooledConnection | None:
        """An idle connection to the very file that is at the path; those to an earlier file are closed."""
        try:
            current = self.identify(path)
        except DataError:
            self.close_idle(path)
            raise
        others = [each for each in (*self._idle.values(), *self._leased.values()) if each.path == path]
        if stale := [each for each in others if each.identity != current]:
            if any(each.identity[:2] == current[:2] for each in stale if id(each) in self._leased):
                raise DataError(replaced_message(path))  # SQLite would share the state of the file that is gone
            logs = {each.log for each in stale if each.log}
            if _find_file(_beside(path, "-wal")) in logs:
                _move_log_away(path)
            for each in stale:
                if self._idle.pop(id(each), None):
                    self._close(each)
        for key in reversed(self._idle):
            found = self._idle[key]
            if found.path == path:
                self.check(found)
                return self._idle.pop(key)
        return None

    def _make_room(self) -> PooledConnection | None:
        """Wait until one more may be opened; the least recently used connection, if it is to be closed for it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.open_count >= self._most_open:
            if self._idle:
                return self._idle.popitem(last=False)[1]
            if threading.get_ident() in self._held:
                break
            if not self._condition.wait(max(0.0, deadline - time.monotonic())):
                raise DataError(
                    f"All {self._most_open} database connections of this process are in use. Try again in a moment."
                )
        return None

    def _open(self, path: Path) -> PooledConnection:
        before = self.identify(path)
        self._open_descriptor(path, before)
        try:
            opened = PooledConnection(connect(path), path, before)
        except BaseException:
            self._close_descriptor(before)
            raise
        try:
            opened.connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # opens the log too
            opened.log = _find_file(_beside(path, "-wal"))
            self._protect(opened)
            opened.stamp = _stamp(path)
            opened.number, _ = self._read_header(opened)
            if self.identify(path) != before:
                raise DataError(replaced_message(path))
        except BaseException:
            self._close(opened)
            raise
        return opened

    def _close(self, opened: PooledConnection) -> None:
        opened.close()
        self._close_descriptor(opened.identity)

    def _open_descriptor(self, path: Path, identity: FileIdentity) -> None:
        """Keep a descriptor of the file as long as a connection to it is open, to read its header.

        The system releases all locks that a process holds on a file when it closes any descriptor of it, also those
        that SQLite holds. So this one is closed after the last connection.
        """
        key = identity[:2]
        with self._condition:
            if key not in self._descriptors:
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                except OSError as error:
                    raise DataError(f"The project at {path.parent} cannot be opened: {error.strerror}.") from error
                found = os.fstat(descriptor)
                if (found.st_dev, found.st_ino) != key:
                    os.close(descriptor)
                    raise DataError(replaced_message(path))
                self._descriptors[key] = descriptor
                self._protected[key] = {key}
                PROTECTED_FILES.add(key)
            self._users[key] += 1

    def _protect(self, opened: PooledConnection) -> None:
        """Let nobody open the log and the index of the log: the locks of the readers are on the index."""
        with self._condition:
            for each in (opened.log, _find_file(_beside(opened.path, "-shm"))):
                if each is not None:
                    self._protected[opened.identity[:2]].add(each)
                    PROTECTED_FILES.add(each)

    def _close_descriptor(self, identity: FileIdentity) -> None:
        key = identity[:2]
        with self._condition:
            self._users[key] -= 1
            if self._users[key] <= 0:
                del self._users[key]
                os.close(self._descriptors.pop(key))
                PROTECTED_FILES.difference_update(self._protected.pop(key))

    def _read_header(self, opened: PooledConnection) -> tuple[int, int]:
        """The transaction number and the size in bytes that the header of the file states.

        SQLite itself would call a file damaged while the checkpoint of another connection is extending it.
        """
        header = os.pread(self._descriptors[opened.identity[:2]], _HEADER_BYTES, 0)
        page_bytes = int.from_bytes(header[16:18], "big")
        pages = int.from_bytes(header[28:32], "big")
        return int.from_bytes(header[68:72], "big"), pages * (65536 if page_bytes == 1 else page_bytes)

    def _is_same_content(self, opened: PooledConnection) -> bool:
        """Whether only checkpoints have written to the file since the connection looked at it last."""
        began, reads = time.monotonic(), 0
        while True:
            stamp, (number, size) = _stamp(opened.path), self._read_header(opened)
            (newest,) = opened.connection.execute("PRAGMA application_id").fetchone()  # with what only the log holds
            is_whole = size <= stamp.size
            if opened.number <= number <= newest and is_whole:
                opened.stamp, opened.number = stamp, number
                return True
            reads += 1
            # A checkpoint may write the number at this very moment, and the pages behind it a little later.
            if (is_whole and reads >= _READS) or time.monotonic() - began > _CHECKPOINT_SECONDS:
                return False
            time.sleep(_READ_PAUSE_SECONDS)

    def _set_aside(self, stale: PooledConnection) -> None:
        """Part from a file that was overwritten in place: its log must reach the new content by no way."""
        key = stale.identity[:2]
        self._generations[key] += 1
        # The inode is the same, so SQLite would still write the log into the file when the last connection closes. It
        # cannot when the log is empty.
        if stale.log is not None and _find_file(_beside(stale.path, "-wal")) == stale.log:
            _copy_log_away(stale.path)
        for name, each in list(self._idle.items()):
            if each.identity[:2] == key:
                del self._idle[name]
                self._close(each)


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection with the settings that every one must have. The file must exist.

    Raises:
        sqlite3.Error: If it cannot be opened.
    """
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw",
        uri=True,
        timeout=PATIENCE_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA cache_size = -16384")  # KiB
        connection.execute("PRAGMA wal_autocheckpoint = 8000")  # pages; a bulk action writes many of them repeatedly
        connection.execute("PRAGMA synchronous = FULL")  # every action of a person is on the disk when it is answered
    except BaseException:
        connection.close()
        raise
    return connection


def draw_first_number() -> int:
    """The transaction number of a new file: random, so that files are told apart, with room to grow."""
    return secrets.randbelow(1 << 30) + 1


def count_transaction(connection: sqlite3.Connection) -> None:
    """Increment the transaction number, inside a transaction; a new file gets its first one."""
    (number,) = connection.execute("PRAGMA application_id").fetchone()
    connection.execute(f"PRAGMA application_id = {number + 1 if number else draw_first_number():d}")


def replaced_message(path: Path) -> str:
    """What is said when another file is at the path of an open project."""
    return (
        f"The project at {path.parent} was replaced while it was open, by a backup or another project. The last change "
        "was not saved. Open the project again, and check its labels."
    )


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(
            f"The project at {path.parent} is gone: {path.name} cannot be found ({error.strerror}). The last change "
            "was not saved. If the folder was moved, move it back or open it at its new place."
        ) from error


def _stamp(path: Path) -> _Stamp:
    found = _stat(path)
    return _Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _find_file(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _name_earlier_log(path: Path) -> Path:
    return _beside(path, f"-wal.replaced-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")


def _move_log_away(path: Path) -> None:
    """Move the log of the earlier file away, and the index of the log, which the connections of that file keep."""
    kept = _name_earlier_log(path)
    _beside(path, "-wal").rename(kept)
    _beside(path, "-shm").unlink(missing_ok=True)
    _logger.warning("%s was replaced; changes of the earlier file that it did not hold yet are in %s", path, kept)


def _copy_log_away(path: Path) -> None:
    """Keep a copy of the log of the content that was overwritten, empty the log, and let nobody find it."""
    kept, log = _name_earlier_log(path), _beside(path, "-wal")
    if log.stat().st_size:
        shutil.copyfile(log, kept)
        os.truncate(log, 0)
        _logger.warning("%s was overwritten; changes that only its log held are in %s", path, kept)
    for ending in ("-wal", "-shm"):
        _beside(path, ending).unlink(missing_ok=True)


POOL: Final = ConnectionPool()
"""The pool of this process."""
