from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import DataError, InputError
from hart_studio.labeling.export_plan import (
    ExportOptions,
    check_image,
    class_name,
    common_folder,
    plan_export,
    split_of,
    unique_names,
)
from hart_studio.records import Box
from tests.labels import draw_image, image_file, make_item, make_plan

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def test_shares_of_the_splits() -> None:
    counts = Counter(split_of(f"{number:064x}", SHARES, "") for number in range(5000))
    assert counts["train"] == pytest.approx(4000, abs=120) and counts["val"] == pytest.approx(500, abs=80)
    assert {split_of(f"{n:064x}", {"train": 0.0, "val": 1.0}, "") for n in range(50)} == {"val"}
    moved = [split_of(f"{n:064x}", SHARES, "") != split_of(f"{n:064x}", SHARES, "x") for n in range(500)]
    assert any(moved)


def test_an_image_keeps_its_split_when_others_join_and_is_never_in_two(tmp_path: Path) -> None:
    items = [
        make_item(draw_image(tmp_path / f"{n}.png"), [(1, 2, 3, 4)], question)
        for n in range(40)
        for question in ("Where?", "Which?")
    ]
    options = ExportOptions(splits={"train": 0.4, "val": 0.3, "test": 0.3})
    few = {image.file.sha256: image.split for image in plan_export(items[:40], options).images}
    plan = plan_export(items[::-1], options)
    many = {image.file.sha256: image.split for image in plan.images}
    assert len(plan.images) == 40 and all(len(image.items) == 2 for image in plan.images)
    assert few.items() <= many.items() and plan.splits == ("train", "val", "test")
    assert plan == plan_export(items, options)


def test_names_do_not_collide_and_one_image_is_written_once(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "a.png", tmp_path / "y" / "a.png", tmp_path / "y" / "A.jpg", tmp_path / "b é#%.png"]
    items = [make_item(draw_image(path), [(1, 2, 3, 4)]) for path in paths]
    copy = tmp_path / "z" / "c.png"
    copy.parent.mkdir()
    copy.write_bytes(paths[0].read_bytes())
    items.append(make_item(copy, [(5, 6, 7, 8)], "Which?"))
    plan = make_plan(items)
    names = [image.name for image in plan.images]
    assert len(names) == 4 and len({Path(name).stem.casefold() for name in names}) == 4
    assert "b_é_.png" in names
    twice = next(image for image in plan.images if image.file.sha256 == items[0].image.sha256)
    assert len(twice.items) == 2 and twice.file.path == str(paths[0])


@pytest.mark.parametrize("name", ["noend", "a.jfif", ".hidden.png", "a.PNG", "..png"])
def test_names_fit_the_content(name: str, tmp_path: Path) -> None:
    source = draw_image(tmp_path / "source.png")
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(source.read_bytes())
    (image,) = make_plan([make_item(path, [(1, 2, 3, 4)])]).images
    assert image.name.endswith(".png") and not image.name.startswith(".")


