"""Read-only parser of an SQLite write-ahead log: checks whether a log belongs to a database file.

Every transaction of HART Studio increments a number in the file header, so every transaction writes page 1 to the log.
A checkpoint copies the newest page 1 of the copied frames into the file. So the file header is either the one that the
log started from, or the header in one of its frames. Any other header comes from another file.

Formats: https://www.sqlite.org/walformat.html. Takes no locks.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

HEADER_BYTES: Final = 100
"""Size of the header of a database file, the beginning of page 1."""

_LOG_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_INDEX_BYTES: Final = 136
_MAGIC: Final = (0x377F0682, 0x377F0683)


class LogIndex(NamedTuple):
    """State of a log, from its index (the ``-shm`` file)."""

    salts: bytes
    """Salt; new whenever the log restarts."""
    page_bytes: int
    """Size of a page."""
    frames: int
    """Number of committed frames."""
    copied: int
    """Number of frames that a checkpoint has copied into the file."""
    copying: int
    """Number of frames that the newest checkpoint copies, or tried to copy, into the file."""


def get_number(header: bytes) -> int:
    """Transaction number (application id) in the header of a database file; 0 without a header."""
    return int.from_bytes(header[68:72], "big")


def get_size(header: bytes) -> int:
    """Size of the database in bytes, from its header."""
    page_bytes = int.from_bytes(header[16:18], "big")
    return int.from_bytes(header[28:32], "big") * (65536 if page_bytes == 1 else page_bytes)


def read_index(descriptor: int) -> LogIndex | None:
    """State of a log, from a descriptor of its index; None while the index is being written or is empty."""
    data = os.pread(descriptor, _INDEX_BYTES, 0)
    if len(data) < _INDEX_BYTES or data[:48] != data[48:96] or not data[12]:
        return None
    (page_bytes, frames) = struct.unpack_from("=HI", data, 14)
    (copied,) = struct.unpack_from("=I", data, 96)
    (copying,) = struct.unpack_from("=I", data, 128)
    return LogIndex(data[32:40], 65536 if page_bytes == 1 else page_bytes, frames, copied, copying)


def find_header(log: Path, index: LogIndex, frame: int) -> bytes | None:
    """Header of the database in the newest page 1 among the first ``frame`` frames of a log; None without one.

    Raises:
        OSError: If the log cannot be read.
    """
    descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for number in range(frame, 0, -1):
            place = _LOG_HEADER_BYTES + (number - 1) * (_FRAME_HEADER_BYTES + index.page_bytes)
            head = os.pread(descriptor, _FRAME_HEADER_BYTES + HEADER_BYTES, place)
            if len(head) < _FRAME_HEADER_BYTES + HEADER_BYTES or head[8:16] != index.salts:
                return None
            if head[:4] == b"\0\0\0\1":
                return head[_FRAME_HEADER_BYTES:]
        return None
    finally:
        os.close(descriptor)


def read_headers(log: Path) -> tuple[bytes, ...]:
    """Headers of the database in the committed frames of a log, oldest first; empty without a log or a frame.

    Raises:
        OSError: If the log cannot be read.
    """
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ()
    headers: list[bytes] = []
    committed = 0
    try:
        for is_commit, header in _read_frames(descriptor):
            if header:
                headers.append(header)
            if is_commit:
                committed = len(headers)
    finally:
        os.close(descriptor)
    return tuple(headers[:committed])


def _read_frames(descriptor: int) -> Iterator[tuple[bool, bytes]]:
    """Frames of a log: whether each ends a transaction, and the header of the database where it holds page 1."""
    start = os.pread(descriptor, _LOG_HEADER_BYTES, 0)
    if len(start) < _LOG_HEADER_BYTES or int.from_bytes(start[:4], "big") not in _MAGIC:
        return
    page_bytes, salts, place = int.from_bytes(start[8:12], "big"), start[16:24], _LOG_HEADER_BYTES
    while len(head := os.pread(descriptor, _FRAME_HEADER_BYTES + HEADER_BYTES, place)) > _FRAME_HEADER_BYTES:
        if head[8:16] != salts:
            return
        yield head[4:8] != bytes(4), head[_FRAME_HEADER_BYTES:] if head[:4] == b"\0\0\0\1" else b""
        place += _FRAME_HEADER_BYTES + page_bytes


def is_start(header: bytes, first: bytes) -> bool:
    """Whether the first page 1 of a log may follow a header of the file.

    Another program may change page 1 without incrementing the number. A backup by ``.backup`` or ``VACUUM INTO`` has
    the number of its source, but a greater schema cookie.
    """
    number = get_number(header)
    return number == 0 or (get_number(first) in (number, number + 1) and header[40:44] <= first[40:44])


def is_log_of(header: bytes, headers: tuple[bytes, ...]) -> bool:
    """Whether a log may be applied to a file.

    Args:
        header: Header of the file.
        headers: Headers from ``read_headers``.
    """
    return not headers or header in headers or is_start(header, headers[0])


def is_checkpoint(header: bytes, index: LogIndex, known: LogIndex | None, newest: int, log: Path) -> bool:
    """Whether checkpoints can have written this header to the file.

    Args:
        header: Changed header of the file.
        index: State of the log.
        known: State of the log at the last check of the header; None if there was none.
        newest: Newest known transaction number at that check.
        log: The log.

    Raises:
        OSError: If the log cannot be read.
    """
    headers = [find_header(log, index, count) for count in (index.copied, index.copying) if count]
    if header in headers:
        return True
    if known is None or index.salts == known.salts or get_number(header) < newest:
        return False
    # The log was fully copied and restarted. The header is the one that the current log started from.
    if index.copied and headers[0] is not None:
        return False
    first = next(iter(read_headers(log)), None) if index.frames else None
    return first is None or is_start(header, first)
