from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.data.columns import ColumnMapping, infer_columns, read_row
from hart_studio.errors import DataError, InputError
from tests.images import encoded


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    return tmp_path


def read(root: Path, row: dict[str, Any], columns: ColumnMapping) -> Any:
    return read_row(row, columns, number=7, source="t", root=root, cache=root)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["image", "question", "answer"], ColumnMapping(answer="answer")),
        (["Image_Path", "Query"], ColumnMapping(image="Image_Path", question="Query", answer=None)),
        (
            ["img", "prompt", "gt", "options"],
            ColumnMapping(image="img", question="prompt", answer="gt", choices="options"),
        ),
        (
            ["index", "image", "question", "A", "B", "C", "D", "answer", "category"],
            ColumnMapping(answer="answer", choices=("A", "B", "C", "D"), id="index", category="category"),
        ),
        (["image", "question", "A"], ColumnMapping(answer=None)),
        (["x", "y"], ColumnMapping(answer=None)),
    ],
)
def test_guesses(names: list[str], expected: ColumnMapping) -> None:
    assert infer_columns(names) == expected


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match=r"Missing columns in t\.csv: question. It has image. Map the columns"):
        ColumnMapping(answer=None).check(["image"], "t.csv")


def test_a_row_with_letters_and_options(root: Path) -> None:
    columns = ColumnMapping(choices=("A", "B", "C"))
    row = {"image": "a.png", "question": "What?", "answer": "blue", "A": "red", "B": "blue", "C": ""}
    sample = read(root, row, columns)
    assert (sample.id, sample.choices, sample.answer) == ("000007", ("red", "blue"), "B")
    assert sample.image == str(root / "a.png")


@pytest.mark.parametrize("answer", [None, ""])
def test_an_empty_answer_is_an_unknown_one(root: Path, answer: str | None) -> None:
    row = {"image": "a.png", "question": "What?", "answer": answer}
    assert read(root, row, ColumnMapping()).answer is None
    assert read(root, row, ColumnMapping(answer=None)).answer is None


def test_a_image_in_a_cell(root: Path) -> None:
    data = encoded(Image.new("RGB", (5, 4)), "PNG")
    for value in (data, base64.b64encode(data).decode(), {"bytes": data, "path": None}):
        sample = read(root, {"image": value, "question": "What?", "answer": None}, ColumnMapping())
        assert Path(sample.image).read_bytes() == data


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "a\0.png"])
def test_no_path_leads_out(root: Path, name: str) -> None:
    with pytest.raises((ValueError, InputError)):
        read(root, {"image": name, "question": "What?", "answer": None}, ColumnMapping())
