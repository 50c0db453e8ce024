from __future__ import annotations

import base64
import json
import random
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hart_studio.data.benchmarks import catalog
from hart_studio.data.benchmarks.catalog import BENCHMARKS, get_benchmark, load_benchmark
from hart_studio.data.benchmarks.images import ImageResolver
from hart_studio.data.sources import load_needle
from hart_studio.data.tables import read_rows
from hart_studio.errors import DataError, HartError, InputError
from hart_studio.evaluation.extractors import EXTRACTORS
from tests import benchmark_files
from tests.benchmark_files import COUNTS, WRITERS
from tests.benchmark_images import draw
from tests.examples import example_count

OTHER_FORMS: list[tuple[str, Callable[[Path], Path]]] = [
    ("mme_realworld_lite", benchmark_files.write_mme_realworld_lite_tsv),
    ("vstar", benchmark_files.write_vstar_parquet),
    ("vstar", benchmark_files.write_vstar_tsv),
    ("mmstar", benchmark_files.write_mmstar_tsv),
]
# What there is -------------------------------------------------------------------------------------------------------


def test_the_names_are_fixed() -> None:
    assert list(BENCHMARKS) == [
        "mme_realworld", "mme_realworld_lite", "mme_realworld_train", "treebench", "vstar", "hr_bench_4k",
        "hr_bench_8k", "mmstar", "visual_cot", "needle",
    ]  # fmt: skip
    assert list(BENCHMARKS) == list(WRITERS) == list(COUNTS)


def test_every_named_extractor_exists() -> None:
    assert {each.official for each in BENCHMARKS.values()} - {""} == set(EXTRACTORS)
    assert get_benchmark("needle").official == ""


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"Unknown benchmark 'mme': choose one of mme_realworld, .*needle"):
        get_benchmark("mme")


def test_published_counts() -> None:
    full, lite, train = (BENCHMARKS[f"mme_realworld{part}"].expected for part in ("", "_lite", "_train"))
    assert (full, lite, train) == (23_609, 1919, 21_690)
    assert full is not None and lite is not None and full - lite == train


# Every form ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_a_benchmark_is_read_from_its_folder(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    loaded = load_benchmark(name, str(tmp_path), cache=tmp_path / "cache")
    assert (len(loaded.samples), len(loaded.invalid_rows)) == COUNTS[name]
    assert loaded.source == BENCHMARKS[name].title
    assert all(Path(sample.image).is_file() for sample in loaded.samples)
    assert any(sample.gold_boxes for sample in loaded.samples) is BENCHMARKS[name].has_boxes
    assert all(sample.category or name == "mme_realworld_train" for sample in loaded.samples)
    assert load_benchmark(name, str(tmp_path), cache=tmp_path / "cache") == loaded, "the same ids in every reading"


@pytest.mark.parametrize(("name", "write"), OTHER_FORMS)
def test_other_forms_hold_the_same_questions(tmp_path: Path, name: str, write: Callable[[Path], Path]) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "other").mkdir()
    first = load_benchmark(name, str(WRITERS[name](tmp_path / "first")), cache=tmp_path / "cache")
    other = load_benchmark(name, str(write(tmp_path / "other")), cache=tmp_path / "cache")
    said = {sample.question: (sample.choices, sample.answer) for sample in first.samples}
    for sample in other.samples:
        if said[sample.question][0] != tuple("ABCD"):  # the row whose options are letters in one form only
            assert said[sample.question] == (sample.choices, sample.answer)


def test_a_file_may_be_named_itself(tmp_path: Path) -> None:
    benchmark_files.write_hr_bench_4k(tmp_path)
    path = benchmark_files.write_hr_bench_8k(tmp_path)
    small = load_benchmark("hr_bench_4k", str(tmp_path), cache=tmp_path / "cache")
    large = load_benchmark("hr_bench_8k", str(tmp_path), cache=tmp_path / "cache")
    assert not {sample.id for sample in small.samples} & {sample.id for sample in large.samples}
    assert load_benchmark("hr_bench_8k", str(path), cache=tmp_path / "cache") == large


def test_every_cycle_has_as_many_questions(tmp_path: Path) -> None:
    path = benchmark_files.write_hr_bench_4k(tmp_path)
    loaded = load_benchmark("hr_bench_4k", str(path), cache=tmp_path / "cache")
    cycles = Counter(sample.category.rpartition("/")[2] for sample in loaded.samples)
    assert cycles == {f"cycle {cycle}": 3 for cycle in range(4)}
    assert len(list((tmp_path / "cache").iterdir())) == 3, "the cycles of a question share one image"


