"""Tables of questions in files: JSONL, a JSON list, CSV, TSV, Parquet. Rows come one at a time, whatever the size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from hart_studio.data.columns import ColumnMapping, infer_columns, read_row
from hart_studio.data.rows import LoadedSamples, collect_samples
from hart_studio.data.separated_rows import read_separated
from hart_studio.errors import DataError
from hart_studio.files import (
    MAX_DOCUMENT_BYTES,
    MAX_LINE_BYTES,
    open_regular_file,
    parse_bounded_json,
    read_lines,
    read_regular_file,
)
from hart_studio.records import GoldSample

PREVIEW_ROWS: Final = 5
"""Rows that are looked at for the names of columns and for a preview."""

MAX_ROWS: Final = 5_000_000
"""Rows of one table (project default): a few bytes can stand for a row, and each becomes a sample or a reason in memory."""

LINE_TOO_LONG: Final = f"expected a line of at most {MAX_LINE_BYTES >> 20} MiB"
"""Why a longer line of JSONL is left out."""

LocatedRow = tuple[str, Any]
"""Where a row is, for people, and the row: a dictionary, or the ``ValueError`` that its line is."""


def load_table(
    path: Path,
    cache: Path,
    columns: ColumnMapping | None = None,
    *,
    image_root: Path | None = None,
    needs_answer: bool = False,
) -> LoadedSamples[GoldSample]:
    """Read a table of questions.

    Args:
        path: The file; its ending tells the form.
        cache: Folder for images that are in the table as bytes, made when missing.
        columns: Which column holds what; guessed by their names when None.
        image_root: Folder that images' paths start from; the file's own by default.
        needs_answer: Whether a row without a known answer is a bad one.

    Raises:
        DataError: If the file cannot be read, lacks a column, or holds no sample at all.
    """
    names, _ = preview_table(path)
    chosen = columns or infer_columns(names)
    chosen.check(names, path.name)
    source, root = path.resolve().stem, image_root or path.parent
    return collect_rows(read_rows(path), chosen, source, root, cache, needs_answer=needs_answer)


def collect_rows(
    rows: Iterable[LocatedRow], columns: ColumnMapping, source: str, root: Path, cache: Path, *, needs_answer: bool
) -> LoadedSamples[GoldSample]:
    """Turn rows into samples; a row that is none is counted and left out.

    Args:
        rows: Rows with their places.
        columns: Which column holds what.
        source: Name of the data set.
        root: Folder that images given as paths must lie in.
        cache: Folder for images that come as bytes, made when missing.
        needs_answer: Whether a row without a known answer is invalid.

    Raises:
        DataError: If no row is a sample.
    """
    cache.mkdir(parents=True, exist_ok=True)

    def read(numbered: tuple[int, Any]) -> GoldSample:
        number, row = numbered
        if isinstance(row, ValueError):
            raise row
        if not isinstance(row, dict):
            raise ValueError(f"expected an object, got {type(row).__name__}")
        whole = {name: row.get(name) for name in columns.named}
        return read_row(whole, columns, number=number, source=source, root=root, cache=cache)

    placed = ((place, (number, row)) for number, (place, row) in enumerate(rows, start=1))
    return collect_samples(source, placed, read, needs_answer=needs_answer)


def preview_table(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the columns, and the first good rows.

    Raises:
        DataError: If the file cannot be read, or has no row.
    """
    rows: list[dict[str, Any]] = []
    for _, row in read_rows(path):
        if isinstance(row, dict):
            rows.append(row)
        if len(rows) == PREVIEW_ROWS:
            break
    if not rows:
        raise DataError(f"expected rows with named columns in {path.name!r}, got none; check the file")
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def read_rows(path: Path) -> Iterator[LocatedRow]:
    """Every row of a table with its place, one after another, so that a table may be larger than the memory.

    In memory is a line of JSONL, CSV and TSV, a page of each column of Parquet, and all of a JSON list. All of these
    are bounded, see docs/security.md.

    Args:
        path: The file; its ending tells the form.

    Yields:
        Where the row is, and its cells by the names of their columns, or the ``ValueError`` that its line is. What a
        JSON file holds in a row may be anything.

    Raises:
        DataError: If the file cannot be read as a table.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"expected a table ({', '.join(_READERS)}), got {path.name!r}; convert it, or name its form")
    try:
        for number, row in enumerate(reader(path)):
            if number == MAX_ROWS:
                raise DataError(f"expected at most {MAX_ROWS:,} rows in {path.name!r}, got more; split the file")
            yield row
    except OSError as error:
        raise DataError(f"expected a readable file at {path}, got {error.strerror or error}; check the path") from error


def _read_jsonl(path: Path) -> Iterator[LocatedRow]:
    with open_regular_file(path, follow_symlinks=True) as file:
        for number, line in read_lines(file):
            if line is None:
                yield f"line {number}", ValueError(LINE_TOO_LONG)
            elif line.strip():
                yield f"line {number}", _parse(line.rstrip(b"\r\n"))


def _parse(line: bytes) -> Any:
    try:
        return parse_bounded_json(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"no JSON: {error}")


def _read_json(path: Path) -> Iterator[LocatedRow]:
    rows = _parse(read_regular_file(path, MAX_DOCUMENT_BYTES, follow_symlinks=True))
    if not isinstance(rows, list):
        found = rows if isinstance(rows, ValueError) else type(rows).__name__
        raise DataError(f"expected a JSON list of rows in {path.name!r}, got {found}; repair the file")
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _read_parquet(path: Path) -> Iterator[LocatedRow]:
    from hart_studio.data.parquet_rows import open_parquet  # noqa: PLC0415 - takes a moment, and few files need it

    _, rows = open_parquet(path)
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


_READERS: Final[dict[str, Callable[[Path], Iterator[LocatedRow]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": lambda path: read_separated(path, ",;"),
    ".tsv": lambda path: read_separated(path, "\t"),
    ".parquet": _read_parquet,
}
