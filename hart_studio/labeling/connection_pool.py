"""Connection pool for the SQLite files of labeling projects: one limit per process, file checks on every use.

A connection keeps working after its file was deleted, moved or overwritten, and then writes into a file that no one
finds. So every acquire compares the file at the path with the one that the connection was opened on:

- Device and inode identify a deleted, moved or renamed file.
- A file that was overwritten in place keeps both. So every transaction increments a number in the header of the file
  (the application id), which starts at a random value. Checkpoints are the only regular writes to the file. After one,
  the header equals that in the newest copied frame of the log, see ``write_ahead_log``. Any other change of the header
  is an error. With the same header, the file holds the same state as before, and the log applies to it.

The write-ahead log of the earlier file would be applied to the new one. So it is moved away before the new file is
opened, also when the process that wrote it has ended.

One file because the checks, the leases and the moving of logs share one lock and one table of connections.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import secrets
import sqlite3
import struct
import sys
import threading
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from hart_studio.errors import DataError
from hart_studio.files import PROTECTED_FILES, lacks_descriptors
from hart_studio.labeling.write_ahead_log import (
    HEADER_BYTES,
    LogIndex,
    find_header,
    get_number,
    get_size,
    is_checkpoint,
    is_log_of,
    read_headers,
    read_index,
)

MAX_OPEN_CONNECTIONS: Final = 20
"""Open connections of the process. Each has up to five open files. Project default."""

LOCK_TIMEOUT_SECONDS: Final = 30.0
"""Timeout for a lock of the file, and for a free connection."""

_LOCKED_RANGE: Final = (0x40000002, 510)
"""First byte and number of the bytes of the file on which SQLite takes its shared and exclusive locks."""

_FILES_OF_CONNECTION: Final = 5  # with our two descriptors
_READS: Final = 3
_CHECKPOINT_SECONDS: Final = 1.0
_READ_PAUSE_SECONDS: Final = 0.02

_logger = logging.getLogger(__name__)


class FileIdentity(NamedTuple):
    """Identifies the file at a path."""

    device: int
    """Device number."""
    inode: int
    """Inode number."""
    generation: int
    """Number of times that the file was overwritten in place while it was open in this process."""


class _FileStamp(NamedTuple):
    size: int
    modified_ns: int
    changed_ns: int


class _OpenFile:
    """A file with open connections, and its last known state."""

    def __init__(self, descriptor: int, key: tuple[int, int]) -> None:
        self.descriptor = descriptor
        self.index_descriptor: int | None = None
        self.index_file: tuple[int, int] | None = None
        self.earlier_descriptors: list[int] = []
        self.protected = {key}  # the file, its log, the index of the log
        self.users = 0
        self.header = b""
        self.stamp: _FileStamp | None = None
        self.index: LogIndex | None = None
        self.newest = 0  # number of the last transaction

    def read_header(self) -> bytes:
        """Header of the file. SQLite would call a file damaged while another connection's checkpoint extends it."""
        return os.pread(self.descriptor, HEADER_BYTES, 0)

    def read_index(self) -> LogIndex | None:
        """State of the log."""
        return None if self.index_descriptor is None else read_index(self.index_descriptor)

    def block_checkpoint(self) -> None:
        """Prevent SQLite from writing the log into the file when the last connection is closed.

        SQLite takes an exclusive lock for that. A lock on our descriptor conflicts with it, also within one process.
        """
        kind = (fcntl.F_RDLCK, os.SEEK_SET)
        lock = (
            struct.pack("qqihh", *_LOCKED_RANGE, 0, *kind)
            if sys.platform == "darwin"
            else struct.pack("hhqqi0q", *kind, *_LOCKED_RANGE, 0)
        )
        fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, lock)

    def close(self) -> None:
        """Close the descriptors. No connection to the file may be open: this releases the locks of the process."""
        for each in (self.descriptor, self.index_descriptor, *self.earlier_descriptors):
            if each is not None:
                os.close(each)
        PROTECTED_FILES.difference_update(self.protected)


