"""Read rows of a Parquet file in bounded memory, whatever its metadata states and its compression ratio.

The footer of a file may state wrong sizes. A decoder allocates the size in each page header, so these are summed, read
without decompressing. Headers are Thrift compact structs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from hart_studio.data.rows import MAX_ROWS
from hart_studio.errors import DataError
from hart_studio.files import open_regular_file

_FIRST_READ: Final = 4096
_MAX_HEADER_BYTES: Final = 1 << 20
_MAX_PAGES: Final = 1_000_000
_MAX_DEPTH: Final = 8
_DICTIONARY_PAGE: Final = 2
_PAGE_TYPE, _UNPACKED, _PACKED = 1, 2, 3
_VALUE_COUNTS: Final = (5, 7, 8)
"""Fields of a page header with the type-specific header, whose first field is the number of values."""

MAX_CELL_BYTES: Final = 64 * 2**20
"""Maximum size of a table cell, which may be an image. Project default."""

MAX_ROW_BYTES: Final = 256 * 2**20
"""Maximum size of all cells of a row. Project default."""

MAX_COLUMNS: Final = 4096
"""Maximum number of columns of a table, including fields of structs. Project default."""

MAX_NESTING: Final = 32
"""Maximum nesting depth of lists and structs. Project default."""

MAX_LIST_VALUES: Final = 64_000_000
"""Maximum number of values in the lists of one column of a row group; the metadata does not state how many of them are
in one row. Project default."""

MAX_UNPACKED_BYTES: Final = 128 * 2**20
"""Maximum decompressed size of the largest pages of all columns of a row group, which are in memory at the same time.
Project default."""

MAX_COMPRESSION_RATIO: Final = 20
"""A row group may decompress to more than that up to this multiple of its compressed size: images are already
compressed. Project default."""

_BATCH_ROWS: Final = 4  # a row may contain an image of many megabytes
_MAX_FIXED_BYTES: Final = 4096
_VALUE_BYTES: Final = 60
_READ_AHEAD: Final = 1 << 20


@dataclass
class ColumnPages:
    """The pages of one column in one row group.

    Attributes:
        dictionary_bytes: Decompressed size of the dictionary.
        largest_page_bytes: Decompressed size of the largest other page.
        packed_bytes: Compressed size of all pages.
        values: Number of values, including nulls.
    """

    dictionary_bytes: int = 0
    largest_page_bytes: int = 0
    packed_bytes: int = 0
    values: int = 0


def measure_pages(file: io.BufferedReader, start: int, length: int) -> ColumnPages:
    """Read the page headers of a column.

    Args:
        file: The Parquet file.
        start: Offset of the first page, bytes.
        length: Size of all pages, bytes.

    Raises:
        DataError: If the page headers are invalid, or there are too many.
    """
    found = ColumnPages()
    end = start + length
    for _ in range(_MAX_PAGES):
        if start >= end:
            return found
        header, size = _read_header(file, start)
        packed, unpacked = header.get(_PACKED), header.get(_UNPACKED)
        if not isinstance(packed, int) or not isinstance(unpacked, int) or packed < 0 or unpacked < 0:
            raise DataError("a page without a size")
        kinds = [header[number] for number in _VALUE_COUNTS if isinstance(header.get(number), dict)]
        if header.get(_PAGE_TYPE) == _DICTIONARY_PAGE:
            found.dictionary_bytes = max(found.dictionary_bytes, unpacked)
        else:
            found.largest_page_bytes = max(found.largest_page_bytes, unpacked)
            found.values += sum(kind[1] for kind in kinds if isinstance(kind.get(1), int))
        found.packed_bytes += packed
        start += size + packed
    raise DataError(f"more than {_MAX_PAGES:,} pages in one column")


def _read_header(file: io.BufferedReader, start: int) -> tuple[dict[int, Any], int]:
    """Read the fields of the page header at an offset, and its length."""
    size = _FIRST_READ
    while True:
        file.seek(start)
        data = file.read(size)
        try:
            return _Compact(data).read_struct()
        except IndexError:
            if len(data) < size or size >= _MAX_HEADER_BYTES:
                raise DataError("a page header that is truncated or too long") from None
            size *= 16


class _Compact:
    """Reads Thrift's compact protocol; raises ``IndexError`` at the end of the bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read_struct(self, depth: int = 0) -> tuple[dict[int, Any], int]:
        """Field number -> value, and the end offset of the struct."""
        if depth > _MAX_DEPTH:
            raise DataError("a page header that is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._integer()
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields, self._at

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind in (7, 8):
            return self._skip(8 if kind == 7 else self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            if count > len(self._data):
                raise IndexError
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == 12:
            return self.read_struct(depth + 1)[0]
        raise DataError("an invalid page header")

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise IndexError

    def _byte(self) -> int:
        value = self._data[self._at]
        self._at += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise DataError("an invalid page header")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def open_parquet(path: Path) -> tuple[pa.Schema, Iterator[dict[str, Any] | ValueError]]:
    """Check the sizes of a Parquet file and open it.

    Args:
        path: The file.

    Returns:
        Its schema, and a lazy iterator of rows; a ``ValueError`` for a row that is too large.

    Raises:
        DataError: If it is not a Parquet file, or needs too much memory. Iterating the rows may raise it too.
        OSError: If it cannot be opened.
    """
    file = open_regular_file(path, follow_symlinks=True)
    try:
        with pa.PythonFile(file, "r") as source:
            metadata = pyarrow.parquet.read_metadata(source)
    except Exception as error:  # readers can raise any error on invalid bytes
        raise _unusable(path, error) from error
    file = open_regular_file(path, follow_symlinks=True)  # the file above was closed with its reader
    try:
        packed = _find_packed_columns(path, metadata, file)
        opened = pyarrow.parquet.ParquetFile(file, read_dictionary=packed, buffer_size=_READ_AHEAD)
        schema = opened.schema_arrow
    except DataError:
        file.close()
        raise
    except Exception as error:  # as above
        file.close()
        raise _unusable(path, error) from error
    return schema, _read_rows(path, file, opened)


def _read_rows(
    path: Path, file: io.BufferedReader, opened: pyarrow.parquet.ParquetFile
) -> Iterator[dict[str, Any] | ValueError]:
    with file:
        try:
            for batch in opened.iter_batches(batch_size=_BATCH_ROWS):
                yield from unpack_rows(batch)
        except Exception as error:  # as above
            raise _unusable(path, error) from error


def unpack_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | ValueError]:
    """Convert rows to Python objects after measuring their size.

    Args:
        batch: Rows in memory.

    Yields:
        Each row, or a ``ValueError`` for a row that is too large.
    """
    if _is_small(batch):
        yield from batch.to_pylist()
        return
    for number in range(batch.num_rows):
        row = batch.slice(number, 1)
        yield row.to_pylist()[0] if _is_small(row) else _too_large_row()


def _too_large_row() -> ValueError:
    return ValueError(
        f"expected cells of at most {MAX_CELL_BYTES >> 20} MiB and rows of at most {MAX_ROW_BYTES >> 20} MiB"
    )


def _unusable(path: Path, error: Exception) -> DataError:
    reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
    return DataError(f"{path.name!r} cannot be read as a Parquet file: {reason}. Check the file.")


def _find_packed_columns(path: Path, metadata: pyarrow.parquet.FileMetaData, file: io.BufferedReader) -> list[str]:
    """Find columns that must be read as dictionaries, because their decoded values would not fit in memory.

    Raises:
        DataError: If a row group would not fit even then.
    """

    def refuse(what: str, limit: str) -> DataError:
        return DataError(
            f"The Parquet file {path.name!r} has {what}; at most {limit} are allowed. Write it with smaller row "
            "groups, or remove columns."
        )

    if metadata.num_rows > MAX_ROWS:
        raise refuse(f"{metadata.num_rows:,} rows", f"{MAX_ROWS:,}")
    if metadata.num_columns > MAX_COLUMNS:
        raise refuse(f"{metadata.num_columns:,} columns", f"{MAX_COLUMNS:,}")
    schema = metadata.schema
    columns = [schema.column(number) for number in range(metadata.num_columns)]
    for column in columns:
        if column.max_definition_level > MAX_NESTING:
            raise refuse("too many levels of nested lists and structs", f"{MAX_NESTING}")
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY" and column.length > _MAX_FIXED_BYTES:
            raise refuse(f"values of {column.length:,} bytes", f"{_MAX_FIXED_BYTES:,}")
    packed: dict[str, None] = {}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        unpacked = listed = size = 0
        for index, column in enumerate(columns):
            pages = _measure_column(path, group.column(index), file)
            is_list = column.max_repetition_level > 0
            unpacked += pages.dictionary_bytes + pages.largest_page_bytes
            size += pages.packed_bytes
            listed += pages.values if is_list else 0
            worst = pages.dictionary_bytes * (pages.values if is_list else _BATCH_ROWS)
            if column.physical_type == "BYTE_ARRAY" and worst > MAX_CELL_BYTES:
                packed[column.path] = None
        if listed > MAX_LIST_VALUES:
            raise refuse(f"{listed:,} values in the lists of a row group", f"{MAX_LIST_VALUES:,}")
        if unpacked > max(MAX_UNPACKED_BYTES, MAX_COMPRESSION_RATIO * size):
            raise refuse(f"{unpacked:,} decompressed bytes in the pages of a row group", f"{MAX_UNPACKED_BYTES:,}")
    return list(packed)


def _measure_column(path: Path, column: pyarrow.parquet.ColumnChunkMetaData, file: io.BufferedReader) -> ColumnPages:
    start = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < start:
        start = column.dictionary_page_offset
    try:
        return measure_pages(file, start, column.total_compressed_size)
    except DataError as error:
        raise _unusable(path, error) from error


def _is_small(batch: pa.RecordBatch) -> bool:
    """Whether no cell and no row is too large as Python objects.

    A batch that is small as a whole has small rows.
    """
    cells = [_measure_values(column) for column in batch.columns]
    most = MAX_CELL_BYTES if batch.num_rows > 1 else MAX_ROW_BYTES
    return sum(cells) <= most and max(cells, default=0) <= MAX_CELL_BYTES


def _measure_values(values: pa.Array) -> int:
    """Bytes that an array takes as Python objects, with dictionaries decoded."""
    kind = values.type
    size = _VALUE_BYTES * len(values)
    if isinstance(values, pa.ExtensionArray):
        return _measure_values(values.storage)
    if pa.types.is_dictionary(kind):
        if not _has_bytes(kind.value_type):
            return size
        counts = values.indices.drop_null().value_counts()  # measure each distinct value once
        lengths = _measure_each(values.dictionary.take(counts.field("values")))
        return size + int(pc.sum(pc.multiply(lengths, counts.field("counts"))).as_py() or 0)
    if pa.types.is_struct(kind):
        return size + sum(_measure_values(part) for part in values.flatten())
    if pa.types.is_map(kind):
        first, last = values.offsets[0].as_py(), values.offsets[-1].as_py()
        parts = (values.keys, values.items)  # of all rows of the batch, not only these
        return size + sum(_measure_values(part.slice(first, last - first)) for part in parts)
    if pa.types.is_nested(kind):
        return size + _measure_values(values.flatten())
    return size + int(pc.sum(_measure_each(values)).as_py() or 0) if _has_bytes(kind) else size


def _has_bytes(kind: pa.DataType) -> bool:
    """Whether a type is text or bytes."""
    names = ("string", "binary", "large_string", "large_binary", "fixed_size_binary")
    return any(getattr(pa.types, f"is_{name}")(kind) for name in names)


def _measure_each(values: pa.Array) -> pa.Array:
    """Size in bytes of each text or bytes value, int64 ``[N]``."""
    return pc.binary_length(values).cast(pa.int64())
