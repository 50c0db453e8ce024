"""Read rows of an Arrow file in bounded memory, whatever its metadata states.

The file is read, not memory-mapped: truncating a mapped file while it is read would crash the process.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from hart_studio.data.parquet_rows import (
    MAX_COLUMNS,
    MAX_LIST_VALUES,
    MAX_NESTING,
    MAX_UNPACKED_BYTES,
    unpack_rows,
)
from hart_studio.data.rows import MAX_ROWS
from hart_studio.errors import DataError
from hart_studio.files import open_regular_file

MAX_BATCH_BYTES: Final = 2**30
"""Maximum size of one record batch, which is loaded as a whole. Project default."""

_MAX_METADATA_BYTES: Final = 16 * 2**20
_ROWS_PER_BATCH: Final = 4  # a row may contain an image of many megabytes
_DICTIONARY_BATCH: Final = 2  # values of org.apache.arrow.flatbuf.MessageHeader
_RECORD_BATCH: Final = 3
_OLD_COMPRESSION: Final = b"ARROW:experimental_compression"
_CONTINUATION: Final = 0xFFFFFFFF
_FILE_MAGIC: Final = b"ARROW1\0\0"


def read_arrow(path: Path) -> Iterator[dict[str, Any] | ValueError]:
    """Read an Arrow file in the stream format, as ``datasets`` writes it, or in the file format.

    Args:
        path: The file.

    Yields:
        The rows; a ``ValueError`` for a row that is too large.

    Raises:
        DataError: If the file is not an Arrow file, is compressed, has columns of an unsupported type, or needs too
            much memory.
    """
    try:
        with open_regular_file(path, follow_symlinks=True) as file:
            # The messages of both formats are the same. The footer of a file is not used: it could point to
            # messages that were not checked.
            start = len(_FILE_MAGIC) if file.read(len(_FILE_MAGIC)) == _FILE_MAGIC else 0
            file.seek(start)
            _check_messages(file, path)
            file.seek(start)
            with pa.PythonFile(file, "r") as source:
                reader = pa.ipc.open_stream(source)
                _check_types(reader.schema, path)
                for batch in reader:
                    batch.validate(full=True)  # offsets and indices may be invalid
                    for first in range(0, batch.num_rows, _ROWS_PER_BATCH):
                        yield from unpack_rows(batch.slice(first, _ROWS_PER_BATCH))
    except DataError:
        raise
    except Exception as error:  # readers can raise any error on invalid bytes
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        raise DataError(f"{path.name!r} cannot be read as an Arrow file: {reason}. Save the dataset again.") from error


@dataclass
class _Message:
    """Metadata of a message about its batch.

    Attributes:
        kind: ``_RECORD_BATCH``, ``_DICTIONARY_BATCH`` or another.
        body_bytes: Size of the body that follows.
        is_compressed: Whether the buffers are compressed.
        rows: Length of the batch.
        lengths: Length of each array, including those in lists and structs.
    """

    kind: int
    body_bytes: int
    is_compressed: bool = False
    rows: int = 0
    lengths: list[int] = field(default_factory=list)


def _check_messages(file: io.BufferedReader, path: Path) -> None:
    """Check the metadata of all messages without reading their bodies.

    Args:
        file: The open file, at its first message.
        path: For the message.

    Raises:
        DataError: If a batch is compressed, or the batches are too large.
    """

    def refuse(what: str, limit: str, advice: str = "Split it into several files") -> DataError:
        return DataError(f"The Arrow file {path.name!r} has {what}; at most {limit} are allowed. {advice}.")

    size = os.fstat(file.fileno()).st_size
    rows = dictionaries = 0
    while message := _read_message(file, path):
        if message.is_compressed:
            # They may decompress to any size; ``datasets`` writes none.
            raise DataError(f"{path.name!r} has compressed record batches. Save the dataset again without compression.")
        end = file.seek(0, os.SEEK_CUR) + message.body_bytes
        if message.body_bytes < 0 or end > size:
            raise DataError(
                f"{path.name!r} cannot be read as an Arrow file: it ends inside a message. Save the dataset again."
            )
        if message.body_bytes > MAX_BATCH_BYTES:
            raise refuse(
                f"{message.body_bytes:,} bytes in a record batch", f"{MAX_BATCH_BYTES:,} bytes",
                "Save it with fewer rows per batch",
            )  # fmt: skip
        if message.kind == _RECORD_BATCH:
            rows += message.rows
        elif message.kind == _DICTIONARY_BATCH:
            dictionaries += message.body_bytes
        nested = [length for length in message.lengths if length > message.rows]
        if min([message.rows, *message.lengths]) < 0:
            raise DataError(f"{path.name!r} cannot be read as an Arrow file: negative length. Save the dataset again.")
        if rows > MAX_ROWS or message.rows > MAX_ROWS:
            raise refuse(f"{max(rows, message.rows):,} rows", f"{MAX_ROWS:,} rows")
        if nested and max(nested) > MAX_LIST_VALUES:
            raise refuse(
                f"{max(nested):,} values in the lists of a record batch", f"{MAX_LIST_VALUES:,} values",
                "Save it with fewer rows per batch",
            )  # fmt: skip
        if dictionaries > MAX_UNPACKED_BYTES:
            raise refuse(
                f"{dictionaries:,} bytes of dictionaries",
                f"{MAX_UNPACKED_BYTES:,} bytes",
                "Save it without dictionaries",
            )
        file.seek(end)


def _read_message(file: io.BufferedReader, path: Path) -> _Message | None:
    """Read the metadata of the next message; None at the end. The file is then positioned at the body."""
    head = file.read(4)
    if head == _CONTINUATION.to_bytes(4, "little"):
        head = file.read(4)
    size = int.from_bytes(head, "little") if len(head) == 4 else 0
    if size == 0:
        return None
    if size > _MAX_METADATA_BYTES:
        raise DataError(
            f"{path.name!r} cannot be read as an Arrow file: {size:,} bytes of metadata. Save the dataset again."
        )
    metadata = file.read(size)
    try:
        return _parse_message(metadata)
    except (struct.error, IndexError):
        raise DataError(
            f"{path.name!r} cannot be read as an Arrow file: a message without metadata. Save the dataset again."
        ) from None


def _parse_message(metadata: bytes) -> _Message:
    """Read the metadata of a message, a FlatBuffer.

    Raises:
        struct.error: If the FlatBuffer is invalid.
        IndexError: If the FlatBuffer is invalid.
    """
    table = _follow(metadata, 0)
    kind, header, body = (_find_field(metadata, table, number) for number in (1, 2, 3))
    found = _Message(metadata[kind] if kind else 0, struct.unpack_from("<q", metadata, body)[0] if body else 0)
    found.is_compressed = _OLD_COMPRESSION in metadata
    if not header or found.kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return found
    batch = _follow(metadata, header)
    if found.kind == _DICTIONARY_BATCH:
        data = _find_field(metadata, batch, 1)
        if not data:
            return found
        batch = _follow(metadata, data)
    length, nodes = _find_field(metadata, batch, 0), _find_field(metadata, batch, 1)
    found.rows = struct.unpack_from("<q", metadata, length)[0] if length else 0
    found.is_compressed = found.is_compressed or bool(_find_field(metadata, batch, 3))
    if nodes:
        start = _follow(metadata, nodes)
        (count,) = struct.unpack_from("<I", metadata, start)
        if count * 16 > len(metadata):
            raise IndexError
        found.lengths = [struct.unpack_from("<q", metadata, start + 4 + 16 * each)[0] for each in range(count)]
    return found


def _follow(data: bytes, position: int) -> int:
    """Position of the table that an offset of a FlatBuffer points to."""
    return position + int(struct.unpack_from("<I", data, position)[0])


def _find_field(data: bytes, table: int, number: int) -> int:
    """Position of a field of a FlatBuffer table; 0 = missing."""
    start = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, start)[0]
    position = 4 + 2 * number
    offset = struct.unpack_from("<H", data, start + position)[0] if position + 2 <= size else 0
    return table + offset if offset else 0


def _check_types(schema: pa.Schema, path: Path) -> None:
    """Refuse types whose values may share bytes, and too many columns.

    Raises:
        DataError: If there are such types or too many columns.
    """
    count = 0
    waiting = [(kind, 0) for kind in schema.types]
    while waiting:
        kind, depth = waiting.pop()
        count += 1
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        if count > MAX_COLUMNS or depth > MAX_NESTING:
            raise DataError(
                f"The Arrow file {path.name!r} has more than {MAX_COLUMNS:,} columns, or more than {MAX_NESTING} "
                "nested lists and structs. Remove columns."
            )
        is_plain_dictionary = pa.types.is_dictionary(kind) and not (
            pa.types.is_nested(kind.value_type)
            or pa.types.is_dictionary(kind.value_type)
            or isinstance(kind.value_type, pa.BaseExtensionType)
            or _is_shared(kind.value_type)
        )
        if _is_shared(kind) or (pa.types.is_dictionary(kind) and not is_plain_dictionary):
            raise DataError(
                f"{path.name!r} has a column of the unsupported type {str(kind)[:80]}. Save the "
                "dataset with a plain type instead."
            )
        if pa.types.is_nested(kind):
            waiting += [(kind.field(number).type, depth + 1) for number in range(kind.num_fields)]


def _is_shared(kind: pa.DataType) -> bool:
    """Whether values of a type may share bytes of a buffer, or the size of the type is unknown."""
    views = ("string_view", "binary_view", "list_view", "large_list_view", "run_end_encoded", "union")
    return any(getattr(pa.types, f"is_{name}")(kind) for name in views)