class PooledConnection:
    """A connection; one thread uses it at a time.

    Attributes:
        connection: The connection.
        path: Path of the file.
        identity: The file when the connection was opened.
        number: Transaction number in the file, without its write-ahead log.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, identity: FileIdentity) -> None:
        self.connection = connection
        self.path = path
        self.identity = identity
        self.number = 0
        self.owner = 0
        self.log: tuple[int, int] | None = None

    def close(self) -> None:
        """Close the connection. If it is the last one and the file is in place, SQLite writes the log into the file."""
        with suppress(sqlite3.Error):
            self.connection.close()


class ConnectionPool:
    """Opens at most ``max_open`` connections. At the limit it closes the least recently used idle one.

    A thread that already holds a connection may exceed the limit, because it would wait for itself otherwise.
    """

    def __init__(self, max_open: int = MAX_OPEN_CONNECTIONS) -> None:
        self._max_open = max_open
        self._condition = threading.Condition(threading.RLock())
        self._idle: OrderedDict[int, PooledConnection] = OrderedDict()  # least recently used first
        self._in_use: dict[int, PooledConnection] = {}
        self._held: Counter[int] = Counter()  # thread -> leases
        self._opening = 0
        self._generations: Counter[tuple[int, int]] = Counter()
        self._files: dict[tuple[int, int], _OpenFile] = {}

    @property
    def open_count(self) -> int:
        """Number of open connections, including those being opened."""
        with self._condition:
            return len(self._idle) + len(self._in_use) + self._opening

    def identify(self, path: Path) -> FileIdentity:
        """Return the identity of the file at a path.

        Raises:
            DataError: If there is none.
        """
        found = _stat(path)
        key = (found.st_dev, found.st_ino)
        return FileIdentity(*key, self._generations[key])

    def acquire(self, path: Path) -> PooledConnection:
        """Acquire a connection to the file at a path. Release it with ``release``.

        Raises:
            DataError: If the file is gone or was overwritten, or no connection is free for 30 seconds.
            sqlite3.Error: If it cannot be opened.
        """
        with self._condition:
            if (found := self._pop_idle(path)) is not None:
                return self._register(found)
            oldest = self._wait_for_slot()
            self._opening += 1
        try:
            if oldest is not None:
                self._close(oldest)
            found = self._open_evicting_idle(path)  # without the lock: another program may have locked this file
        finally:
            with self._condition:
                self._opening -= 1
                self._condition.notify_all()
        with self._condition:
            return self._register(found)

    def _register(self, found: PooledConnection) -> PooledConnection:
        found.owner = threading.get_ident()
        self._held[found.owner] += 1
        self._in_use[id(found)] = found
        return found

    def release(self, pooled: PooledConnection) -> None:
        """Release a connection, from any thread. It stays open for the next acquire."""
        with suppress(sqlite3.Error):
            if pooled.connection.in_transaction:
                pooled.connection.execute("ROLLBACK")
        with self._condition:
            del self._in_use[id(pooled)]
            self._held[pooled.owner] -= 1
            if self._held[pooled.owner] <= 0:
                del self._held[pooled.owner]
            try:
                is_current = self.identify(pooled.path) == pooled.identity
            except DataError:
                is_current = False
            is_kept = is_current and self.open_count < self._max_open
            if is_kept:
                self._idle[id(pooled)] = pooled
            self._condition.notify_all()
        if not is_kept:
            self._close(pooled)

    def check(self, pooled: PooledConnection) -> None:
        """Check that the file at the path is still the one that the connection was opened on.

        Raises:
            DataError: If it is gone, was replaced, or was overwritten.
        """
        with self._condition:
            current = self.identify(pooled.path)
            if current != pooled.identity:
                raise DataError(replaced_message(pooled.path))
            try:
                is_in_place = self._is_in_place(pooled)
            except OSError as error:
                raise DataError(
                    f"The files of the project at {pooled.path.parent} cannot be checked: {error.strerror}. Try again."
                ) from error
            if not is_in_place:
                is_log_gone = _find_file(_sibling(pooled.path, "-wal")) != pooled.log
                self._mark_stale(pooled)
                raise DataError((_log_gone_message if is_log_gone else replaced_message)(pooled.path))

    def close_idle(self, path: Path) -> None:
        """Close idle connections to a file, or to the files below a folder."""
        path = path.resolve()
        with self._condition:
            for key, each in list(self._idle.items()):
                if path in (each.path, *each.path.parents):
                    del self._idle[key]
                    self._close(each)

    def _pop_idle(self, path: Path) -> PooledConnection | None:
        """Take an idle connection to the file at the path; close those to an earlier file."""
        try:
            current = self.identify(path)
        except DataError:
            self.close_idle(path)
            raise
        others = [each for each in (*self._idle.values(), *self._in_use.values()) if each.path == path]
        if stale := [each for each in others if each.identity != current]:
            if any(each.identity[:2] == current[:2] for each in stale if id(each) in self._in_use):
                raise DataError(replaced_message(path))  # SQLite would share state with the earlier file
            logs = {each.log for each in stale if each.log}
            if _find_file(_sibling(path, "-wal")) in logs:
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

    def _wait_for_slot(self) -> PooledConnection | None:
        """Wait until another connection may be opened; return the least recently used one if it must be closed."""
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while self.open_count >= self._max_open:
            if self._idle:
                return self._idle.popitem(last=False)[1]
            if threading.get_ident() in self._held:
                break
            if not self._condition.wait(max(0.0, deadline - time.monotonic())):
                raise DataError(
                    f"All {self._max_open} database connections of this process are in use. Try again in a moment."
                )
        return None

    def _open_evicting_idle(self, path: Path) -> PooledConnection:
        """Open a connection; when descriptors run out, close idle connections, least recently used first."""
        while True:
            try:
                return self._open(path)
            except (OSError, sqlite3.OperationalError) as error:
                if not lacks_descriptors(_FILES_OF_CONNECTION):
                    if isinstance(error, sqlite3.Error):
                        raise
                    raise DataError(f"The project at {path.parent} cannot be opened: {error.strerror}.") from error
                with self._condition:
                    oldest = self._idle.popitem(last=False)[1] if self._idle else None
                if oldest is None:
                    raise DataError(
                        f"The project at {path.parent} cannot be opened: this process has too many open files. Try "
                        "again in a moment, or raise the limit of open files (ulimit -n) and start again."
                    ) from error
                self._close(oldest)

    def _open(self, path: Path) -> PooledConnection:
        before = self.identify(path)
        self._open_file(path, before)
        try:
            opened = PooledConnection(connect(path), path, before)
        except BaseException:
            self._close_file(before)
            raise
        try:
            opened.connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # opens the log too
            opened.log = _find_file(_sibling(path, "-wal"))
            self._register_log(opened)
            if self.identify(path) != before:
                raise DataError(replaced_message(path))
            self.check(opened)
        except BaseException:
            self._close(opened)
            raise
        return opened

    def _close(self, opened: PooledConnection) -> None:
        with self._condition:
            try:
                is_current = self.identify(opened.path) == opened.identity
            except DataError:
                is_current = False  # SQLite itself leaves the log alone
            try:
                if is_current and opened.log is not None and not self._is_in_place(opened):
                    self._mark_stale(opened)
            # The log stays, and is checked when the file is opened again.
            except (DataError, OSError, sqlite3.Error) as error:
                with suppress(OSError):
                    self._files[opened.identity[:2]].block_checkpoint()
                _logger.warning("%s was closed without a checkpoint: %s", opened.path, error)
        opened.close()
        self._close_file(opened.identity)

    def _open_file(self, path: Path, identity: FileIdentity) -> None:
        """Keep a descriptor of the file open while it has connections, to read its header.

        When a process closes any descriptor of a file, the system releases all its locks on that file, also those of
        SQLite. So this descriptor is closed after the last connection.
        """
        key = identity[:2]
        with self._condition:
            if key not in self._files:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                found = os.fstat(descriptor)
                if (found.st_dev, found.st_ino) != key:
                    os.close(descriptor)
                    raise DataError(replaced_message(path))
                PROTECTED_FILES.add(key)
                file = _OpenFile(descriptor, key)
                try:
                    _check_log(path, file)
                except BaseException:
                    file.close()
                    raise
                self._files[key] = file
            self._files[key].users += 1

    def _close_file(self, identity: FileIdentity) -> None:
        with self._condition:
            file = self._files[identity[:2]]
            file.users -= 1
            if file.users <= 0:
                del self._files[identity[:2]]
                file.close()

    def _register_log(self, opened: PooledConnection) -> None:
        """Protect the log and its index, keep a descriptor of the index, and record the state of the file."""
        index = _sibling(opened.path, "-shm")
        with self._condition:
            file = self._files[opened.identity[:2]]
            index_file = _find_file(index)
            for each in (opened.log, index_file):
                if each is not None:
                    file.protected.add(each)
                    PROTECTED_FILES.add(each)
            # SQLite creates a new index if its last connection was closed while this one was being opened.
            if opened.log is not None and (file.index_descriptor is None or file.index_file != index_file):
                descriptor = os.open(index, os.O_RDONLY | os.O_CLOEXEC)
                if file.index_descriptor is not None:
                    file.earlier_descriptors.append(file.index_descriptor)
                file.index_descriptor, file.index_file = descriptor, index_file
            if file.stamp is None:
                # `check` sets the stamp after it has compared the header again.
                file.header, file.index = file.read_header(), file.read_index()
                file.newest = get_number(file.header)

    def _is_in_place(self, opened: PooledConnection) -> bool:
        """Whether the log is in place, and only checkpoints have written to the file since the last check."""
        if opened.log is not None and _find_file(_sibling(opened.path, "-wal")) != opened.log:
            return False
        file, log = self._files[opened.identity[:2]], _sibling(opened.path, "-wal")
        began, reads = time.monotonic(), 0
        while True:
            stamp = _stamp(opened.path)
            header = file.header if stamp == file.stamp else file.read_header()
            index = file.read_index()
            is_whole = stamp == file.stamp or get_size(header) <= stamp.size
            if is_whole and (header == file.header or self._is_checkpoint(file, header, index, log)):
                _record_state(file, stamp, header, index, log)
                opened.number = get_number(header)
                return True
            # Another process is writing the index, or ended while it did: SQLite repairs it.
            if index is None and opened.log is not None:
                opened.connection.execute("PRAGMA application_id").fetchone()
            else:
                reads += 1
            # A checkpoint may be writing the header now, and the pages after it.
            if (is_whole and reads >= _READS) or time.monotonic() - began > _CHECKPOINT_SECONDS:
                return False
            time.sleep(_READ_PAUSE_SECONDS)

    @staticmethod
    def _is_checkpoint(file: _OpenFile, header: bytes, index: LogIndex | None, log: Path) -> bool:
        if index is None:
            return file.index_descriptor is None and get_number(header) >= get_number(file.header)
        return is_checkpoint(header, index, file.index, file.newest, log)

    def _mark_stale(self, stale: PooledConnection) -> None:
        """Detach from a file that was overwritten in place, so that its log never reaches the new content.

        Raises:
            DataError: If the log cannot be moved away. Then nothing has changed, and the next check retries.
        """
        key = stale.identity[:2]
        log, file = _find_file(_sibling(stale.path, "-wal")), self._files[key]
        # If the log was deleted and the file was not written since: SQLite still has the log open, and copies it into
        # the file when the last connection is closed.
        if log is not None or _stamp(stale.path) != file.stamp:
            file.block_checkpoint()
        if log is not None and log == stale.log:
            _move_log_away(stale.path)
        self._generations[key] += 1
        for name, each in list(self._idle.items()):
            if each.identity[:2] == key:
                del self._idle[name]
                self._close(each)


def _record_state(file: _OpenFile, stamp: _FileStamp, header: bytes, index: LogIndex | None, log: Path) -> None:
    file.stamp, file.header = stamp, header
    if index is not None and index != file.index:
        newest = find_header(log, index, index.frames)
        file.index, file.newest = index, max(file.newest, get_number(newest or header))


def _check_log(path: Path, file: _OpenFile) -> None:
    """Move away the log of a process that has ended, if the file it belongs to was replaced.

    Raises:
        DataError: If it cannot be moved.
        OSError: If it cannot be read.
    """
    log = _sibling(path, "-wal")
    seen: tuple[bytes, tuple[bytes, ...]] | None = None
    reads, began = 0, time.monotonic()
    # A live process may be writing: only a stable state counts.
    while time.monotonic() - began < _CHECKPOINT_SECONDS:
        found = (file.read_header(), read_headers(log))
        if is_log_of(*found):
            return
        reads, seen = (reads + 1 if found == seen else 1), found
        if reads >= _READS:
            _move_log_away(path)
            return
        time.sleep(_READ_PAUSE_SECONDS)


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection to an existing file with the required settings.

    Raises:
        sqlite3.Error: If it cannot be opened.
    """
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw",
        uri=True,
        timeout=LOCK_TIMEOUT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA cache_size = -16384")  # KiB
        connection.execute("PRAGMA wal_autocheckpoint = 8000")  # pages; a bulk action rewrites many of them
        connection.execute("PRAGMA synchronous = FULL")  # an action is on disk before it is confirmed
    except BaseException:
        connection.close()
        raise
    return connection


