"""Sizes that the pages of a Parquet file unpack to, read from the page headers without unpacking anything.

The metadata at the end of a file may state any size. A decoder allocates what each page header states, so these are
counted. Headers are Thrift compact structs.
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
"""Fields of a page header that hold the header of its kind, whose first field is the number of values."""


@dataclass
class ColumnPages:
    """The pages of one column in one row group.

    Attributes:
        dictionary_bytes: Unpacked size of its dictionary.
        largest_page_bytes: Unpacked size of its largest other page.
        packed_bytes: Packed size of all pages.
        values: Number of values, nulls included.
    """

    dictionary_bytes: int = 0
    largest_page_bytes: int = 0
    packed_bytes: int = 0
    values: int = 0


def measure_pages(file: io.BufferedReader, start: int, length: int) -> ColumnPages:
    """Read the page headers of a column.

    Args:
        file: The Parquet file.
        start: Where the first page begins, bytes.
        length: Bytes of all pages.

    Raises:
        DataError: If they are no page headers, or too many.
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
    """The fields of the page header at a place, and its length."""
    size = _FIRST_READ
    while True:
        file.seek(start)
        data = file.read(size)
        try:
            return _Compact(data).read_struct()
        except IndexError:
            if len(data) < size or size >= _MAX_HEADER_BYTES:
                raise DataError("a page header that is cut short or too long") from None
            size *= 16


class _Compact:
    """Reads Thrift's compact protocol; raises ``IndexError`` where the bytes end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read_struct(self, depth: int = 0) -> tuple[dict[int, Any], int]:
        """Field number -> value, and where the struct ends."""
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
        raise DataError("no page header where one should be")

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
        raise DataError("no page header where one should be")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
