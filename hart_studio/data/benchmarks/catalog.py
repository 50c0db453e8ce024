"""Catalog of benchmarks, and loading their questions from any published format."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from hart_studio.data.benchmarks import hr_bench, mme_realworld, mmstar, treebench, visual_cot, vstar
from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.benchmarks.published_files import fetch, find_tables, is_hub_id
from hart_studio.data.image_references import follow_references
from hart_studio.data.rows import LoadedSamples, collect_samples
from hart_studio.data.sources import read_sample_row
from hart_studio.data.tables import LocatedRow
from hart_studio.errors import DataError, HartError, InputError
from hart_studio.records import GoldSample


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark."""

    name: str
    """Name in settings and on the command line."""
    title: str
    """Display name."""
    hub_id: str
    """Hub dataset that is loaded by default; empty if none can be loaded directly."""
    files: tuple[str, ...]
    """Glob patterns of the files to download from the Hub."""
    tables: tuple[str, ...]
    """Glob patterns, in lower case, of the files with the questions in a folder; the first match decides."""
    read: Callable[[Any, ImageResolver], GoldSample]
    """Converts a row to a sample, or raises ``ValueError`` or a ``HartError``."""
    official: str = ""
    """Name of the official extractor in ``evaluation.extractors``; empty if there is none."""
    has_boxes: bool = False
    """Whether at least one published format has gold boxes."""
    expected: int | None = None
    """Total number of questions; None if not fixed."""
    has_parts: bool = False
    """Whether its questions are spread over several files."""
    subsets: tuple[str, ...] = ()
    """Default subsets; empty if there are no subsets."""
    is_included: Callable[[Any, Collection[str]], bool] | None = None
    """Whether a row belongs to the selected subsets."""


def _mme_realworld(name: str, title: str, hub_id: str, expected: int, tables: tuple[str, ...]) -> Benchmark:
    read = mme_realworld.read_mme_realworld_row
    return Benchmark(name, title, hub_id, ("*.parquet",), tables, read, "mme_realworld", expected=expected)


def _hr_bench(size: str) -> Benchmark:
    return Benchmark(
        name=f"hr_bench_{size}",
        title=f"HR-Bench {size.upper()}",
        hub_id="DreamMr/HR-Bench",
        files=(f"hr_bench_{size}.tsv",),
        tables=(f"*hr_bench_{size}.tsv", f"*{size}*.parquet", f"*{size}*.tsv"),
        read=hr_bench.read_hr_bench_row,
        official="hr_bench",
        expected=800,
    )


_ALL: Final = (
    _mme_realworld(
        "mme_realworld", "MME-RealWorld", "yifanzhang114/MME-RealWorld-Lmms-eval", 23_609,
        ("*mme_realworld.json", "*mme_realworld.tsv", "*.parquet", "*.json", "*.tsv"),
    ),
    _mme_realworld(
        "mme_realworld_lite", "MME-RealWorld-Lite", "yifanzhang114/MME-RealWorld-lite-lmms-eval", 1919,
        ("*lite*.json", "*lite*.tsv", "*lite*.parquet", "*.parquet", "*.json", "*.tsv"),
    ),
    _mme_realworld(
        "mme_realworld_train", "MME-RealWorld, training part", "xinyu1205/mme_realworld_train_21690", 21_690,
        ("*.parquet", "*mme_realworld.json", "*mme_realworld.tsv", "*.json", "*.tsv"),
    ),
    Benchmark(
        name="treebench",
        title="TreeBench",
        hub_id="HaochenWang/TreeBench",
        files=("TreeBench.tsv",),
        tables=("*treebench.tsv", "*.tsv", "*.parquet"),
        read=treebench.read_treebench_row,
        official="treebench",
        has_boxes=True,
        expected=405,
    ),
    Benchmark(
        name="vstar",
        title="V* Bench",
        hub_id="craigwu/vstar_bench",
        files=("test_questions.jsonl", "direct_attributes/*", "relative_position/*"),
        tables=("*test_questions.jsonl", "*.tsv", "*.parquet"),
        read=vstar.read_vstar_row,
        official="vstar",
        has_boxes=True,
        expected=191,
    ),
    _hr_bench("4k"),
    _hr_bench("8k"),
    Benchmark(
        name="mmstar",
        title="MMStar",
        hub_id="Lin-Chen/MMStar",
        files=("mmstar.parquet",),
        tables=("*.parquet", "*.tsv"),
        read=mmstar.read_mmstar_row,
        official="mmstar",
        expected=1500,
    ),
    Benchmark(
        name="visual_cot",
        title="Visual-CoT",
        hub_id="",
        files=(),
        tables=("*benchmark/*.json", "*.json"),
        read=visual_cot.read_visual_cot_row,
        official="visual_cot",
        has_boxes=True,
        expected=4042,
        has_parts=True,
        subsets=visual_cot.SUBSETS,
        is_included=visual_cot.is_included,
    ),
    Benchmark(
        name="needle",
        title="Needle",
        hub_id="",
        files=(),
        tables=("samples.jsonl", "*.jsonl"),
        read=lambda row, images: read_sample_row(row, images.root, "needle"),
        has_boxes=True,
    ),
)  # fmt: skip

