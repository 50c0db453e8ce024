"""Files that survive a crash: whole-file writes are atomic, JSONL is append-only, names stay inside their folder.

Text is UTF-8. JSON has no NaN and no Infinity: writing one is a ``ValueError``, reading the word a ``DataError``.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from hart_studio.errors import DataError, InputError

_ADDRESS = re.compile(r"\s*(?:[a-z][a-z0-9+.-]+:/|[/\\]{2})", re.IGNORECASE)
_TAIL_BLOCK = 65536


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace a file so that a reader sees the old content or the new one, never a part.

    Args:
        path: The file; its folder must exist.
        data: The whole content; text is written as UTF-8.

    Raises:
        OSError: If the folder is missing or full; the old file is then untouched.
    """
    # Same folder, so that the last step is a rename; opened by us, so that the file gets the usual access rights.
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
    """Replace a file by one indented JSON document, atomically.

    Raises:
        ValueError: If the record holds NaN or infinity.
        TypeError: If the record holds something that JSON has no form for.
        OSError: If the folder is missing or full.
    """
    write_atomically(path, _to_json(record, indent=2) + b"\n")


def append_jsonl(path: Path, record: object) -> None:
    """Add one line to a JSONL file, made when missing. One writer per file.

    A line that a crash left torn is removed first, so that it cannot swallow the new one.

    Raises:
        ValueError: If the record holds NaN or infinity.
        TypeError: If the record holds something that JSON has no form for.
        OSError: If the folder is missing or full.
    """
    line = _to_json(record, indent=None) + b"\n"
    with path.open("a+b") as file:
        line_start, tail = _unfinished_tail(file)
        if tail and _is_object(tail):
            line = b"\n" + line
        elif tail:
            file.truncate(line_start)
        file.write(line)


def read_jsonl(path: Path, *, is_plain: bool = False) -> Iterator[tuple[int, Any]]:
    """Read a JSONL file line by line.

    A last line without a newline is yielded when it is a whole JSON object, else it is still being written, or was
    torn by a crash, and is left out. Blank lines are skipped.

    Args:
        path: The file.
        is_plain: Whether it must be a file itself, see ``open_plain``, and no link to one.

    Yields:
        ``(line_number, value)``, counting from 1.

    Raises:
        DataError: If the file cannot be opened, or at the first line that is not JSON.
    """
    try:
        file = open_plain(path) if is_plain else path.open("rb")
    except OSError as error:
        raise DataError(
            f"expected a readable JSONL file at {path.name!r}, got {error.strerror}; check the path"
        ) from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip() or (not line.endswith(b"\n") and not _is_object(line)):
                continue
            try:
                value = _from_json(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path.name!r} line {number}: expected one JSON value, got {_excerpt(line)} ({error}); "
                    "repair or remove the line"
                ) from error
            yield number, value


def open_plain(path: Path, *, may_link: bool = False) -> BinaryIO:
    """Open a file of a folder that may come from somebody else: nothing but a file, and that very one.

    A link would hand out whatever it leads to, and a pipe would let its reader wait for ever.

    Args:
        path: The file.
        may_link: Whether it may be a link to a file, as where a person names it.

    Raises:
        OSError: If it is missing, a link, or no plain file.
    """
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if may_link else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return os.fdopen(number, "rb")


def read_plain(path: Path, most_bytes: int = 32 * 2**20, *, may_link: bool = False) -> bytes:
    """The whole content of such a file.

    Raises:
        OSError: As ``open_plain``, or if it is larger than that.
    """
    with open_plain(path, may_link=may_link) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes:,} bytes", str(path))
    return data


def names_address(name: str) -> bool:
    r"""Whether a name is an address, such as ``https://host/x``, ``file:///x`` or ``\\host\share``, and no file here.

    Ask before the file is looked for: a system may call the host to do so. ``C:\x`` and ``a:b`` are files.
    """
    return _ADDRESS.match(name) is not None


def resolve_inside(root: Path, name: str) -> Path:
    """The real path of ``name`` below ``root``, for names that came from a client or from a file.

    Args:
        root: The folder that must not be left.
        name: A relative path; it need not exist.

    Returns:
        The absolute path with links resolved, strictly below ``root``.

    Raises:
        InputError: If the name is empty, absolute, holds ``..`` or a NUL, or leads out through a link.
    """
    refusal = InputError(f"expected the name of a file below {root.name!r}, got {name!r}; use a relative path in it")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise refusal
    try:
        folder = root.resolve()
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # refused by the system, NUL, loop of links
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
    """Whether the bytes are one whole JSON object. No proper prefix of an object is one, so a torn line never is."""
    try:
        return isinstance(_from_json(line), dict)
    except (ValueError, RecursionError):
        return False


def _unfinished_tail(file: BinaryIO) -> tuple[int, bytes]:
    """Where the last line starts and its bytes, when no newline ends it; empty bytes when one does."""
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
