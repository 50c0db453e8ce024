"""Crash-safe file access: atomic whole-file writes, append-only JSONL, names confined to their folder.

Text is UTF-8. JSON has no NaN and no Infinity: writing one raises ``ValueError``, reading one raises ``DataError``.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from hart_studio.errors import DataError, InputError
from hart_studio.symlinks import open_append_nofollow

MAX_PARSED_BYTES: Final = 4 * 2**30
"""Limit on the estimated memory of the objects of one JSON document. Project default."""

MAX_DOCUMENT_BYTES: Final = 512 * 2**20
"""Limit on the size of a document that is read as a whole: labels, JSON lists. Project default."""

MAX_LINE_BYTES: Final = 64 * 2**20
"""Limit on the length of a JSONL line, which may hold an image in base64. Project default."""

PROTECTED_FILES: Final[set[tuple[int, int]]] = set()
"""(device, inode) of files of open databases. ``open_regular_file`` refuses them; the connection pool fills it.

The system releases all POSIX locks of a process on a file when the process closes any descriptor of that file. SQLite
would lose its locks, and another process could delete the write-ahead log that this process still writes to.
"""

_DATABASE_NAME = re.compile(r"\.sqlite3?(?:-wal|-shm|-journal)?\Z", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*(?:[a-z][a-z0-9+.-]+:/|[/\\]{2})", re.IGNORECASE)
_TAIL_BLOCK = 65536
_COPY_BLOCK = 1 << 20
_VALUE_BYTES = 60
_PAIR_BYTES = 230
_ESCAPED_BYTE = re.compile(r"\\x([0-9a-f]{2})")
_RAW_BYTE = re.compile("[\udc80-\udcff]")


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace a file atomically: a reader sees the old content or the new one.

    Args:
        path: The file; its folder must exist.
        data: The whole content; text is written as UTF-8.

    Raises:
        OSError: If the folder is missing or full, or the path is a device, a pipe or a folder. What is there is then
            unchanged.
    """
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):  # a link is replaced; its target is unchanged
            raise _not_regular(path)
    # Same folder: the last step is a rename. Opened here, so the file gets the default permissions.
    draft = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with draft.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, record: object) -> None:
    """Replace a file with one indented JSON document, atomically.

    Raises:
        ValueError: If the record holds NaN or infinity.
        TypeError: If the record holds a value that JSON cannot represent.
        OSError: If the folder is missing or full.
    """
    write_atomically(path, _to_json(record, indent=2) + b"\n")


def append_jsonl(path: Path, record: object) -> None:
    """Add one line to a JSONL file, created if missing. One writer per file.

    A partial last line, left by a crash, is removed first.

    Raises:
        ValueError: If the record holds NaN or infinity.
        TypeError: If the record holds a value that JSON cannot represent.
        OSError: If the folder is missing or full, or the file is a link or not a regular file.
    """
    line = _to_json(record, indent=None) + b"\n"
    with open_append_nofollow(path) as file:
        line_start, tail = _partial_last_line(file)
        if tail and _is_object(tail):
            line = b"\n" + line
        elif tail:
            file.truncate(line_start)
        file.write(line)


def read_jsonl(path: Path, *, reject_symlinks: bool = False) -> Iterator[tuple[int, Any]]:
    """Read a JSONL file line by line.

    A last line without a newline is yielded if it is a complete JSON object. Otherwise it is still being written or was
    cut off by a crash, and is skipped. Blank lines are skipped.

    Args:
        path: The file.
        reject_symlinks: Refuse a link to a file, see ``open_regular_file``.

    Yields:
        ``(line_number, value)``, counting from 1.

    Raises:
        DataError: If the file cannot be opened, or at the first line that is not JSON.
    """
    try:
        file = open_regular_file(path, follow_symlinks=not reject_symlinks)
    except OSError as error:
        raise DataError(f"Cannot open the JSONL file {path.name!r}: {error.strerror}. Check the path.") from error
    with file:
        for number, line in read_lines(file):
            if line is None:
                raise DataError(f"{path.name!r} line {number}: longer than {MAX_LINE_BYTES:,} bytes. Remove the line.")
            if not line.strip() or (not line.endswith(b"\n") and not _is_object(line)):
                continue
            try:
                value = _from_json(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path.name!r} line {number}: not one JSON value: {_excerpt(line)} ({error}). "
                    "Repair or remove the line."
                ) from error
            yield number, value