def make_first_number() -> int:
    """Return a random transaction number for a new file: distinguishes files, and can grow."""
    return secrets.randbelow(1 << 30) + 1


def count_transaction(connection: sqlite3.Connection) -> None:
    """Increment the transaction number inside a transaction; initialize it in a new file."""
    (number,) = connection.execute("PRAGMA application_id").fetchone()
    connection.execute(f"PRAGMA application_id = {number + 1 if number else make_first_number():d}")


def replaced_message(path: Path) -> str:
    """Error message when another file is at the path of an open project."""
    return (
        f"The project at {path.parent} was replaced while it was open, by a backup or another project. The last change "
        "was not saved. Open the project again and check its labels."
    )


def _log_gone_message(path: Path) -> str:
    return (
        f"The write-ahead log {path.name}-wal of the project at {path.parent} was deleted or replaced while it was "
        "open. The last change was not saved. Open the project again and check its labels."
    )


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(
            f"The project at {path.parent} is gone: {path.name} cannot be found ({error.strerror}). The last change "
            "was not saved. If the folder was moved, move it back or open it at its new path."
        ) from error


def _stamp(path: Path) -> _FileStamp:
    found = _stat(path)
    return _FileStamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _sibling(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _find_file(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _move_log_away(path: Path) -> None:
    """Move away the log of the earlier file, and delete the index of the log.

    A rename needs no disk space.

    Raises:
        DataError: If it cannot be moved.
    """
    kept = _sibling(path, f"-wal.replaced-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")
    try:
        _sibling(path, "-wal").rename(kept)
        _sibling(path, "-shm").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"The project at {path.parent} was replaced, and the write-ahead log of the earlier content cannot be "
            f"moved away: {error.strerror}. Check the permissions of the folder and open the project again."
        ) from error
    _logger.warning("%s was replaced; uncommitted changes of the earlier file were moved to %s", path, kept)


CONNECTION_POOL: Final = ConnectionPool()
"""Connection pool of this process."""

atexit.register(CONNECTION_POOL.close_idle, Path("/"))  # with the checks that precede a checkpoint
