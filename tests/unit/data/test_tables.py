from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hart_studio import files
from hart_studio.data import separated_rows, tables
from hart_studio.data.columns import ColumnMapping
from hart_studio.data.tables import load_table, preview_table
from hart_studio.errors import DataError
from hart_studio.files import open_regular_file, read_lines
from tests.examples import example_count
from tests.images import encoded

ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "question": "What color?", "answer": "red"},
    {"image": "a.png", "question": 'A "quoted", comma\nand a line', "answer": "7"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    return tmp_path


def write(folder: Path, ending: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    path = folder / f"table{ending}"
    if ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == ".json":
        path.write_text(json.dumps(rows))
    elif ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if ending == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_form_gives_the_same_samples(folder: Path, ending: str) -> None:
    loaded = load_table(write(folder, ending), folder / "cache")
    assert [(sample.question, sample.answer) for sample in loaded.samples] == [
        ("What color?", "red"),
        ('A "quoted", comma\nand a line', "7"),
    ]
    assert loaded.invalid_rows == ()


def test_a_byte_order_mark_is_no_part_of_a_name(folder: Path) -> None:
    (folder / "t.csv").write_bytes(b"\xef\xbb\xbfimage,question\na.png,What?\n")
    assert load_table(folder / "t.csv", folder / "cache").samples[0].question == "What?"


def test_invalid_rows_are_counted_with_their_places(folder: Path) -> None:
    lines = [json.dumps(ROWS[0]), "{", "[1]", json.dumps({**ROWS[0], "image": "gone.png"}), '{"image": NaN', "", "5"]
    (folder / "t.jsonl").write_text("\n".join(lines))
    loaded = load_table(folder / "t.jsonl", folder / "cache")
    assert len(loaded.samples) == 1
    assert [bad.row for bad in loaded.invalid_rows] == ["line 2", "line 3", "line 4", "line 5", "line 7"]
    assert "image not found" in loaded.invalid_rows[2].reason


def test_lines_with_too_many_or_too_few_cells(folder: Path) -> None:
    (folder / "t.csv").write_text("image,question\na.png,What?\na.png\na.png,Why?,more\n")
    loaded = load_table(folder / "t.csv", folder / "cache")
    assert [bad.reason for bad in loaded.invalid_rows] == [
        "fewer cells than the header has columns",
        "more cells than the header has columns",
    ]


def test_images_in_base64_fill_long_cells(folder: Path) -> None:
    data = encoded(Image.effect_noise((400, 300), 90).convert("RGB"), "PNG")
    path = write(folder, ".tsv", [{"image": base64.b64encode(data).decode(), "question": "What?", "answer": "x"}])
    assert Path(load_table(path, folder / "cache").samples[0].image).read_bytes() == data


def test_columns_can_be_mapped(folder: Path) -> None:
    path = write(folder, ".csv", [{"photo": "a.png", "ask": "What?", "said": "red"}])
    loaded = load_table(path, folder / "cache", ColumnMapping(image="photo", question="ask", answer="said"))
    assert loaded.samples[0].answer == "red"
    with pytest.raises(DataError, match="Map the columns"):
        load_table(path, folder / "cache")


def test_preview_names_the_columns_of_the_first_rows(folder: Path) -> None:
    path = write(folder, ".jsonl", [{"image": "a.png"}, {"image": "b.png", "question": "?"}] * 10)
    names, rows = preview_table(path)
    assert (names, len(rows)) == (["image", "question"], 5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"hello", "is not a supported table"),
        ("t.json", b"{}", "must contain a JSON list"),
        ("t.json", b"[" * 100_000, "must contain a JSON list"),
        ("t.parquet", b"PAR1 no", "cannot be read as a Parquet file"),
        ("t.csv", b"", "contains no rows with named columns"),
        ("t.jsonl", b"\n\n", "contains no rows with named columns"),
    ],
)
def test_what_is_no_table_is_a_clear_error(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_table(folder / name, folder / "cache")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Check the path"):
        load_table(tmp_path / "gone.csv", tmp_path / "cache")


@settings(max_examples=example_count(cost=2), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), ending=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet"]))
def test_no_bytes_raise_anything_else(folder: Path, content: bytes, ending: str) -> None:
    path = folder / f"fuzz{ending}"
    path.write_bytes(content)
    with pytest.raises(DataError):
        load_table(path, folder / "cache")
        raise DataError("a table after all")


@pytest.mark.parametrize(
    "choices", ["five | six", "five|six", '"five\nsix"', '"[""five"", ""six""]"', "A. five B. six"]
)
def test_options_in_one_cell(folder: Path, choices: str) -> None:
    (folder / "t.csv").write_text(f"image,question,choices,answer\na.png,Which?,{choices},six\n")
    (sample,) = load_table(folder / "t.csv", folder / "cache").samples
    assert (sample.choices, sample.answer) == (("five", "six"), "B")


def test_one_option_is_reported(folder: Path) -> None:
    (folder / "t.csv").write_text("image,question,choices,answer\na.png,Which?,five or six,six\n")
    with pytest.raises(DataError, match="at least two options in the column 'choices', got one: 'five or six'"):
        load_table(folder / "t.csv", folder / "cache")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_tables_of_other_countries(folder: Path, encoding: str) -> None:
    (folder / "t.csv").write_text("image;question;choices;answer\na.png;Für wen?;für ö|für ü;für ü\n", encoding)
    (sample,) = load_table(folder / "t.csv", folder / "cache").samples
    assert (sample.question, sample.choices, sample.answer) == ("Für wen?", ("für ö", "für ü"), "B")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("long.csv", b"image,question\n" + b"a" * 5000, "or 100 cells"),
        ("wide.tsv", b"image\tquestion\n" + b"\t" * 300, "100 cells"),
        ("rows.jsonl", b"{}\n" * 60, "more than 50 rows"),
        ("rows.csv", b"a,b\n" + b"1,2\n" * 60, "more than 50 rows"),
        ("rows.json", b"[" + b"{}," * 60 + b"{}]", "more than 50 rows"),
        ("large.json", b"[" + b" " * 30_000 + b"{}]", "more than 20,000 bytes"),
    ],
)
def test_tables_without_end_are_refused(
    name: str, content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separated_rows, "MAX_ROW_CHARS", 2000)
    monkeypatch.setattr(separated_rows, "MAX_CELLS", 100)
    monkeypatch.setattr(tables, "MAX_ROWS", 50)
    monkeypatch.setattr(tables, "MAX_DOCUMENT_BYTES", 20_000)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(tables.read_rows(tmp_path / name))


def test_json_that_takes_much_memory_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_PARSED_BYTES", 1 << 20)
    (tmp_path / "a.json").write_text(f"[{'{},' * 5000}{{}}]")
    with pytest.raises(DataError, match="at most 1 MiB are allowed"):
        list(tables.read_rows(tmp_path / "a.json"))
    (tmp_path / "a.jsonl").write_text(f"[{'{},' * 5000}{{}}]\n" + '{"a": 1}\n')
    bad, good = (row for _, row in tables.read_rows(tmp_path / "a.jsonl"))
    assert isinstance(bad, ValueError)
    assert good == {"a": 1}


def test_a_line_that_is_too_long_is_a_bad_row_and_the_next_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100 + b"\nshort\n" + b"y" * 11)
    with open_regular_file(tmp_path / "a") as file:
        assert list(read_lines(file, 10)) == [(1, None), (2, b"short\n"), (3, None)]
