"""CSV and TSV: rows one at a time, in UTF-8 or Windows-1252, where a bad row costs no other row.

The ``csv`` module alone is not enough for files that people made: a quotation mark that is never closed makes one cell
of all rows behind it, and a single byte that is no UTF-8 must not change how the whole file is read.
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

LARGEST_CELL: Final = 64 * 1024 * 1024
"""Characters of one cell (project default): an image in base64 is one cell."""

LONGEST_ROW: Final = 4 * LARGEST_CELL
"""Characters of one row. Project default."""

MOST_CELLS: Final = 1_000_000
"""Cells of one row. Project default."""

FEWEST_COLUMNS_TO_RESYNC: Final = 3
"""In a table with fewer columns, ordinary text with commas looks like a row. Project default."""

MOST_READ_AGAIN: Final = 1_000_000
"""Lines of one file that are read again because a quotation mark before them is never closed. Project default."""

_LONGEST_HEADER: Final = 64 * 1024
_CHUNK_BYTES: Final = 1024 * 1024
_BAD_BYTE: Final = re.compile("[\udc80-\udcff]")
_NON_ASCII: Final = re.compile("[^\x00-\x7f\udc80-\udcff]")
_UNCLOSED: Final = "unexpected end of data"
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

NumberedLine = tuple[int, str]


def read_separated(path: Path, separators: str) -> Iterator[tuple[str, Any]]:
    """Rows of a CSV or TSV file.

    Args:
        path: The file, with the names of the columns in its first row.
        separators: Possible separators; the most frequent one in the first line is taken.

    Yields:
        Where the row is, and its cells by column name, or the ``ValueError`` that says why it is none.

    Raises:
        DataError: If the file is in UTF-16, two columns have one name, or a row is too long.
        OSError: If it cannot be read.
    """
    csv.field_size_limit(LARGEST_CELL)
    opened = open_regular_file(path, follow_symlinks=True)
    with io.TextIOWrapper(
        opened, encoding=_find_encoding(opened, path.name), errors="surrogateescape", newline=""
    ) as file:
        header = file.readline(_LONGEST_HEADER)
        file.seek(0)
        # Spreadsheets of many countries put semicolons into files of this name.
        separator = max(separators, key=header.count)
        rows = _Rows(file, separator, path.name)
        columns: list[str] | None = None
        for place, cells in rows:
            if isinstance(cells, ValueError):
                if columns is None:
                    raise DataError(
                        f"expected the names of the columns in {path.name!r}: {cells}; repair the first line"
                    )
                yield place, cells
            elif columns is None:
                columns = rows.columns = cells
                _check_columns(columns, path.name)
            elif len(cells) > len(columns):
                yield place, ValueError("more cells than the header has columns")
            elif len(cells) < len(columns):
                yield place, ValueError("fewer cells than the header has columns")
            else:
                yield place, dict(zip(columns, cells, strict=True))


class _Rows:
    """Rows of cells. A quoted cell may hold line breaks, so a row can have many lines."""

    def __init__(self, file: io.TextIOWrapper, separator: str, name: str) -> None:
        self.columns: list[str] | None = None
        self._file, self._separator, self._name = file, separator, name
        self._waiting: deque[NumberedLine] = deque()
        self._read = self._given_back = 0

    def __iter__(self) -> Iterator[tuple[str, list[str] | ValueError]]:
        while (first := self._next_line()) is not None:
            lines, cells = self._join(first)
            if not cells and not isinstance(cells, ValueError):
                continue  # an empty line
            yield f"line {lines[-1][0]}", cells

    def _join(self, first: NumberedLine) -> tuple[list[NumberedLine], list[str] | ValueError]:
        """Take lines until a row is complete.

        Raises:
            DataError: If the first line is too long, or too many quotation marks are never closed.
        """
        lines, length = [first], len(first[1])
        cells = first[1].count(self._separator)
        if length > LONGEST_ROW or cells > MOST_CELLS:
            raise DataError(
                f"expected rows of at most {LONGEST_ROW >> 20} MiB and {MOST_CELLS:,} cells in {self._name!r}, "
                "got a larger one; repair the file"
            )

        def feed() -> Iterator[str]:
            nonlocal length, cells
            yield first[1]
            while length <= LONGEST_ROW and cells <= MOST_CELLS and (line := self._next_line()) is not None:
                lines.append(line)
                length += len(line[1])
                cells += line[1].count(self._separator)
                yield line[1]

        try:
            row = next(csv.reader(feed(), delimiter=self._separator, strict=True), [])
        except csv.Error as error:
            if len(lines) > 1 or str(error) == _UNCLOSED:
                return self._give_back(lines)
            # A quotation mark behind the end of a quoted cell, for example.
            row = self._parse(first[1], is_strict=False)
        if len(lines) > 2 and all(map(self._is_row, lines[1:-1])):
            return self._give_back(lines)
        if any(_BAD_BYTE.search(cell) for cell in row):
            return lines, ValueError("bytes that are no text in the encoding of the file; save it as UTF-8")
        return lines, row

    def _give_back(self, lines: list[NumberedLine]) -> tuple[list[NumberedLine], ValueError]:
        """Leave out the first line, and read the others again as rows of their own."""
        self._given_back += len(lines) - 1
        if self._given_back > MOST_READ_AGAIN:
            raise DataError(
                f"Too many quotation marks in {self._name!r} are never closed, the last one in line {lines[0][0]}. "
                "Repair the quotation marks, or export the table again."
            )
        self._waiting.extendleft(reversed(lines[1:]))
        return lines[:1], ValueError("a quotation mark that is never closed")

    def _is_row(self, line: NumberedLine) -> bool:
        """Whether a line within a quoted cell is a whole row: then the cell's quotation mark was an accident."""
        if self.columns is None or len(self.columns) < FEWEST_COLUMNS_TO_RESYNC:
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
        line = self._file.readline(LONGEST_ROW + 1)
        self._read += 1
        return (self._read, line) if line else None


def _check_columns(columns: list[str], name: str) -> None:
    twice = [column for column, count in Counter(columns).items() if count > 1 and column.strip()]
    if twice:
        raise DataError(f"Two columns of {name!r} are named {twice[0]!r}. Nothing was read. Rename one of them.")


def _find_encoding(file: io.BufferedReader, name: str) -> str:
    """UTF-8 unless most of the characters beyond ASCII are none: then what older Windows programs write."""
    start = file.read(4)
    file.seek(0)
    if start.startswith(_UTF_16):
        raise DataError(f"expected UTF-8 text in {name!r}, got UTF-16. Nothing was read. Save the file as CSV UTF-8.")
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
