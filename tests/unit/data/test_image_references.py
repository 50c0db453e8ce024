from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hart_studio.data.benchmarks.catalog import load_benchmark
from hart_studio.data.image_references import MAX_REFERENCE_CHARS, follow_references
from tests.benchmark_files import write_hr_bench_4k
from tests.benchmark_images import draw, write_tsv
from tests.examples import example_count


def follow(folder: Path, cells: dict[str, str]) -> dict[str, Any]:
    """Index -> image of each row, or the reason why it has none."""
    path = write_tsv(folder / "table.tsv", [{"index": index, "image": cell} for index, cell in cells.items()])
    (folder / "cache").mkdir(exist_ok=True)
    found = follow_references(path, folder, folder / "cache")
    rows = dict(zip(cells, (row for _, row in found), strict=True))
    return {index: str(row) if isinstance(row, ValueError) else row["image"] for index, row in rows.items()}


def test_references_lead_to_the_image_before_and_behind_them(tmp_path: Path) -> None:
    first, second = draw(1), draw(2)
    found = follow(tmp_path, {"0": "3", "1": first.base64, "2": "1", "3": second.base64, "4": "0"})
    assert Path(found["0"]).read_bytes() == Path(found["4"]).read_bytes() == second.jpeg
    assert Path(found["2"]).read_bytes() == first.jpeg
    assert found["1"] == first.base64 and found["3"] == second.base64


def test_references_to_nothing_are_reasons(tmp_path: Path) -> None:
    text = "no image " * 20
    found = follow(tmp_path, {"0": "7", "1": "2", "2": "1", "3": "3", "4": text, "5": "4", "6": "images/a.png"})
    assert found["0"] == "the image is that of row '7', which the file does not have"
    assert found["1"] == "the image refers in a circle: row 2 -> 1 -> 2"
    assert found["2"] == "the image refers in a circle: row 1 -> 2 -> 1"
    assert found["3"] == "the image refers in a circle: row 3 -> 3"
    assert found["5"].startswith("the image is that of row '4', which is invalid: image not found in ")
    assert found["6"] == "images/a.png", "a path is no reference"


def test_a_benchmark_whose_cycles_share_an_image_is_read(tmp_path: Path) -> None:
    path = write_hr_bench_4k(tmp_path)
    whole = load_benchmark("hr_bench_4k", str(path), cache=tmp_path / "cache")
    lines = path.read_text().splitlines()
    names = lines[0].split("\t")
    rows = [dict(zip(names, line.split("\t"), strict=True)) for line in lines[1:]]
    for number, row in enumerate(rows):
        row["index"] = str(number)
    holders: dict[str, str] = {}
    for row in reversed(rows):  # the last row of each image holds it
        holder = holders.setdefault(row["image"], row["index"])
        row["image"] = row["image"] if holder == row["index"] else holder
    rows.append({**rows[0], "index": "99", "image": "98"})
    write_tsv(path, rows)
    loaded = load_benchmark("hr_bench_4k", str(path), cache=tmp_path / "other")
    assert [Path(each.image).name for each in loaded.samples] == [Path(each.image).name for each in whole.samples]
    assert [bad.reason for bad in loaded.invalid_rows] == [
        "the image is that of row '98', which the file does not have"
    ]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    image = draw(1).base64
    padded = image + "\u0020" * (400_000 - len(image))
    rows = [{"index": str(n), "image": padded if n % 2 else str((n + 1) % 80)} for n in range(80)]
    path = write_tsv(tmp_path / "table.tsv", rows)
    assert path.stat().st_size > 15_000_000
    (tmp_path / "cache").mkdir()
    tracemalloc.start()
    count = sum(1 for _ in follow_references(path, tmp_path, tmp_path / "cache"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 80 and peak < 8_000_000, "a few rows, not the file"


@settings(max_examples=example_count(60), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cells=st.lists(st.integers(min_value=-1, max_value=12), min_size=1, max_size=10))
def test_any_references_end(tmp_path: Path, cells: list[int]) -> None:
    """-1 is an image; everything else is the index of a row, possibly of none."""
    image = draw(1).base64
    assert len(image) > MAX_REFERENCE_CHARS
    found = follow(tmp_path, {str(n): image if cell < 0 else str(cell) for n, cell in enumerate(cells)})
    for number, cell in enumerate(cells):
        visited, at = {number}, cell
        while 0 <= at < len(cells) and at not in visited and cells[at] >= 0:
            visited.add(at)
            at = cells[at]
        has_image = cell < 0 or (0 <= at < len(cells) and cells[at] < 0)
        assert found[str(number)].startswith("the image ") is not has_image


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_other_formats_have_no_references(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_text('[{"index": "0", "image": "1"}]' if suffix == "json" else '{"index": "0", "image": "1"}\n')
    ((_, row),) = follow_references(path, tmp_path, tmp_path)
    assert row == {"index": "0", "image": "1"}
