import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import DataError
from hart_studio.labeling.formats.createml import load_createml, save_createml
from hart_studio.labeling.formats.reading import ImportOptions
from tests.labels import draw_image, make_item, make_plan


def write(folder: Path, rows: Any) -> Path:
    draw_image(folder / "a.png")
    (folder / "labels.json").write_text(json.dumps(rows))
    return folder / "labels.json"


def annotation(x: Any, y: Any, width: Any, height: Any, label: Any = "car") -> dict[str, Any]:
    return {"label": label, "coordinates": {"x": x, "y": y, "width": width, "height": height}}


def test_the_center_is_written(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "in" / "a.png", (4032, 3024))
    items = [make_item(path, [(504, 1209.6, 756, 1451.52)]), make_item(draw_image(tmp_path / "in" / "b.png"))]
    save_createml(make_plan(items), tmp_path)
    first, second = json.loads((tmp_path / "train" / "annotations.json").read_text())
    coordinates = {"x": 630.0, "y": 1330.56, "width": 252.0, "height": pytest.approx(241.92)}
    assert first == {"image": "a.png", "annotations": [{"label": "sign", "coordinates": coordinates}]}
    assert second == {"image": "b.png", "annotations": []}


def test_reading(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "annotations": [annotation(10, 20, 4, 6), annotation(float("nan"), 1, 2, 3)]},
        {"imagefilename": "a.png", "annotations": [annotation(5, 5, 2, 2, "b")]},
        {"image": "a.png", "annotations": []},
        {"image": "../a.png", "annotations": []},
        7,
    ]
    loaded = load_createml(write(tmp_path, rows), ImportOptions(negative_question="Anything?"))
    assert [(sample.question, [box.xyxy for box in sample.boxes]) for sample in loaded.samples] == [
        ("Where is the car?", [(8, 17, 12, 23)]),
        ("Where is the b?", [(4, 4, 6, 6)]),
        ("Anything?", []),
    ]
    assert len(loaded.invalid_rows) == 3


@pytest.mark.parametrize("rows", [{}, 7, [], [{"image": "a.png"}], [{"image": "a.png", "annotations": {}}]])
def test_what_is_no_createml_file(rows: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load_createml(write(tmp_path, rows))