def read_lines(file: BinaryIO, max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes | None]]:
    """Iterate over lines of bounded length: number, from 1, and bytes with the newline; None for a longer line."""
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        is_long = len(line) > max_bytes
        while is_long and line and not line.endswith(b"\n"):
            line = file.readline(max_bytes)
        yield number, None if is_long else line


def open_regular_file(path: Path, *, follow_symlinks: bool = False, max_bytes: int | None = None) -> io.BufferedReader:
    """Open a regular file for reading. Use it for every path that comes from data or from a client.

    A link could expose any file it points to. Reading a pipe would block forever, and a device has no end. Files of a
    database are refused before they are opened, see ``PROTECTED_FILES``. They are also refused by name, because a
    connection may be opened while the file is being read.

    Args:
        path: The file.
        follow_symlinks: Allow a link to a regular file, for example if a user names it.
        max_bytes: Largest size; None = any.

    Raises:
        OSError: If it is missing, a link, not a regular file, a file of a database, or larger than that.
        ValueError: If the path holds a NUL.
    """
    # Check before opening, because opening some devices has side effects. The opened file is checked again.
    status = path.stat(follow_symlinks=follow_symlinks)
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular(path)
    # Check before opening: closing a descriptor of a database file would release its locks.
    name = path.resolve().name if follow_symlinks else path.name
    if (status.st_dev, status.st_ino) in PROTECTED_FILES or _DATABASE_NAME.search(name):
        raise OSError(errno.EACCES, "a database file, which cannot be read as an image or a table", str(path))
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_symlinks else os.O_NOFOLLOW))
    status = os.fstat(number)
    problem = None if stat.S_ISREG(status.st_mode) else _not_regular(path)
    if max_bytes is not None and status.st_size > max_bytes:
        problem = _too_large(path, max_bytes)
    if problem:
        os.close(number)
        raise problem
    return os.fdopen(number, "rb")


def lacks_descriptors(count: int) -> bool:
    """Whether the process or the system cannot open ``count`` more files."""
    opened: list[int] = []
    try:
        for _ in range(count):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    finally:
        for each in opened:
            os.close(each)
    return False


def read_regular_file(path: Path, max_bytes: int = 32 * 2**20, *, follow_symlinks: bool = False) -> bytes:
    """Read all of a regular file, see ``open_regular_file``.

    Raises:
        OSError: As ``open_regular_file``, or if it is larger than that.
        ValueError: If the path holds a NUL.
    """
    with open_regular_file(path, follow_symlinks=follow_symlinks, max_bytes=max_bytes) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise _too_large(path, max_bytes)
    return data


def copy_regular_file(source: Path, target: Path) -> None:
    """Copy the content of a regular file, or of the target of a link, see ``open_regular_file``.

    Args:
        source: The file.
        target: Replaced if it exists; its folder must exist.

    Raises:
        OSError: As ``open_regular_file``, or if the target cannot be written.
    """
    with open_regular_file(source, follow_symlinks=True) as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy, _COPY_BLOCK)


def _not_regular(path: Path) -> OSError:
    number, reason = (errno.EISDIR, None) if path.is_dir() else (errno.EINVAL, "not a regular file")
    return OSError(number, reason or os.strerror(number), str(path))


def _too_large(path: Path, max_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"more than {max_bytes:,} bytes", str(path))