def test_who_is_chosen(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    made: list[Any] = [
        ("accepted", None),
        ("auto_accepted", 0.9),
        ("auto_accepted", 0.4),
        ("auto_accepted", None),
        ("proposed", 0.9),
        ("rejected", None),
    ]
    items = [
        make_item(path, [(1, 2, 3, 4)], f"{n}?", status=status, score=score) for n, (status, score) in enumerate(made)
    ]
    plan = make_plan(items, min_score=0.5)
    assert {planned.item.sample.question for _, planned in plan.rows()} == {"0?", "1?"}
    assert plan.excluded == {"no score": 1, "score below 0.5": 1, "status proposed": 1, "status rejected": 1}
    assert plan.images[0].waiting == 3, "one that no one decided on, two with boxes that are left out"


def test_item_properties(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    box = (1.0, 2.0, 3.0, 4.0)
    said = {}
    for status in ("accepted", "rejected", "proposed", "new", "bad_question", "failed"):
        for boxes in ((), (box,)):
            plan = make_plan([make_item(path, boxes, status=status)], statuses=(status,))
            ((_, planned),) = plan.rows()
            said[status, bool(boxes)] = (planned.state.is_labeled, planned.state.is_negative, len(planned.boxes))
    assert said == {
        ("accepted", False): (True, True, 0),
        ("accepted", True): (True, False, 1),
        ("rejected", False): (True, True, 0),
        ("rejected", True): (True, True, 0),
        ("proposed", False): (False, False, 0),
        ("proposed", True): (True, False, 1),
        ("new", False): (False, False, 0),
        ("new", True): (False, False, 1),
        ("bad_question", False): (False, False, 0),
        ("bad_question", True): (False, False, 1),
        ("failed", False): (False, False, 0),
        ("failed", True): (False, False, 1),
    }


def test_boxes_are_clipped_and_lost_ones_do_not_make_a_negative(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    items = [
        make_item(path, [(-5, -5, 10, 10), (60, 40, 100, 100)], "a?"),
        make_item(path, [(70, 0, 80, 10), (1, 1, 1.0001, 2)], "b?"),
    ]
    plan = make_plan(items)
    planned = {each.item.sample.question: each for _, each in plan.rows()}
    assert [box.xyxy for box in planned["a?"].boxes] == [(0, 0, 10, 10), (60, 40, 64, 48)]
    assert planned["b?"].boxes == () and not planned["b?"].state.is_negative and not planned["b?"].state.is_labeled
    assert plan.notes == (
        "2 boxes clipped to the image",
        "2 boxes outside of the image or without an area, excluded",
    )


def test_images_that_are_gone_or_changed(tmp_path: Path) -> None:
    items = [make_item(draw_image(tmp_path / f"{n}.png"), [(1, 2, 3, 4)]) for n in range(3)]
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes((tmp_path / "2.png").read_bytes())
    plan = make_plan(items)
    assert len(plan.images) == 1
    assert plan.excluded == {
        "the image has changed since it was imported": 1,
        "the image is gone or cannot be read": 1,
    }
    assert make_plan([items[2], items[2]]).excluded == {"duplicate item": 1}


def test_class_names() -> None:
    labels = {"": "region", " ": "region", "a\n b\t": "a b", "\x00": "region", "漢 字": "漢 字", "<a> & b": "<a> & b"}
    assert {label: class_name(Box.from_xyxy((0, 0, 1, 1), label)) for label in labels} == labels


@pytest.mark.parametrize(
    "options",
    [
        {"statuses": ()},
        {"statuses": ("good",)},
        {"min_score": 2.0},
        {"min_score": float("nan")},
        {"splits": {}},
        {"splits": {"train": 0.5}},
        {"splits": {"train": 1.5, "val": -0.5}},
        {"splits": {"holdout": 1.0}},
        {"splits": {"train": float("nan")}},
        {"images": "link"},
        {"chat_family": "gpt"},
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        ExportOptions(**options)


@pytest.mark.parametrize(
    ("origin", "label", "classes", "expected"),
    [
        ("model", "Z", ("region",), "region"),
        ("model", "car", ("sign", "car"), "sign"),
        ("model", "Z", (), "region"),
        ("human", "", ("sign", "car"), "sign"),
        ("human", "Z", ("sign", "car"), "sign"),
        ("human", "car", ("sign", "car"), "car"),
        ("imported", "a\n b", ("sign", "a b"), "a b"),
        ("imported", "a b", (), "a b"),
    ],
)
def test_classes_are_those_of_the_project(
    origin: Any, label: str, classes: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    item = make_item(draw_image(tmp_path / "a.png"), [Box.from_xyxy((1, 1, 9, 9), label)], origin=origin)
    plan = make_plan([item], classes=classes)
    assert [box.label for box in plan.rows()[0][1].boxes] == [expected]
    assert set(plan.classes) >= {expected}


def test_numbers_of_classes_stay_from_one_export_to_the_next(tmp_path: Path) -> None:
    item = make_item(draw_image(tmp_path / "a.png"), [Box.from_xyxy((1, 1, 9, 9), "car")])
    assert make_plan([item], classes=("sign", "car", "bus")).classes == ("sign", "car", "bus")
    assert make_plan([item], classes=("region", "car")).classes == ("car",)
    assert make_plan([item], classes=("region", "car"), box_class="thing").classes == ("thing",)


@pytest.mark.parametrize(
    ("origin", "score", "expected"),
    [("model", 0.9, 0.9), ("model", None, None), ("human", 0.9, None), ("imported", 0.9, None)],
)
def test_only_unchanged_boxes_of_a_model_have_a_score(
    origin: Any, score: float | None, expected: float | None, tmp_path: Path
) -> None:
    boxes = [Box.from_xyxy((1, 1, 9, 9), "sign", 0.4)]
    item = make_item(draw_image(tmp_path / "a.png"), boxes, origin=origin, score=score)
    ((_, planned),) = make_plan([item]).rows()
    assert (planned.score, planned.boxes[0].score) == (expected, expected)


def test_an_image_that_changed_or_went_is_refused(tmp_path: Path) -> None:
    file = image_file(draw_image(tmp_path / "a.PNG"))
    assert check_image(file) == (".png", 1)
    draw_image(tmp_path / "b.png").rename(tmp_path / "a.PNG")
    with pytest.raises(DataError, match="has changed"):
        check_image(file)
    (tmp_path / "a.PNG").unlink()
    with pytest.raises(DataError, match="is gone"):
        check_image(file)
    os.mkfifo(tmp_path / "a.PNG")
    with pytest.raises(DataError, match="cannot be read"):
        check_image(file)


def test_names_are_unique_ignoring_case(tmp_path: Path) -> None:
    files = [image_file(draw_image(tmp_path / name)) for name in ("x/a.png", "y/A.png", "z/b.png")]
    names = unique_names([(file, ".png") for file in files])
    assert len({name.casefold() for name in names}) == 3
    assert names[2] == "b.png"


def test_the_common_folder() -> None:
    assert common_folder(["/a/b/c.png", "/a/b/d/e.png"]) == Path("/a/b")
    assert common_folder([]) == Path()