def test_places_of_invalid_rows_name_the_file_where_there_are_several(tmp_path: Path) -> None:
    benchmark_files.write_visual_cot(tmp_path)
    loaded = load_benchmark("visual_cot", str(tmp_path), cache=tmp_path / "cache")
    assert [bad.row for bad in loaded.invalid_rows] == ["gqa.json row 3"]


def test_images_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "lists").mkdir()
    benchmark_files.write_visual_cot(tmp_path / "all")
    shutil.move(tmp_path / "all" / "benchmark", tmp_path / "lists" / "benchmark")
    loaded = load_benchmark(
        "visual_cot", str(tmp_path / "lists"), image_root=tmp_path / "all", cache=tmp_path / "cache"
    )
    assert len(loaded.samples) == 5


def test_needle_is_read_as_by_the_other_reader(tmp_path: Path) -> None:
    WRITERS["needle"](tmp_path)
    loaded = load_benchmark("needle", str(tmp_path), cache=tmp_path / "cache")
    assert loaded.samples == load_needle(tmp_path).samples
    assert {sample.category for sample in loaded.samples} == {"detail", "gist"}
    assert all(sample.gold_boxes for sample in loaded.samples)


# Choices -------------------------------------------------------------------------------------------------------------


def test_other_subsets_can_be_chosen(tmp_path: Path) -> None:
    benchmark_files.write_visual_cot(tmp_path)
    usual = load_benchmark("visual_cot", str(tmp_path), cache=tmp_path / "cache")
    assert [sample.category for sample in usual.samples] == ["gqa", "sroie", "textcap", "textvqa", "visual7w"]
    other = load_benchmark("visual_cot", str(tmp_path), cache=tmp_path / "cache", subsets=["docvqa", "flickr30k"])
    assert sorted(sample.category for sample in other.samples) == ["docvqa", "flickr30k"]
    for subsets, name, message in (
        ([], "visual_cot", "Choose at least one subset of visual_cot"),
        (["gqa"], "vstar", "Benchmark vstar has no subsets; only visual_cot has. Remove the option"),
    ):
        with pytest.raises(InputError, match=message):
            load_benchmark(name, str(tmp_path), cache=tmp_path / "cache", subsets=subsets)


def test_no_row_behind_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = benchmark_files.write_hr_bench_4k(tmp_path)
    whole = load_benchmark("hr_bench_4k", str(path), cache=tmp_path / "cache")
    places = []
    follow_references = catalog.follow_references

    def watched(table: Path, *folders: Path) -> Any:
        for place, row in follow_references(table, *folders):
            places.append(place)
            yield place, row

    monkeypatch.setattr(catalog, "follow_references", watched)
    loaded = load_benchmark("hr_bench_4k", str(path), cache=tmp_path / "other", limit=5)
    assert [sample.id for sample in loaded.samples] == [sample.id for sample in whole.samples[:5]]
    assert len(places) == 5
    assert len(list((tmp_path / "other").iterdir())) == 2


def test_questions_of_lite_are_left_out_of_the_training_part(tmp_path: Path) -> None:
    for name in ("full", "lite"):
        (tmp_path / name).mkdir()
        benchmark_files.write_mme_realworld(tmp_path / name)
    file = tmp_path / "lite" / "MME_RealWorld.json"
    file.write_text(json.dumps(json.loads(file.read_text())[1:3]))

    def load(**options: Any) -> list[str]:
        loaded = load_benchmark("mme_realworld_train", str(tmp_path / "full"), cache=tmp_path / "cache", **options)
        return [sample.id[-4:] for sample in loaded.samples]

    assert load() == ["0000", "0001", "0002", "0003", "0004", "0005"]
    assert load(exclude=str(tmp_path / "lite")) == ["0000", "0003", "0004", "0005"]
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([{**row, "Text": "Another question?"} for row in rows]))
    with pytest.raises(
        DataError,
        match=r"no question of .* matches it. Pass the Lite part and the full set in the same published format",
    ):
        load(exclude=str(tmp_path / "lite"))
    with pytest.raises(InputError, match="mme_realworld_train only, got mme_realworld"):
        load_benchmark("mme_realworld", str(tmp_path), cache=tmp_path / "cache", exclude=str(tmp_path / "lite"))