def parse_bounded_json(data: bytes) -> Any:
    """Parse a JSON document whose objects fit into ``MAX_PARSED_BYTES`` of memory.

    A few bytes of text, such as ``{},``, become an object of about 100 bytes. The count of separators is checked before
    anything is parsed.

    Raises:
        ValueError: If it is not JSON, or its objects would take more memory.
        RecursionError: If it is nested too deeply.
    """
    needed = _PAIR_BYTES * data.count(b"{") + _VALUE_BYTES * (data.count(b"[") + data.count(b","))
    if needed > MAX_PARSED_BYTES:
        raise ValueError(
            f"the JSON needs about {needed >> 20:,} MiB of memory; at most {MAX_PARSED_BYTES >> 20:,} MiB are "
            f"allowed. Split it."
        )
    return json.loads(data.decode("utf-8-sig"))


def to_stored_path(path: Path | str) -> str:
    r"""Convert a path to printable text that every database, JSON document and terminal can hold.

    File names are bytes. Bytes that are not UTF-8 reach Python as surrogates, which no encoder accepts. Such a byte is
    written as ``\\xff``, and text of that form as ``\\x5cxff``. Any other path is unchanged.

    Args:
        path: From the file system.
    """
    text = _ESCAPED_BYTE.sub(r"\\x5cx\1", os.fspath(path))
    return _RAW_BYTE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)


def from_stored_path(text: str | Path) -> Path:
    """Convert text from ``to_stored_path`` back to a path in the file system."""

    def decode(found: re.Match[str]) -> str:
        number = int(found[1], 16)
        return chr(number if number < 0x80 else 0xDC00 + number)

    return Path(_ESCAPED_BYTE.sub(decode, os.fspath(text)))


def to_printable(text: str) -> str:
    """Replace lone surrogates, which no encoder accepts, with escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def replace_unencodable_output() -> None:
    """Make the standard streams write characters that the encoding of the terminal lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_url(name: str) -> bool:
    r"""Whether a name is a URL or a network path, such as ``https://host/x``, ``file:///x`` or ``\\\\host\\share``.

    Check this before the file is accessed: a system may contact the host. ``C:\\x`` and ``a:b`` are files.
    """
    return _ADDRESS.match(name) is not None


def resolve_inside(root: Path, name: str) -> Path:
    """Resolve ``name`` below ``root``, for names that come from a client or from a file.

    Args:
        root: The folder that must contain the file.
        name: A relative path; it need not exist.

    Returns:
        The absolute path with links resolved, strictly below ``root``.

    Raises:
        InputError: If the name is empty, absolute, contains ``..`` or a NUL, or leaves the folder through a link.
    """
    refusal = InputError(f"Invalid file name {name!r}: use a relative path inside {root.name!r}")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise refusal
    try:
        folder = root.resolve()
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # refused by the system, NUL, link loop
        raise refusal from error
    if folder not in path.parents:
        raise refusal
    return path


def _to_json(record: object, indent: int | None) -> bytes:
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, indent=indent)
    # An unpaired surrogate can only stand inside a JSON string, where its backslash form is its JSON escape.
    return text.encode("utf-8", errors="backslashreplace")


def _from_json(line: bytes) -> Any:
    return json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_object(line: bytes) -> bool:
    """Whether the bytes are one complete JSON object. A proper prefix of an object never is one."""
    try:
        return isinstance(_from_json(line), dict)
    except (ValueError, RecursionError):
        return False


def _partial_last_line(file: BinaryIO) -> tuple[int, bytes]:
    """Offset and bytes of a last line without a newline; empty bytes if the file ends with a newline."""
    start = file.seek(0, os.SEEK_END)
    tail = b""
    while start > 0 and b"\n" not in tail:
        size = min(_TAIL_BLOCK, start)
        start = file.seek(start - size)
        tail = file.read(size) + tail
    keep = tail.rfind(b"\n") + 1
    return start + keep, tail[keep:]


def _excerpt(line: bytes) -> str:
    text = line.decode("utf-8", errors="replace").strip()
    return repr(text if len(text) <= 60 else text[:60] + "...")
