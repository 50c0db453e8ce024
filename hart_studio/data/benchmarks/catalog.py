"""The benchmarks by name, and the one way to their questions from any published form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

from hart_studio.data.benchmarks import hr_bench, mme_realworld, mmstar, needle, treebench, visual_cot, vstar
from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.benchmarks.published_files import fetch, find_tables, is_hub_id
from hart_studio.data.rows import LoadedSamples, collect_samples
from hart_studio.data.tables import LocatedRow, read_rows
from hart_studio.errors import DataError, HartError, InputError
from hart_studio.records import GoldSample

Aggregate = Literal["micro", "cycles", "micro and macro"]
"""How the literature sums up: over all questions; as the mean over the cycles of HR-Bench; or over all questions and as
the mean over the finest categories, because both are published."""


@dataclass(frozen=True)
class Benchmark:
    """A published data set that models are measured on."""

    name: str
    """What settings and the command line call it."""
    title: str
    """What tables call it."""
    hub_id: str
    """Data set of the hub that is read when no place is given; empty where none can be read as it is."""
    files: tuple[str, ...]
    """Glob patterns of what is fetched from the hub."""
    tables: tuple[str, ...]
    """Glob patterns, in lower case, of the files with the questions in a folder; the first that fits decides."""
    read: Callable[[Any, ImageResolver], GoldSample]
    """Makes a sample of a row, or raises ``ValueError`` or a ``HartError``."""
    official: str = ""
    """Name of its own extractor in ``evaluation.extractors``; empty where it has none."""
    has_boxes: bool = False
    """Whether at least one published form has gold boxes."""
    expected: int | None = None
    """Questions in all; None where that is open."""
    aggregate: Aggregate = "micro"
    """How its figures are summed up."""
    has_parts: bool = False
    """Whether its questions are spread over several files."""
    subsets: tuple[str, ...] = ()
    """The subsets that are asked unless others are chosen; empty where there is no choice."""
    is_included: Callable[[Any, Collection[str]], bool] | None = None
    """Whether a row belongs to the chosen subsets."""


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
        aggregate="cycles",
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
        aggregate="micro and macro",
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
        read=needle.read_needle_row,
        has_boxes=True,
    ),
)  # fmt: skip

_FULL_SET: Final = frozenset({"mme_realworld.json", "mme_realworld.tsv"})
"""Published files of the full MME-RealWorld, in lower case."""

BENCHMARKS: Final[dict[str, Benchmark]] = {benchmark.name: benchmark for benchmark in _ALL}
"""Name -> benchmark."""


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        InputError: If there is none.
    """
    if name not in BENCHMARKS:
        raise InputError(f"expected one of the benchmarks {', '.join(BENCHMARKS)}, got {name!r}; choose one")
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
    without: str = "",
) -> LoadedSamples[GoldSample]:
    """Read a benchmark from any of its published forms, one row at a time.

    The full MME-RealWorld must not pass for its training part, because it holds the questions of Lite. Without a limit
    that is told by the number of questions. A limit hides that number: then only the hub id and the names of the
    published JSON and TSV files are known, and a full set under another name is not noticed.

    Args:
        name: Name in ``BENCHMARKS``.
        path: File or folder in a published form, or a hub id; empty = the published hub id.
        image_root: Folder that images' paths start from; by default the folder, or the file's own.
        cache: Folder for images that rows hold themselves, and for downloads; made when missing.
        limit: Max questions, good or bad, of those that are not left out; no row behind them is read.
            None = all.
        allow_download: Whether the hub may be asked.
        subsets: Other subsets than the benchmark's own choice; None = that.
        without: For ``mme_realworld_train``: the Lite part, as ``path``. Its questions are left out of the full set,
            which must be in the same form; that some were found there is checked when it is read to its end. Empty =
            the place holds nothing but training questions.

    Raises:
        InputError: If there is no such benchmark or subset, or the settings do not belong to it.
        DataError: If it cannot be found or read, holds no question at all, or is the full set as the training part.
    """
    benchmark = get_benchmark(name)
    chosen = _check_subsets(benchmark, subsets)
    excluded = frozenset[tuple[str, ...]]()
    if without:
        if name != "mme_realworld_train":
            raise InputError(f"expected questions to leave out of mme_realworld_train only, got {name}; drop them")
        lite = load_benchmark(
            "mme_realworld_lite", without, image_root=image_root, cache=cache, allow_download=allow_download
        )
        excluded = frozenset(_key(sample) for sample in lite.samples)
    folder, tables = _locate_files(benchmark, path, cache, allow_download)
    if limit is not None and not without:
        _check_place(benchmark, path, tables)
    cache.mkdir(parents=True, exist_ok=True)
    images = ImageResolver(image_root or folder, cache)
    rows = _selected_rows(benchmark, tables, chosen)

    def read(row: Any) -> GoldSample:
        if isinstance(row, ValueError):
            raise row
        return benchmark.read(row, images)

    asked = islice(_exclude_rows(benchmark.title, rows, read, excluded), limit)
    loaded = collect_samples(benchmark.title, asked, _raise_or_return, needs_answer=True)
    return loaded if without else _check_training_part(benchmark, loaded)


