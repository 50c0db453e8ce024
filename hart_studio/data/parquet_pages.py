"""Read the decompressed sizes of Parquet pages from the page headers, without decompressing.

The footer of a file may state wrong sizes. A decoder allocates the size in each page header, so these are
summed. Headers are Thrift compact structs.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

from hart_studio.errors import DataError

_FIRST_READ: Final = 4096
_MAX_HEADER_BYTES: Final = 1 << 20
_MAX_PAGES: Final = 1_000_000
_MAX_DEPTH: Final = 8
_DICTIONARY_PAGE: Final = 2
_PAGE_TYPE, _UNPACKED, _PACKED = 1, 2, 3
_VALUE_COUNTS: Final = (5, 7, 8)
"""Fields of a page header with the type-specific header, whose first field is the number of values."""


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
