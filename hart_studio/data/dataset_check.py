"""Check the files of a benchmark: valid rows, dropped rows with their reasons, and the published numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from hart_studio.data.benchmarks.catalog import BENCHMARKS, Benchmark, get_benchmark, load_benchmark
from hart_studio.data.benchmarks.images import image_cache_folder
from hart_studio.data.benchmarks.published_counts import get_facts
from hart_studio.data.benchmarks.published_files import find_tables
from hart_studio.data.rows import MAX_DROPPED_SHARE, LoadedSamples
from hart_studio.errors import DataError, HartError, InputError
from hart_studio.formatting import format_percent
from hart_studio.progress import shorten_to_line
from hart_studio.records import GoldSample, Record

GUESS_ROWS: Final = 20
"""Number of rows read to detect the benchmark of a file. Project default."""

SHOWN_REASONS: Final = 20
SHOWN_ROWS: Final = 5


class DroppedRows(Record):
    """Invalid rows with the same reason."""

    reason: str
    """Why they are invalid, untrusted text."""
    count: int
    """Number of rows."""
    rows: tuple[str, ...]
    """Locations of the first ones, such as ``line 3``."""


class CategoryCount(Record):
    """Questions of one category."""

    category: str
    """Category, or its first levels."""
    found: int
    """Valid rows."""
    published: int
    """Published number of questions."""


class DatasetCheck(Record):
    """Result of a check."""

    benchmark: str
    """Name of the benchmark whose format was read."""
    path: str
    """The checked file or folder; empty = the downloaded files."""
    rows: int
    """Rows read."""
    valid: int
    """Rows that are questions."""
    dropped: tuple[DroppedRows, ...]
    """Invalid rows by reason, the most frequent first."""
    published: int | None
    """Published number of questions; None if it is not fixed, or only a part was read."""
    categories: tuple[CategoryCount, ...]
    """Categories with published numbers; empty if there are none, or only a part was read."""
    is_usable: bool
    """Whether at most 1 % of the rows are dropped, as an evaluation requires."""

    def lines(self) -> Iterator[str]:
        """Lines for a terminal."""
        count = self.rows - self.valid
        share = format_percent(count / self.rows)
        yield f"{BENCHMARKS[self.benchmark].title}: {self.rows:,} rows read, {count:,} dropped ({share})"
        for each in self.dropped[:SHOWN_REASONS]:
            more = ", ..." if each.count > len(each.rows) else ""
            yield f"  {each.count:,} x {shorten_to_line(each.reason)} ({', '.join(each.rows)}{more})"
        if len(self.dropped) > SHOWN_REASONS:
            yield f"  and {len(self.dropped) - SHOWN_REASONS:,} other reasons"
        if self.published is not None:
            yield f"questions: {self.valid:,} of {self.published:,} published"
        for part in self.categories:
            mark = "" if part.found == part.published else "  differs"
            yield f"  {part.category}: {part.found:,} of {part.published:,}{mark}"
        if not self.is_usable:
            yield "More than 1 % of the rows are dropped: an evaluation needs --allow-dropped."


def check_dataset(name: str, path: str, *, image_root: Path | None = None, limit: int | None = None) -> DatasetCheck:
    """Read a benchmark and compare it with the published numbers; images in tables are written to the cache.

    Args:
        name: Name of the benchmark.
        path: File or folder, or empty for the published Hub id.
        image_root: Base folder of image paths.
        limit: Maximum number of rows; None = all.

    Raises:
        InputError: If there is no such benchmark.
        DataError: If nothing can be read.
    """
    loaded = load_benchmark(name, path, image_root=image_root, cache=image_cache_folder(name), limit=limit)
    return summarize_rows(name, path, loaded, is_whole=limit is None)


def summarize_rows(name: str, path: str, loaded: LoadedSamples[GoldSample], *, is_whole: bool) -> DatasetCheck:
    """Summarize loaded rows.

    Args:
        name: Name of the benchmark.
        path: The file or folder, for display.
        loaded: The rows.
        is_whole: Whether all rows were read.
    """
    places: dict[str, list[str]] = {}
    for bad in loaded.invalid_rows:
        rows = places.setdefault(bad.reason, [])
        if len(rows) < SHOWN_ROWS:
            rows.append(bad.row)
    found = Counter(sample.category for sample in loaded.samples)
    return DatasetCheck(
        benchmark=name,
        path=path,
        rows=loaded.row_count,
        valid=len(loaded.samples),
        dropped=tuple(
            DroppedRows(reason=reason, count=count, rows=tuple(places[reason]))
            for reason, count in loaded.reasons.most_common()
        ),
        published=get_benchmark(name).expected if is_whole else None,
        categories=tuple(
            CategoryCount(category=category, found=_count_below(found, category), published=published)
            for category, published in get_facts(name).categories.items()
            if is_whole
        ),
        is_usable=loaded.dropped_share <= MAX_DROPPED_SHARE,
    )


def guess_benchmark(path: str, image_root: Path | None = None) -> str:
    """Find the benchmark that a file belongs to: by the published file name, otherwise by the format of its first rows.

    Args:
        path: File or folder.
        image_root: Base folder of image paths.

    Raises:
        InputError: If several are possible.
        DataError: If no format reads the rows.
    """
    named = [name for name, benchmark in BENCHMARKS.items() if _has_published_name(benchmark, Path(path))]
    readable = [name for name in named or BENCHMARKS if _can_read(name, path, image_root)]
    if not readable:
        raise DataError(
            f"No benchmark's format reads {path!r}. Check the path, or pass --benchmark to see the reasons."
        )
    if len(readable) > 1:
        raise InputError(f"{path!r} can be {', '.join(readable)}. Choose one with --benchmark.")
    return readable[0]


def _has_published_name(benchmark: Benchmark, path: Path) -> bool:
    """Whether a file, or a file in a folder, has a name that the benchmark was published with."""
    patterns = [pattern for pattern in benchmark.tables if not pattern.startswith("*.")]
    if path.is_file():
        return any(fnmatchcase(path.name.lower(), pattern) for pattern in patterns)
    try:
        return bool(find_tables(path, patterns, has_parts=True))
    except DataError:
        return False


def _can_read(name: str, path: str, image_root: Path | None) -> bool:
    cache = image_cache_folder(name)
    try:
        load_benchmark(name, path, image_root=image_root, cache=cache, limit=GUESS_ROWS, allow_download=False)
    except HartError:
        return False
    return True


def _count_below(found: Counter[str], category: str) -> int:
    return sum(count for name, count in found.items() if name == category or name.startswith(f"{category}/"))