def test_the_limit_counts_what_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("full", "lite"):
        (tmp_path / name).mkdir()
        benchmark_files.write_mme_realworld(tmp_path / name)
    file = tmp_path / "lite" / "MME_RealWorld.json"
    rows = json.loads(file.read_text())
    places = []
    follow_references = catalog.follow_references

    def watched(table: Path, *folders: Path) -> Any:
        for place, row in follow_references(table, *folders):
            places.extend([place] if "full" in table.parts else [])
            yield place, row

    monkeypatch.setattr(catalog, "follow_references", watched)

    def load(lite: list[Any], limit: int) -> list[str]:
        file.write_text(json.dumps(lite))
        places.clear()
        loaded = load_benchmark(
            "mme_realworld_train", str(tmp_path / "full"), cache=tmp_path / "cache", limit=limit,
            exclude=str(tmp_path / "lite"),
        )  # fmt: skip
        return [sample.id[-4:] for sample in loaded.samples]

    assert load(rows[:3], 2) == ["0003", "0004"] and len(places) == 5
    assert load(rows[4:], 2) == ["0000", "0001"] and len(places) == 2, "none of Lite among the first is no error"
    with pytest.raises(
        DataError, match=r"no question of .* matches it. Pass the Lite part and the full set in the same"
    ):
        load([{**rows[0], "Text": "Another question?"}], 7)
    with pytest.raises(DataError, match=r"every question of .* matches it"):
        load(rows, 1)


@pytest.mark.parametrize("file", ["MME_RealWorld.json", "mme_realworld.tsv"])
def test_a_limit_does_not_hide_the_full_set(tmp_path: Path, file: str) -> None:
    benchmark_files.write_mme_realworld(tmp_path)
    (tmp_path / "MME_RealWorld.json").rename(tmp_path / file)
    for path in (tmp_path, tmp_path / file):
        with pytest.raises(
            DataError,
            match=r"name of the full set, which contains the questions of Lite.*the Lite part on the command line",
        ):
            load_benchmark("mme_realworld_train", str(path), cache=tmp_path / "cache", limit=3)


def test_a_limit_does_not_hide_the_hub_id_of_the_full_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark_files.write_mme_realworld_train(tmp_path)
    monkeypatch.setattr(catalog, "fetch", lambda *args, **options: tmp_path)
    with pytest.raises(DataError, match="has the name of the full set"):
        load_benchmark("mme_realworld_train", BENCHMARKS["mme_realworld"].hub_id, cache=tmp_path / "cache", limit=3)
    assert len(load_benchmark("mme_realworld_train", "", cache=tmp_path / "cache", limit=3).samples) == 3


def test_the_full_set_is_no_training_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark_files.write_mme_realworld(tmp_path)
    small = BENCHMARKS["mme_realworld_train"]
    monkeypatch.setitem(BENCHMARKS, "mme_realworld_train", replace(small, expected=5))
    with pytest.raises(DataError, match="expected at most 5 training questions, got 6: the full set"):
        load_benchmark("mme_realworld_train", str(tmp_path), cache=tmp_path / "cache")