_FULL_SET: Final = frozenset({"mme_realworld.json", "mme_realworld.tsv"})
"""Published files of the full MME-RealWorld, in lower case."""

BENCHMARKS: Final[dict[str, Benchmark]] = {benchmark.name: benchmark for benchmark in _ALL}
"""Name -> benchmark."""


def get_benchmark(name: str) -> Benchmark:
    """Return a benchmark by name.

    Raises:
        InputError: If there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise InputError(f"Unknown benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def load_benchmark(
    name: str,
    path: str,
    *,
    image_root: Path | None = None,
    cache: Path,
    limit: int | None = None,
    allow_download: bool = True,
    subsets: Collection[str] | None = None,
    exclude: str = "",
) -> LoadedSamples[GoldSample]:
    """Load a benchmark from any published format, row by row.

    The full MME-RealWorld must not be used as its training part, because it contains the questions of Lite. Without a
    limit this is checked by the number of questions. With a limit, only the Hub id and the names of the published JSON
    and TSV files are checked, and a full set under another name is not detected.

    Args:
        name: Name in ``BENCHMARKS``.
        path: File or folder in a published format, or a Hub id; empty = the published Hub id.
        image_root: Base folder of image paths; default: the folder, or the folder of the file.
        cache: Folder for embedded images and for downloads; created if missing.
        limit: Maximum number of rows, valid or not, without those that ``exclude`` removes; later rows are not read.
            None = all.
        allow_download: Whether to download from the Hub.
        subsets: Subsets; None = the default subsets.
        exclude: For ``mme_realworld_train``: the Lite part, as ``path``. Its questions are excluded from the full set,
            which must have the same format; if the full set is read completely, at least one must be found. Empty =
            the path contains only training questions.

    Raises:
        InputError: If there is no such benchmark or subset, or the settings do not apply to it.
        DataError: If it cannot be found or read, contains no valid row, or is the full set instead of the training
            part.
    """
    benchmark = get_benchmark(name)
    chosen = _check_subsets(benchmark, subsets)
    excluded = frozenset[tuple[str, ...]]()
    if exclude:
        if name != "mme_realworld_train":
            raise InputError(f"Questions can be excluded from mme_realworld_train only, got {name}. Remove the option.")
        lite = load_benchmark(
            "mme_realworld_lite", exclude, image_root=image_root, cache=cache, allow_download=allow_download
        )
        excluded = frozenset(_key(sample) for sample in lite.samples)
    folder, tables = _locate_files(benchmark, path, cache, allow_download)
    if limit is not None and not exclude:
        _check_place(benchmark, path, tables)
    cache.mkdir(parents=True, exist_ok=True)
    images = ImageResolver(image_root or folder, cache)
    rows = _selected_rows(benchmark, tables, chosen, images)

    def read(row: Any) -> GoldSample:
        if isinstance(row, ValueError):
            raise row
        return benchmark.read(row, images)

    asked = islice(_exclude_rows(benchmark.title, rows, read, excluded), limit)
    loaded = collect_samples(benchmark.title, asked, _raise_or_return, needs_answer=True)
    return loaded if exclude else _check_training_part(benchmark, loaded)


def _check_subsets(benchmark: Benchmark, subsets: Collection[str] | None) -> Collection[str]:
    if subsets is None:
        return benchmark.subsets
    if benchmark.is_included is None or not subsets:
        of = ", ".join(each.name for each in _ALL if each.is_included)
        if benchmark.is_included is None:
            raise InputError(f"Benchmark {benchmark.name} has no subsets; only {of} has. Remove the option.")
        raise InputError(f"Choose at least one subset of {benchmark.name}.")
    return frozenset(subsets)


def _locate_files(benchmark: Benchmark, path: str, cache: Path, allow_download: bool) -> tuple[Path, tuple[Path, ...]]:
    """Locate the folder of the benchmark and its question files."""
    folder = Path(path) if path else None
    if folder is not None and folder.is_file():
        return folder.parent, (folder,)
    if folder is None or not folder.is_dir():
        hub_id = path or benchmark.hub_id
        if not benchmark.files or not is_hub_id(hub_id):
            expected = "a file or a folder" + (", or a Hub id" if benchmark.files else "")
            raise DataError(
                f"{benchmark.title} not found: expected {expected} in a published format, got "
                f"{f'{path!r}, which does not exist' if path else 'no path'}; check the path"
            )
        folder = fetch(hub_id, benchmark.files, cache, allow_download=allow_download)
    return folder, find_tables(folder, benchmark.tables, has_parts=benchmark.has_parts)


def _selected_rows(
    benchmark: Benchmark, tables: tuple[Path, ...], subsets: Collection[str], images: ImageResolver
) -> Iterator[LocatedRow]:
    for table in tables:
        for location, row in follow_references(table, images.root, images.cache or images.root):
            if benchmark.is_included is None or isinstance(row, ValueError) or benchmark.is_included(row, subsets):
                yield (f"{table.name} {location}" if len(tables) > 1 else location), row


def _key(sample: GoldSample) -> tuple[str, ...]:
    """Key of a question that its copies share: image name, by path or by content, and text."""
    return (Path(sample.image).name, sample.question, *sample.choices)


def _exclude_rows(
    source: str, rows: Iterator[LocatedRow], read: Callable[[Any], GoldSample], keys: frozenset[tuple[str, ...]]
) -> Iterator[tuple[str, GoldSample | Exception]]:
    """Iterate over the samples that are not in the keys, and the errors; both kinds must occur."""
    kept = excluded = 0
    for location, row in rows:
        try:
            sample = read(row)
        except (ValueError, RecursionError, HartError) as error:
            yield location, error
            continue
        if _key(sample) in keys:
            excluded += 1
        else:
            kept += 1
            yield location, sample
    if keys and bool(kept) != bool(excluded):
        found = f"no question of {source} matches it" if kept else f"every question of {source} matches it"
        raise DataError(
            f"Cannot exclude the Lite part: {found}. Pass the Lite part and the full set in the same published format."
        )


def _raise_or_return(found: GoldSample | Exception) -> GoldSample:
    if isinstance(found, Exception):
        raise found
    return found


def _check_place(benchmark: Benchmark, path: str, tables: tuple[Path, ...]) -> None:
    """Check by name that the full set is not used as the training part, if the questions are not counted."""
    is_full = path == BENCHMARKS["mme_realworld"].hub_id or any(table.name.lower() in _FULL_SET for table in tables)
    if benchmark.name == "mme_realworld_train" and is_full:
        raise DataError(
            f"{path} has the name of the full set, which contains the questions of Lite. Load "
            "all of its questions, or exclude the Lite part on the command line (--exclude)."
        )


def _check_training_part(benchmark: Benchmark, loaded: LoadedSamples[GoldSample]) -> LoadedSamples[GoldSample]:
    """Check that no question of Lite is trained on: a larger number of questions means the full set."""
    if benchmark.name == "mme_realworld_train" and len(loaded.samples) > (benchmark.expected or 0):
        raise DataError(
            f"expected at most {benchmark.expected} training questions, got {len(loaded.samples)}: the full set, which "
            "contains those of Lite. Choose the training part, or exclude the Lite part on the command line "
            "(--exclude)."
        )
    return loaded
