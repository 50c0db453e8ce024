import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import DataError
from hart_studio.labeling.formats.label_studio import label_config, load_label_studio, save_label_studio
from hart_studio.labeling.formats.pascal_voc import parse_xml
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.records import Box
from tests.labels import draw_image, full_item, make_item, make_plan


def region(**value: Any) -> dict[str, Any]:
    at = {"x": 12.5, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["sign"], **value}
    return {"id": "r", "type": "rectanglelabels", "original_width": 64, "original_height": 48, "value": at}


def tasks(folder: Path, *made: dict[str, Any]) -> Path:
    draw_image(folder / "a b.png")
    path = folder / "tasks.json"
    path.write_text(json.dumps(list(made)))
    return path


def task(result: list[Any], name: str = "annotations", image: Any = "a b.png", **data: Any) -> dict[str, Any]:
    return {"data": {"image": image, **data}, name: [{"result": result}]}


def test_percent_is_never_rounded(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "in" / "a.png", (4032, 3024))
    item = make_item(
        path, [(504, 1209.6, 756, 1451.52)], answer="red", status="auto_accepted", score=0.92, origin="model"
    )
    save_label_studio(make_plan([item], classes=("sign",)), tmp_path)
    (written,) = json.loads((tmp_path / "tasks.json").read_text())
    assert written["data"]["image"] == "/data/local-files/?d=images/a.png"
    (prediction,) = written["predictions"]
    rectangle, answer = prediction["result"]
    assert rectangle["value"] == {
        "x": 12.5,
        "y": pytest.approx(40),
        "width": 6.25,
        "height": pytest.approx(8),
        "rotation": 0,
        "rectanglelabels": ["sign"],
    }
    assert (rectangle["original_width"], rectangle["original_height"]) == (4032, 3024)
    assert answer["value"] == {"text": ["red"]} and prediction["score"] == 0.92


def test_a_reviewed_label_is_an_annotation(tmp_path: Path) -> None:
    items = [full_item(draw_image(tmp_path / "in" / "a.png")), make_item(draw_image(tmp_path / "in" / "b.png"))]
    plan = make_plan(items)
    save_label_studio(plan, tmp_path)
    written = json.loads((tmp_path / "tasks.json").read_text())
    results = [each["annotations"][0]["result"] for each in written]
    assert [len(result) for result in results] == [5, 1] and not any("predictions" in each for each in written)
    ids = [mark["id"] for mark in results[0]]
    assert len(set(ids)) == len(ids)
    assert [each["id"] for each in written] == [each["annotations"][0]["id"] for each in written] == [1, 2]
    assert not any("completed_by" in each["annotations"][0] for each in written)  # set by the import
    labels = {mark["value"]["rectanglelabels"][0] for mark in results[0] if mark["type"] == "rectanglelabels"}
    view = parse_xml(tmp_path / "label_config.xml")
    assert labels <= {label.get("value") for label in view.iter("Label")}


def test_names_of_labels_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "config.xml").write_text(label_config(('<a> & "b"', "c'd")))
    view = parse_xml(tmp_path / "config.xml")
    assert [label.get("value") for label in view.iter("Label")] == ['<a> & "b"', "c'd"]


@pytest.mark.parametrize("image", ["a b.png", "/data/local-files/?d=a%20b.png"])
def test_tasks_without_questions(image: str, tmp_path: Path) -> None:
    (sample,) = load_label_studio(tasks(tmp_path, task([region()], image=image))).samples
    assert (sample.question, sample.status) == ("Where is the sign?", "proposed")
    assert sample.boxes == (Box.from_xyxy((8, 12, 40, 36), "sign"),)


def test_the_newest_annotation_counts_and_a_skipped_one_does_not(tmp_path: Path) -> None:
    made = task([region()], question="Q?")
    made["annotations"] += [{"result": [region(x=0)]}, {"result": [region(y=0)], "was_cancelled": True}]
    made["predictions"] = [{"result": [region(width=1)]}]
    (sample,) = load_label_studio(tasks(tmp_path, made)).samples
    assert sample.boxes[0].xyxy == (0, 12, 32, 36) and sample.status == "accepted"
    (sample,) = load_label_studio(tasks(tmp_path, {**made, "annotations": []})).samples
    assert sample.boxes[0].width == pytest.approx(0.64) and sample.status == "proposed"


