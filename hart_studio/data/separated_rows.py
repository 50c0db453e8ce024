"""Read CSV and TSV row by row, in UTF-8 or Windows-1252; an invalid row does not affect other rows.

The ``csv`` module alone is not enough for handmade files: an unclosed quotation mark makes one cell
of all following rows, and a single byte that is not UTF-8 must not change the encoding of the whole file.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hart_studio.errors import DataError
from hart_studio.files import open_regular_file

MAX_CELL_CHARS: Final = 64 * 1024 * 1024
"""Maximum characters of a cell, which may be an image in base64. Project default."""

MAX_ROW_CHARS: Final = 4 * MAX_CELL_CHARS
"""Maximum characters of a row. Project default."""

MAX_CELLS: Final = 1_000_000
"""Maximum cells of a row. Project default."""

MIN_COLUMNS_TO_RESYNC: Final = 3
"""Minimum columns from which a line inside an unclosed quoted cell may count as a row of its own: with fewer, ordinary
text with commas may be mistaken for one. Project default."""

MAX_LINES_READ_AGAIN: Final = 1_000_000
"""Maximum number of lines of a file that are read again after an unclosed quotation mark. Project default."""

_LONGEST_HEADER: Final = 64 * 1024
_CHUNK_BYTES: Final = 1024 * 1024
_BAD_BYTE: Final = re.compile("[\udc80-\udcff]")
_NON_ASCII: Final = re.compile("[^\x00-\x7f\udc80-\udcff]")
_UNCLOSED: Final = "unexpected end of data"
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

NumberedLine = tuple[int, str]


def read_separated(path: Path, separators: str) -> Iterator[tuple[str, Any]]:
    """Iterate over the rows of a CSV or TSV file.

    Args:
        path: The file, with the column names in the first row.
        separators: Possible separators; the most frequent one in the first line is used.

    Yields:
        Location of the row, and its cells by column name, or a ``ValueError`` with the reason.

    Raises:
        DataError: If the file is in UTF-16, two columns have the same name, or a row is too long.
        OSError: If it cannot be read.
    """
    csv.field_size_limit(MAX_CELL_CHARS)
    opened = open_regular_file(path, follow_symlinks=True)
    with io.TextIOWrapper(
        opened, encoding=_find_encoding(opened, path.name), errors="surrogateescape", newline=""
    ) as file:
        header = file.readline(_LONGEST_HEADER)
        file.seek(0)
        # Spreadsheets in many locales write semicolons.
        separator = max(separators, key=header.count)
        rows = _Rows(file, separator, path.name)
        columns: list[str] | None = None
        for location, cells in rows:
            if isinstance(cells, ValueError):
                if columns is None:
                    raise DataError(f"Cannot read the column names of {path.name!r}: {cells}. Repair the first line.")
                yield location, cells
            elif columns is None:
                columns = rows.columns = cells
                _check_columns(columns, path.name)
            elif len(cells) > len(columns):
                yield location, ValueError("more cells than the header has columns")
            elif len(cells) < len(columns):
                yield location, ValueError("fewer cells than the header has columns")
            else:
                yield location, dict(zip(columns, cells, strict=True))


class _Rows:
    """Rows of cells. A quoted cell may contain line breaks, so a row can have many lines."""

    def __init__(self, file: io.TextIOWrapper, separator: str, name: str) -> None:
        self.columns: list[str] | None = None
        self._file, self._separator, self._name = file, separator, name
        self._waiting: deque[NumberedLine] = deque()
        self._read = self._read_again = 0

    def __iter__(self) -> Iterator[tuple[str, list[str] | ValueError]]:
        while (first := self._next_line()) is not None:
            lines, cells = self._join(first)
            if not cells and not isinstance(cells, ValueError):
                continue  # an empty line
            yield f"line {lines[-1][0]}", cells

    def _join(self, first: NumberedLine) -> tuple[list[NumberedLine], list[str] | ValueError]:
        """Read lines until a row is complete.

        Raises:
            DataError: If the first line is too long, or there are too many unclosed quotation marks.
        """
        lines, length = [first], len(first[1])
        cells = first[1].count(self._separator)
        if length > MAX_ROW_CHARS or cells > MAX_CELLS:
            raise DataError(
                f"A row of {self._name!r} has more than {MAX_ROW_CHARS >> 20} MiB or {MAX_CELLS:,} cells. "
                "Repair the file."
            )

        def feed() -> Iterator[str]:
            nonlocal length, cells
            yield first[1]
            while length <= MAX_ROW_CHARS and cells <= MAX_CELLS and (line := self._next_line()) is not None:
                lines.append(line)
                length += len(line[1])
                cells += line[1].count(self._separator)
                yield line[1]

        try:
            row = next(csv.reader(feed(), delimiter=self._separator, strict=True), [])
        except csv.Error as error:
            if len(lines) > 1 or str(error) == _UNCLOSED:
                return self._give_back(lines)
            # For example a quotation mark after the end of a quoted cell.
            row = self._parse(first[1], is_strict=False)
        if len(lines) > 2 and all(map(self._is_row, lines[1:-1])):
            return self._give_back(lines)
        if any(_BAD_BYTE.search(cell) for cell in row):
            return lines, ValueError("invalid bytes in the encoding of the file; save it as UTF-8")
        return lines, row

    def _give_back(self, lines: list[NumberedLine]) -> tuple[list[NumberedLine], ValueError]:
        """Skip the first line, and read the others again as separate rows."""
        self._read_again += len(lines) - 1
        if self._read_again > MAX_LINES_READ_AGAIN:
            raise DataError(
                f"Too many unclosed quotation marks in {self._name!r}, the last one in line {lines[0][0]}. "
                "Repair the quotation marks, or export the table again."
            )
        self._waiting.extendleft(reversed(lines[1:]))
        return lines[:1], ValueError("unclosed quotation mark")

    def _is_row(self, line: NumberedLine) -> bool:
        """Whether a line within a quoted cell is a complete row: then the quotation mark was a mistake."""
        if self.columns is None or len(self.columns) < MIN_COLUMNS_TO_RESYNC:
            return False
        try:
            return len(self._parse(line[1], is_strict=True)) == len(self.columns)
        except csv.Error:
            return False

    def _parse(self, line: str, *, is_strict: bool) -> list[str]:
        return next(csv.reader([line], delimiter=self._separator, strict=is_strict), [])

    def _next_line(self) -> NumberedLine | None:
        if self._waiting:
            return self._waiting.popleft()
        line = self._file.readline(MAX_ROW_CHARS + 1)
        self._read += 1
        return (self._read, line) if line else None


def _check_columns(columns: list[str], name: str) -> None:
    twice = [column for column, count in Counter(columns).items() if count > 1 and column.strip()]
    if twice:
        raise DataError(f"Two columns of {name!r} are named {twice[0]!r}. Nothing was read. Rename one of them.")


def _find_encoding(file: io.BufferedReader, name: str) -> str:
    """Detect the encoding: UTF-8 unless most non-ASCII bytes are invalid in it, otherwise Windows-1252."""
    start = file.read(4)
    file.seek(0)
    if start.startswith(_UTF_16):
        raise DataError(f"{name!r} is in UTF-16, UTF-8 is needed. Nothing was read. Save the file as CSV UTF-8.")
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    good = bad = 0
    while chunk := file.read(_CHUNK_BYTES):
        if chunk.isascii() and not decoder.getstate()[0]:
            continue
        text = decoder.decode(chunk)
        bad += len(_BAD_BYTE.findall(text))
        good += len(_NON_ASCII.findall(text))
    bad += len(_BAD_BYTE.findall(decoder.decode(b"", final=True)))
    file.seek(0)
    return "utf-8-sig" if bad <= good else "cp1252"