def _check_subsets(benchmark: Benchmark, subsets: Collection[str] | None) -> Collection[str]:
    if subsets is None:
        return benchmark.subsets
    if benchmark.is_included is None or not subsets:
        of = ", ".join(each.name for each in _ALL if each.is_included)
        raise InputError(f"expected at least one subset, of {of} only, got {list(subsets)} of {benchmark.name}")
    return frozenset(subsets)


def _locate_files(benchmark: Benchmark, path: str, cache: Path, allow_download: bool) -> tuple[Path, tuple[Path, ...]]:
    """The folder of the benchmark and its files of questions."""
    place = Path(path) if path else None
    if place is not None and place.is_file():
        return place.parent, (place,)
    if place is None or not place.is_dir():
        hub_id = path or benchmark.hub_id
        if not benchmark.files or not is_hub_id(hub_id):
            expected = "a file or a folder" + (", or a hub id" if benchmark.files else "")
            raise DataError(
                f"expected {expected} with {benchmark.title} in a published form, got "
                f"{f'{path!r}, which is not there' if path else 'no path'}; check the path"
            )
        place = fetch(hub_id, benchmark.files, cache, allow_download=allow_download)
    return place, find_tables(place, benchmark.tables, has_parts=benchmark.has_parts)


def _selected_rows(benchmark: Benchmark, tables: tuple[Path, ...], subsets: Collection[str]) -> Iterator[LocatedRow]:
    for table in tables:
        for place, row in read_rows(table):
            if benchmark.is_included is None or isinstance(row, ValueError) or benchmark.is_included(row, subsets):
                yield (f"{table.name} {place}" if len(tables) > 1 else place), row


def _key(sample: GoldSample) -> tuple[str, ...]:
    """What two copies of one question share: the name of its image, by path or by content, and its words."""
    return (Path(sample.image).name, sample.question, *sample.choices)


def _exclude_rows(
    source: str, rows: Iterator[LocatedRow], read: Callable[[Any], GoldSample], keys: frozenset[tuple[str, ...]]
) -> Iterator[tuple[str, GoldSample | Exception]]:
    """The samples without those of the keys, and why a row is none; at the end there must have been both kinds."""
    kept = excluded = 0
    for place, row in rows:
        try:
            sample = read(row)
        except (ValueError, RecursionError, HartError) as error:
            yield place, error
            continue
        if _key(sample) in keys:
            excluded += 1
        else:
            kept += 1
            yield place, sample
    if keys and bool(kept) != bool(excluded):
        found = "none" if kept else "nothing else"
        raise DataError(
            f"expected some questions of the Lite part in {source}, got {found}; give both in the same form"
        )


def _raise_or_return(found: GoldSample | Exception) -> GoldSample:
    if isinstance(found, Exception):
        raise found
    return found


def _check_place(benchmark: Benchmark, path: str, tables: tuple[Path, ...]) -> None:
    """See by its name that no full set passes for the training part, where its questions are not counted."""
    is_full = path == BENCHMARKS["mme_realworld"].hub_id or any(table.name.lower() in _FULL_SET for table in tables)
    if benchmark.name == "mme_realworld_train" and is_full:
        raise DataError(
            f"expected training questions, got {path}, which has the name of the full set with those of Lite; ask "
            "for all of its questions, or name the Lite part in a terminal (--without), so that they are left out"
        )


def _check_training_part(benchmark: Benchmark, loaded: LoadedSamples[GoldSample]) -> LoadedSamples[GoldSample]:
    """See that no question of Lite can be trained on: more questions than the training part has are the full set."""
    if benchmark.name == "mme_realworld_train" and len(loaded.samples) > (benchmark.expected or 0):
        raise DataError(
            f"expected at most {benchmark.expected} training questions, got {len(loaded.samples)}: the full set, which "
            "holds those of Lite; choose the training part, or name the Lite part in a terminal (--without), so that "
            "they are left out"
        )
    return loaded