def test_a_verdict_decides(tmp_path: Path) -> None:
    verdict = {"from_name": "verdict", "type": "choices", "value": {"choices": ["wrong box"]}}
    (sample,) = load_label_studio(tasks(tmp_path, task([region(), verdict], question="Q?"))).samples
    assert sample.status == "rejected"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (region(rotation=5), "rotated"),
        ({**region(), "image_rotation": 90}, "rotated image"),
        ({**region(), "original_width": 32}, "the file states"),
        (region(x=float("inf")), "finite"),
        (region(x=200), "outside"),
        ({**region(), "value": 7}, "expected a JSON object"),
    ],
)
def test_a_bad_region_is_counted(bad: dict[str, Any], reason: str, tmp_path: Path) -> None:
    loaded = load_label_studio(tasks(tmp_path, task([bad, region()])))
    assert len(loaded.samples[0].boxes) == 1 and reason in loaded.invalid_rows[0].reason


@pytest.mark.parametrize(
    "image",
    ["../a b.png", "/data/local-files/?d=%2e%2e/a%20b.png", "https://host/a.png", "/data/local-files/?d=%00", 3],
)
def test_images_that_are_not_fetched(image: Any, tmp_path: Path) -> None:
    draw_image(tmp_path / "a b.png")
    with pytest.raises(DataError, match="No valid rows"):
        load_label_studio(tasks(tmp_path / "in", task([region()], image=image)))


def test_a_task_without_regions(tmp_path: Path) -> None:
    path = tasks(tmp_path, task([]), task([], question="Q?"))
    loaded = load_label_studio(path, ImportOptions(negative_question="Anything?"))
    assert [sample.question for sample in loaded.samples] == ["Anything?", "Q?"]


def test_older_annotations_are_counted(tmp_path: Path) -> None:
    made = task([region(x=10)])
    made["annotations"] += [{"result": [region(x=50)]}, {"result": [], "was_cancelled": True}]
    loaded = load_label_studio(tasks(tmp_path, made))
    assert [box.x_min for sample in loaded.samples for box in sample.boxes] == [32.0]
    assert [(bad.row, bad.reason) for bad in loaded.invalid_rows] == [
        ("task 1 annotation 1", "older annotation of the same task; only the newest counts")
    ]


@pytest.mark.parametrize("about", [{}, {"question": "Where?"}])
def test_other_shapes_are_counted_and_are_no_negative(about: dict[str, Any], tmp_path: Path) -> None:
    polygon = {"type": "polygonlabels", "value": {"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["car"]}}
    ellipse = {"type": "ellipselabels", "value": {"x": 50, "y": 50, "radiusX": 10, "radiusY": 10}}
    mask = {"type": "brushlabels", "value": {"format": "rle", "rle": [0, 1], "brushlabels": ["car"]}}
    options = ImportOptions(negative_question="Is there anything?")
    made = (task([polygon, ellipse, mask], **about), task([polygon, region(x=10)], **about))
    loaded = load_label_studio(tasks(tmp_path, *made), options)
    assert [len(sample.boxes) for sample in loaded.samples] == [1]
    assert [bad.row for bad in loaded.invalid_rows] == [f"task 1 shape {number}" for number in (1, 2, 3)] + [
        "task 2 shape 1"
    ]
    assert loaded.invalid_rows[0].reason == "expected a rectangle, got 'polygonlabels'"


def test_an_unlabeled_task_is_no_negative(tmp_path: Path) -> None:
    skipped = task([])
    skipped["annotations"][0]["was_cancelled"] = True
    made = (task([]), skipped, {**task([]), "annotations": []})
    loaded = load_label_studio(tasks(tmp_path, *made), ImportOptions(negative_question="Is there anything?"))
    assert len(loaded.samples) == 1
    assert [bad.row for bad in loaded.invalid_rows] == ["task 2", "task 3"]
    assert "without an annotation" in loaded.invalid_rows[0].reason