# Places --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "HaochenWang/TreeBench", "owner/copy"])
def test_a_hub_id_is_fetched_and_read_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    asked = []

    def fetch(hub_id: str, patterns: tuple[str, ...], cache: Path, *, allow_download: bool) -> Path:
        asked.append((hub_id, patterns, allow_download))
        benchmark_files.write_treebench(tmp_path)
        return tmp_path

    monkeypatch.setattr(catalog, "fetch", fetch)
    loaded = load_benchmark("treebench", path, cache=tmp_path / "cache", allow_download=False)
    assert len(loaded.samples) == 6
    assert asked == [(path or "HaochenWang/TreeBench", ("TreeBench.tsv",), False)]


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("treebench", "gone.tsv", "TreeBench not found: expected a file or a folder, or a Hub id .* got 'gone.tsv'"),
        ("needle", "", "Needle not found: expected a file or a folder in a published format, got no path"),
        ("visual_cot", "owner/name", "Visual-CoT not found: expected a file or a folder"),
    ],
)
def test_a_place_that_is_none(tmp_path: Path, name: str, path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_benchmark(name, path, cache=tmp_path)


def test_annotations_alone_are_no_questions(tmp_path: Path) -> None:
    benchmark_files.write_vstar(tmp_path)
    (tmp_path / "test_questions.jsonl").unlink()
    with pytest.raises(DataError, match=r"matches \*test_questions.jsonl"):
        load_benchmark("vstar", str(tmp_path), cache=tmp_path / "cache")


# Rows of any kind ----------------------------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers(-9, 10**400) | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
)
WORDS = st.sampled_from(
    ["A", "B", "(A) x", "A. x\nB. y", "['x', 'y']", "[[1, 2, 9, 9]]", "a.jpg###[1, 2, 9, 9]", "gqa", "Perception/OCR"]
)
VALUES = SCALARS | WORDS | st.just("a.jpg") | st.just(draw(1).base64)
CELLS = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner))
FIELDS = sorted(
    {
        "Question_id", "Image", "Text", "Answer choices", "Ground truth", "Task", "Subtask", "index", "bytes", "image",
        "question", "multi-choice options", "choices", "answer", "category", "l2_category", "target_instances", "text",
        "label", "question_id", "A", "B", "C", "cycle_category", "dataset", "conversations", "id", "gold_boxes",
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageResolver:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "a.jpg").write_bytes(draw(1).jpeg)
    (root / "cache").mkdir()
    return ImageResolver(root, root / "cache")


@pytest.mark.parametrize("name", list(BENCHMARKS))
@settings(
    max_examples=example_count(cost=6),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(row=st.dictionaries(st.sampled_from(FIELDS), CELLS) | CELLS)
def test_no_row_raises_anything_that_stops_a_load(name: str, images: ImageResolver, row: Any) -> None:
    benchmark = BENCHMARKS[name]
    with suppress(ValueError, HartError):
        if benchmark.is_included is not None:
            benchmark.is_included(row, benchmark.subsets)
        benchmark.read(row, images)


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "needle"])
@settings(max_examples=example_count(cost=10), suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_good_row_with_one_odd_cell_is_read_or_refused(
    name: str, images: ImageResolver, good_rows: dict[str, list[dict[str, Any]]], data: st.DataObject
) -> None:
    row = dict(data.draw(st.sampled_from(good_rows[name])))
    row[data.draw(st.sampled_from(sorted(row)))] = data.draw(CELLS)
    with suppress(ValueError, HartError):
        sample = BENCHMARKS[name].read(row, images)
        assert sample.answer and sample.question.strip()


@pytest.fixture(scope="module")
def good_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    rows = {}
    for name, write in WRITERS.items():
        folder = tmp_path_factory.mktemp(name)
        write(folder)
        tables = catalog.find_tables(folder, BENCHMARKS[name].tables, has_parts=BENCHMARKS[name].has_parts)
        rows[name] = [row for table in tables for _, row in read_rows(table)]
    return rows


# Memory --------------------------------------------------------------------------------------------------------------

CELL_BYTES = 1_000_000
BIG_ROWS = 45


def big_row(number: int) -> dict[str, str]:
    noise = random.Random(number).randbytes(CELL_BYTES)
    return {
        "index": str(number),
        "question": "What?",
        "A": "x",
        "B": "y",
        "answer": "A",
        "category": "single",
        "cycle_category": "0",
        "image": base64.b64encode(draw(1).jpeg + noise).decode(),
    }


def test_a_large_tsv_is_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "hr_bench_4k.tsv"
    with path.open("w") as file:
        file.write("\t".join(big_row(0)) + "\n")
        for number in range(BIG_ROWS):
            file.write("\t".join(big_row(number).values()) + "\n")
    assert path.stat().st_size > 60_000_000
    tracemalloc.start()
    try:
        loaded = load_benchmark("hr_bench_4k", str(path), cache=tmp_path / "cache")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(loaded.samples) == len(list((tmp_path / "cache").iterdir())) == BIG_ROWS
    assert peak < 20_000_000, "a few cells, not the file"


def test_a_large_parquet_file_is_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "hrbench_4k.parquet"
    pq.write_table(pa.Table.from_pylist([big_row(number) for number in range(BIG_ROWS)]), path, row_group_size=5)
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        loaded = load_benchmark("hr_bench_4k", str(path), cache=tmp_path / "cache")
    finally:
        pa.set_memory_pool(before)
    assert len(loaded.samples) == BIG_ROWS
    assert 0 < pool.max_memory() < 25_000_000, "a row group, not the file"
