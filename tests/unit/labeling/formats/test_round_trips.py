"""Native -> format -> native for every format: the boxes are unchanged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hart_studio.labeling.export_plan import ExportOptions, class_name
from hart_studio.labeling.exporting import export_labels
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.records import ImageFile, Item
from hart_studio.models.families import FAMILIES
from hart_studio.records import Box
from tests.examples import example_count
from tests.labels import NASTY, draw_image, full_item, image_file, make_item

WH = (8192, 5460)
WRITTEN = sorted(name for name, info in FORMATS.items() if info.save)
HALVES = {"train": 0.5, "val": 0.5}

words = st.sampled_from(["sign", "car", "", "traffic light", NASTY])


@st.composite
def spans(draw: st.DrawFn, side: int) -> tuple[float, float]:
    """A size from a thousandth of a pixel to the whole side, often at an edge."""
    low = draw(st.one_of(st.just(0.0), st.floats(0, side - 1), st.integers(0, side - 1).map(float)))
    length = draw(st.one_of(st.just(1.0), st.just(side - low), st.floats(2e-3, side - low)))
    return low, min(float(side), low + length)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    (left, right), (top, bottom) = draw(spans(WH[0])), draw(spans(WH[1]))
    return Box.from_xyxy((left, top, right, bottom), draw(words), draw(st.none() | st.floats(0, 1)))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Path, ImageFile]]:
    """Images of 8192 x 5460 pixels, one per half."""
    folder = tmp_path_factory.mktemp("large")
    made: dict[int, tuple[Path, ImageFile]] = {}

    def image(number: int) -> tuple[Path, ImageFile]:
        if number not in made:
            path = draw_image(folder / f"p{number}.png", WH)
            made[number] = path, image_file(path)
        return made[number]

    return image


def resized(wh: tuple[int, int]) -> tuple[int, int]:
    return max(28, round(wh[0] / 4 / 28) * 28), max(28, round(wh[1] / 4 / 28) * 28)


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=example_count(cost=40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(st.lists(boxes(), min_size=1, max_size=4), min_size=1, max_size=3))
def test_boxes_of_a_huge_image_come_back(
    name: str, labels: list[list[Box]], large: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """``export_labels`` compares the boxes; this repeats the comparison independently."""
    folder = tmp_path_factory.mktemp("export") / "out"
    items = []
    for number in range(6):  # enough images for both splits
        path, file = large(number)
        items += [
            make_item(path, members, f"Where is number {index}?", file=file) for index, members in enumerate(labels)
        ]
    report = export_labels(items, name, folder, ExportOptions(splits=HALVES))
    assert report.items == 6 * len(labels) and set(report.images) == {"train", "val"}
    loaded = FORMATS[name].load(folder, ImportOptions(template="{label}", image_cache=folder.parent / "cache"))
    assert loaded.invalid_rows == ()
    info = FORMATS[name]
    across, down = info.tolerance(WH, ExportOptions())
    got = [box for sample in loaded.samples for box in sample.boxes]
    for meant in (box for members in labels for box in members):
        assert any(
            abs(box.x_min - meant.x_min) <= across
            and abs(box.y_min - meant.y_min) <= down
            and abs(box.x_max - meant.x_max) <= across
            and abs(box.y_max - meant.y_max) <= down
            and ("classes" not in info.preserves or class_name(box) == class_name(meant))
            for box in got
        )
    if "questions" in info.preserves:
        assert len(loaded.samples) == len(items)


@pytest.mark.parametrize(
    ("name", "across", "down"),
    [("coco", 1e-6, 1e-6), ("label_studio", 1e-6, 1e-6), ("yolo", 0.0123, 0.0082), ("pascal_voc", 1, 1)],
)
def test_stated_tolerances(name: str, across: float, down: float) -> None:
    assert FORMATS[name].tolerance(WH, ExportOptions()) == pytest.approx((across, down), abs=1e-4)


@pytest.mark.parametrize("name", WRITTEN)
def test_nasty_text_several_questions_and_a_turned_image(name: str, tmp_path: Path) -> None:
    turned = draw_image(tmp_path / "in" / "turned & <odd>.jpg", (48, 64), orientation=6)
    assert (image_file(turned).width, image_file(turned).height) == (64, 48)
    items = [full_item(turned), full_item(turned, 'Another "question" & <more>?\n第二')]
    items += [make_item(draw_image(tmp_path / "in" / f"{n}.png"), [(1, 2, 3, 4)]) for n in range(12)]
    report = export_labels(items, name, tmp_path / "out", ExportOptions(splits=HALVES))
    assert report.items == len(items) and report.excluded == {}
    loaded = FORMATS[name].load(tmp_path / "out", ImportOptions(image_cache=tmp_path / "cache"))
    assert loaded.invalid_rows == ()
    if "questions" in FORMATS[name].preserves:
        by_id = {sample.id: sample for sample in loaded.samples}
        for item in items:
            found = by_id[item.id]
            assert (found.question, found.choices, found.answer) == (
                item.sample.question,
                item.sample.choices,
                item.sample.answer,
            )
            assert found.status == item.label.status and len(found.boxes) == len(item.label.boxes)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@settings(max_examples=example_count(cost=40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.lists(boxes(), min_size=1, max_size=6))
def test_conversations_of_every_family_come_back(
    family: str, members: list[Box], large: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("chat") / "out"
    path, file = large(0)
    options = ExportOptions(splits={"train": 1}, chat_family=family, model_wh_of=resized)
    export_labels([make_item(path, members, file=file)], "grounded_chat", folder, options)
    (sample,) = FORMATS["grounded_chat"].load(folder, None).samples
    # One unit of the frame: a pixel of 2044 x 1372 for 8192 x 5460, or a thousandth of a side.
    unit = (WH[0] / 2044, WH[1] / 1372) if family == "qwen2_5_vl" else (WH[0] / 1000, WH[1] / 1000)
    for meant in members:
        assert any(
            abs(box.x_min - meant.x_min) <= unit[0] + 1e-6
            and abs(box.x_max - meant.x_max) <= unit[0] + 1e-6
            and abs(box.y_min - meant.y_min) <= unit[1] + 1e-6
            and abs(box.y_max - meant.y_max) <= unit[1] + 1e-6
            for box in sample.boxes
        )


def negatives(folder: Path, status: str) -> list[Item]:
    return [make_item(draw_image(folder / f"n{n}.png"), (), f"Is {n} there?", status=status) for n in range(12)]


@pytest.mark.parametrize("status", ["accepted", "rejected"])
@pytest.mark.parametrize("name", sorted(set(WRITTEN) - {"grounded_chat"}))
def test_nothing_but_negatives(name: str, status: Any, tmp_path: Path) -> None:
    items = negatives(tmp_path / "in", status)
    options = ExportOptions(splits=HALVES, statuses=("accepted", "rejected"))
    report = export_labels(items, name, tmp_path / "out", options)
    assert (report.items, report.boxes, report.negatives) == (12, 0, 12)
    reading = ImportOptions(negative_question="Anything?", image_cache=tmp_path / "cache")
    loaded = FORMATS[name].load(tmp_path / "out", reading)
    assert len(loaded.samples) == 12 and all(sample.boxes == () for sample in loaded.samples)
    questions = {sample.question for sample in loaded.samples}
    kept = "questions" in FORMATS[name].preserves
    assert questions == ({item.sample.question for item in items} if kept else {"Anything?"})


@pytest.mark.parametrize("name", sorted(name for name in WRITTEN if FORMATS[name].can_reference))
def test_images_may_stay_where_they_are(name: str, tmp_path: Path) -> None:
    paths = [draw_image(tmp_path / "in" / f"{n % 2} é %41" / f"p{n}#?.png") for n in range(4)]
    items = [make_item(path, [(1, 2, 30, 40)]) for path in paths]
    options = ExportOptions(splits={"train": 1}, images="reference")
    report = export_labels(items, name, tmp_path / "out", options)
    assert not list((tmp_path / "out").rglob("*.png"))
    assert f"image paths are relative to {tmp_path / 'in'}" in report.notes
    loaded = FORMATS[name].load(tmp_path / "out", ImportOptions(image_root=tmp_path / "in"))
    assert {sample.image for sample in loaded.samples} == {str(path) for path in paths}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_labels_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    items = [make_item(draw_image(tmp_path / "in" / f"{n}.png"), [(1, 2, 30, 40)]) for n in range(8)]
    written = []
    for number, order in enumerate((items, items[::-1])):
        export_labels(order, name, tmp_path / str(number), ExportOptions(splits=HALVES))
        files = sorted(path for path in (tmp_path / str(number)).rglob("*") if path.is_file())
        written.append({path.relative_to(tmp_path / str(number)): path.read_bytes() for path in files})
    assert written[0] == written[1]


def test_the_metadata_file_holds_what_the_format_loses(tmp_path: Path) -> None:
    items = [full_item(draw_image(tmp_path / "in" / f"{n}.png")) for n in range(8)]
    export_labels(items, "yolo", tmp_path / "out", ExportOptions(splits=HALVES))
    lines = (tmp_path / "out" / "hart_meta.jsonl").read_text("utf-8").splitlines()
    found, samples = FORMATS["native"].load, None
    samples = found(tmp_path / "out" / "hart_meta.jsonl", None).samples
    assert {json.loads(line)["item_id"] for line in lines} == {item.id for item in items}
    assert {sample.question for sample in samples} == {NASTY}
