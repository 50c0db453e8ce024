import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import DataError
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.labeling.formats.x_anylabeling import load_x_anylabeling
from tests.labels import draw_image


def shape(points: Any, label: Any = "car", kind: str = "rectangle", **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points, **more}


def write(folder: Path, shapes: Any, **more: Any) -> Path:
    draw_image(folder / "a.png")
    document = {"imagePath": "a.png", "imageWidth": 64, "imageHeight": 48, "shapes": shapes, **more}
    (folder / "a.json").write_text(json.dumps(document))
    return folder


def test_two_or_four_corners_in_any_order(tmp_path: Path) -> None:
    shapes = [
        shape([[30, 40], [10, 20]]),
        shape([[1, 2], [3, 2], [3, 4], [1, 4]], score=0.5),
        shape([[0, 0], [5, 5]], description=" the red car "),
    ]
    loaded = load_x_anylabeling(write(tmp_path, shapes))
    assert [(sample.question, [box.xyxy for box in sample.boxes]) for sample in loaded.samples] == [
        ("Where is the car?", [(10, 20, 30, 40), (1, 2, 3, 4)]),
        ("Where is the the red car?", [(0, 0, 5, 5)]),
    ]
    assert loaded.samples[0].boxes[1].score == 0.5 and loaded.samples[1].boxes[0].label == "car"


@pytest.mark.parametrize(
    "bad",
    [
        shape([[1, 2], [3, 4]], kind="polygon"),
        shape([[1, 2]]),
        shape([[1, 2], [3]]),
        shape([[1, 2], [float("nan"), 4]]),
        shape([[1, 2], [1, 4]]),
        shape([[100, 2], [200, 4]]),
        shape("1234"),
        shape([[1, 2], [3, 4]], label=None),
        {"label": "car"},
        None,
    ],
)
def test_a_bad_shape_is_counted(bad: Any, tmp_path: Path) -> None:
    loaded = load_x_anylabeling(write(tmp_path, [bad, shape([[1, 2], [3, 4]])]))
    assert len(loaded.samples[0].boxes) == 1
    assert [row.row for row in loaded.invalid_rows] == ["a.json shape 1"]


@pytest.mark.parametrize(
    "more", [{"imagePath": "../a.png"}, {"imagePath": "..\\a.png"}, {"imageWidth": 9}, {"shapes": 3}]
)
def test_files_about_nothing(more: dict[str, Any], tmp_path: Path) -> None:
    draw_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="No valid rows"):
        load_x_anylabeling(write(tmp_path / "in", **{"shapes": [shape([[1, 2], [3, 4]])], **more}))


def test_one_bad_file_does_not_stop_the_others_and_no_shapes_say_nothing_here(tmp_path: Path) -> None:
    write(tmp_path, [])
    (tmp_path / "b.json").write_text("[" * 100_000)
    loaded = load_x_anylabeling(tmp_path, ImportOptions(negative_question="Anything?"))
    assert len(loaded.samples) == 1 and loaded.invalid_rows[0].row == "b.json"
    with pytest.raises(DataError, match="not valid JSON"):
        load_x_anylabeling(tmp_path / "b.json")
