import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import DataError
from hart_studio.labeling.export_plan import ExportOptions, plan_export
from hart_studio.labeling.formats.image_folder import load_image_folder, save_image_folder
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.records import Box
from tests.labels import draw_image, make_item, make_plan

HALVES = {"train": 0.5, "val": 0.5}


def write(folder: Path, rows: list[Any], classes: str = "roi\ncar\n") -> Path:
    draw_image(folder / "train" / "a.png")
    (folder / "train" / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "classes.txt").write_text(classes)
    return folder


def test_what_is_written(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "in" / "a.png", (4032, 3024))
    items = [make_item(path, [(504, 1209, 756, 1451)], "Q?", answer="red"), make_item(path, [(0, 0, 1, 1)], "Q2?")]
    save_image_folder(make_plan(items), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train" / "metadata.jsonl").read_text().splitlines()]
    row = next(row for row in rows if row["question"] == "Q?")
    assert row["objects"] == {"id": [1], "bbox": [[504.0, 1209.0, 252.0, 242.0]], "area": [60984.0], "category": [0]}
    assert (row["file_name"], row["width"], row["height"], row["answer"]) == ("a.png", 4032, 3024, "red")
    assert "score" not in row and "choices" not in row  # unknown for some, so not a column
    assert (tmp_path / "classes.txt").read_text() == "sign\n"


def test_scores_are_a_column_when_all_are_known(tmp_path: Path) -> None:
    box = Box.from_xyxy((1, 2, 3, 4), "sign", 0.5)
    item = make_item(draw_image(tmp_path / "a.png"), [box], score=0.9, origin="model")
    save_image_folder(make_plan([item]), tmp_path)
    row = json.loads((tmp_path / "train" / "metadata.jsonl").read_text())
    assert row["objects"]["score"] == [0.9] and row["score"] == 0.9


@pytest.mark.parametrize("answer", [None, "2021-05-03"])
def test_types_are_stated_where_they_cannot_be_inferred(answer: str | None, tmp_path: Path) -> None:
    """Only empty lists, or only texts in the form of dates."""
    boxes = [] if answer is None else [(1, 2, 3, 4)]
    items = [make_item(draw_image(tmp_path / "in" / f"{n}.png"), boxes, answer=answer) for n in range(8)]
    save_image_folder(plan_export(items, ExportOptions(splits=HALVES)), tmp_path / "out")
    assert not list(tmp_path.rglob("metadata.jsonl"))
    assert len(list(tmp_path.rglob("metadata.parquet"))) == 2


def test_other_tools_rows(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]], "category": [1, 7]}},
        {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4]], "categories": ["dog"]}},
        {"file_name": "a.png", "objects": None},
        {"file_name": "a.png", "question": "Q?", "objects": {"bbox": [], "category": []}, "width": 64, "height": 48},
    ]
    loaded = load_image_folder(write(tmp_path, rows), ImportOptions(negative_question="Anything?"))
    assert loaded.invalid_rows == ()
    assert [(sample.question, [box.xyxy for box in sample.boxes]) for sample in loaded.samples] == [
        ("Where is the car?", [(1, 2, 4, 6)]),
        ("Where is the 7?", [(5, 6, 12, 14)]),
        ("Where is the dog?", [(1, 2, 4, 6)]),
        ("Anything?", []),
        ("Q?", []),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {},
        [],
        {"file_name": "../a.png"},
        {"file_name": "a.png", "objects": 7},
        {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4]], "category": []}},
        {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 1e400]], "category": [0]}},
        {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3]], "category": [0]}},
        {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4]], "category": [None]}},
        {"file_name": "a.png", "width": 9, "height": 9, "objects": {"bbox": [[1, 2, 3, 4]], "category": [0]}},
    ],
)
def test_bad_rows_are_counted(row: Any, tmp_path: Path) -> None:
    good = {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4]], "category": [0]}}
    loaded = load_image_folder(write(tmp_path, [row, good]))
    assert len(loaded.samples) == 1 and len(loaded.invalid_rows) == 1


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.parquet").write_bytes(b"PAR1" * 10)
    with pytest.raises(DataError, match="cannot be read as a Parquet file"):
        load_image_folder(tmp_path)
