import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import DataError, InputError
from hart_studio.labeling.formats.coco import load_coco, save_coco
from hart_studio.labeling.formats.reading import NOTHING_TO_ASK, ImportOptions
from hart_studio.records import Box
from tests.labels import copy_images, draw_image, make_item, make_plan

CATEGORIES = [{"id": 7, "name": "sign"}, {"id": 9, "name": "car"}]


def document(folder: Path, annotations: list[Any], **image: Any) -> Path:
    draw_image(folder / "images" / "a.png")
    images = [{"id": 1, "file_name": "a.png", "width": 64, "height": 48, **image}]
    path = folder / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return path


def annotation(bbox: Any, category: Any = 7, **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": category, "bbox": bbox, **more}


def test_what_is_written(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "in" / "a.png")
    boxes = [Box.from_xyxy((10.5, 20.25, 30.5, 40), "Z", 0.75), (1, 2, 3, 5)]
    item = make_item(path, boxes, answer="red", score=0.9, origin="model")
    negative = make_item(draw_image(tmp_path / "in" / "b.png"), (), "Any car?")
    save_coco(make_plan([item, negative], classes=("car", "sign")), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert [each["name"] for each in written["categories"]] == ["car", "sign"]
    assert [each["id"] for each in written["categories"]] == [1, 2]
    assert [(each["id"], each["file_name"]) for each in written["images"]] == [(1, "a.png"), (2, "b.png")]
    first, second = written["annotations"]
    assert (first["id"], first["image_id"], first["category_id"]) == (1, 1, 1)
    assert first["bbox"] == [10.5, 20.25, 20.0, 19.75] and first["area"] == 395.0
    assert (first["iscrowd"], first["segmentation"], first["score"]) == (0, [], 0.9)
    assert second["bbox"] == [1.0, 2.0, 2.0, 3.0] and second["score"] == 0.9
    assert first["attributes"]["question"] == "Where is the sign?" and first["attributes"]["answer"] == "red"
    assert written["images"][1]["hart_questions"][0]["question"] == "Any car?"
    results = json.loads((tmp_path / "out" / "annotations" / "results_train.json").read_text())
    assert results[0] == {"image_id": 1, "category_id": 1, "bbox": [10.5, 20.25, 20.0, 19.75], "score": 0.9}


def test_a_box_that_a_person_drew_has_no_score(tmp_path: Path) -> None:
    """The score applied to the model's box, also if the reviewer changed only that box."""
    path = draw_image(tmp_path / "in" / "a.png")
    item = make_item(path, [Box.from_xyxy((1, 2, 3, 5), "Z", 0.75)], status="edited", score=0.9)
    save_coco(make_plan([item], classes=("car", "sign")), tmp_path / "out")
    text = (tmp_path / "out" / "annotations" / "instances_train.json").read_text()
    written = json.loads(text)
    assert [each["name"] for each in written["categories"]] == ["car", "sign"]
    assert written["annotations"][0]["category_id"] == 1
    assert "score" not in written["annotations"][0]
    assert written["annotations"][0]["attributes"]["label_score"] is None
    assert '"Z"' not in text
    assert not (tmp_path / "out" / "annotations" / "results_train.json").exists()


def test_questions_come_back(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "in" / "a.png")
    items = [
        make_item(path, [(1, 2, 3, 4)], "Where?", choices=("x", "y"), answer="B", status="edited"),
        make_item(path, [(1, 2, 3, 4), (5, 6, 7, 8)], "Which?"),
        make_item(path, (), "None?"),
    ]
    plan = make_plan(items)
    save_coco(plan, tmp_path / "out")
    copy_images(plan, tmp_path / "out", "coco")
    found = {sample.id: sample for sample in load_coco(tmp_path / "out").samples}
    for item in items:
        sample = found[item.id]
        assert (sample.question, sample.choices, sample.answer, sample.status, sample.boxes) == (
            item.sample.question,
            item.sample.choices,
            item.sample.answer,
            item.label.status,
            item.label.boxes,
        )


def test_boxes_without_questions_are_asked_for_by_category(tmp_path: Path) -> None:
    path = document(tmp_path, [annotation([1, 2, 3, 4]), annotation([5, 6, 7, 8]), annotation([0, 0, 64, 48], 9)])
    loaded = load_coco(path, ImportOptions(template="Find {label}!"))
    assert [(sample.question, len(sample.boxes)) for sample in loaded.samples] == [("Find sign!", 2), ("Find car!", 1)]
    assert loaded.samples[0].boxes[0] == Box.from_xyxy((1, 2, 4, 6), "sign")
    assert {sample.status for sample in loaded.samples} == {"proposed"}
    assert loaded == load_coco(path, ImportOptions(template="Find {label}!"))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (annotation([1, 2, float("nan"), 4]), "finite number"),
        (annotation([1, 2, 10**400, 4]), "too large"),
        (annotation([1, 2, -3, 4]), "x_min < x_max"),
        (annotation([100, 2, 3, 4]), "outside of the image"),
        (annotation([1, 2, 3]), r"\[x, y, width, height\]"),
        (annotation("1234"), r"\[x, y, width, height\]"),
        (annotation([True, 2, 3, 4]), "expected a number"),
        (annotation([1, 2, 3, 4], 8), "unknown category"),
        ({**annotation([1, 2, 3, 4]), "image_id": 5}, "annotation of a missing image"),
        ([], "expected a JSON object"),
    ],
)
def test_a_bad_annotation_is_counted(bad: Any, reason: str, tmp_path: Path) -> None:
    loaded = load_coco(document(tmp_path, [bad, annotation([1, 2, 3, 4])]))
    assert len(loaded.samples) == 1
    (found,) = loaded.invalid_rows
    assert found.row == "labels.json annotation 1"
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found.reason)


def test_a_box_that_reaches_past_the_image_is_clipped(tmp_path: Path) -> None:
    loaded = load_coco(document(tmp_path, [annotation([60, 40, 100, 100])]))
    assert loaded.samples[0].boxes[0].xyxy == (60, 40, 64, 48)


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "images/../../a.png", "b.png", "", 7, "a\0.png"])
def test_names_that_lead_out_or_nowhere(name: Any, tmp_path: Path) -> None:
    draw_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="No valid rows"):
        load_coco(document(tmp_path / "in", [annotation([1, 2, 3, 4])], file_name=name))


def test_an_image_of_another_size_is_not_guessed_about(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="64 x 48 pixels, but the file states 48 x 64"):
        load_coco(document(tmp_path, [annotation([1, 2, 3, 4])], width=48, height=64))


def test_an_image_without_annotations(tmp_path: Path) -> None:
    path = document(tmp_path, [])
    with pytest.raises(DataError, match=NOTHING_TO_ASK):
        load_coco(path)
    (sample,) = load_coco(path, ImportOptions(negative_question="Anything?")).samples
    assert (sample.question, sample.boxes) == ("Anything?", ())


def test_a_category_id_with_two_names_is_refused(tmp_path: Path) -> None:
    """Without the check, the last name would apply to all annotations."""
    path = document(tmp_path, [annotation([1, 2, 3, 4])])
    text = path.read_text()
    path.write_text(text.replace('"id": 9', '"id": 7'))
    with pytest.raises(DataError, match="category id 7 has two names, 'sign' and 'car'"):
        load_coco(path)
    path.write_text(text.replace('"id": 9, "name": "car"', '"id": 7, "name": "sign"'))
    assert load_coco(path).samples[0].boxes[0].label == "sign"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 1}', "[" * 100_000, "\xff", '{"a": ' * 50_000])
def test_what_is_no_coco_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(text, "latin-1")
    with pytest.raises(DataError):
        load_coco(tmp_path / "labels.json")
    with pytest.raises(DataError):
        load_coco(tmp_path / "missing")


def test_placeholders_of_a_question(tmp_path: Path) -> None:
    rows = [annotation([1, 2, 10, 20], area=157.6), annotation([5, 6, 7, 8]), annotation([1, 2, 3, 4], 9)]
    path = document(tmp_path, rows)
    made = json.loads(path.read_text())
    made["categories"][0]["supercategory"] = "traffic {name}"  # a value is no template
    path.write_text(json.dumps(made))
    options = ImportOptions(template="{label}, {supercategory}: {area} in {name} of {folder}.")
    loaded = load_coco(path, options)
    assert [sample.question for sample in loaded.samples] == [
        "sign, traffic {name}: 158 in a of .",
        "sign, traffic {name}: 56 in a of .",
    ]
    (invalid,) = loaded.invalid_rows  # the class "car" has no supercategory
    assert invalid.reason == "no value for {supercategory} in the question"


def test_unknown_placeholders_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = document(tmp_path, [annotation([1, 2, 10, 20])])
    known = r"Unknown placeholder \{color\}.*\{label\} \(class of the box\), .*\{supercategory\} \(supercategory of the"
    with pytest.raises(InputError, match=known):
        load_coco(path, ImportOptions(template="Which {color} is the {label}?"))
    (sample,) = load_coco(path, ImportOptions(template="Is {label} in { braces } or {}?")).samples
    assert sample.question == "Is sign in { braces } or {}?"
