from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.data.sources import load_jsonl
from hart_studio.errors import DataError, InputError
from hart_studio.labeling import exporting
from hart_studio.labeling.export_loss import preview_export
from hart_studio.labeling.export_plan import NO_BACKGROUND, ExportOptions
from hart_studio.labeling.exporting import export_labels, write_training_set
from hart_studio.labeling.formats.native import load_items
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import USABLE_STATUSES, Item
from tests.labels import draw_image, full_item, make_item
from tests.unit.labeling.conftest import add_label, ask

HALVES = {"train": 0.5, "val": 0.5}


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    return [make_item(draw_image(tmp_path / "in" / f"{n}.png"), [(n + 0.5, 2, 30, 40)]) for n in range(10)]


def test_report(items: list[Item], tmp_path: Path) -> None:
    items.append(make_item(draw_image(tmp_path / "in" / "n.png"), (), "Any?"))
    items.append(make_item(draw_image(tmp_path / "in" / "w.png"), (), status="new"))
    report = export_labels(items, "pascal_voc", tmp_path / "new" / "out", ExportOptions(splits=HALVES))
    assert (report.items, report.boxes, report.negatives) == (11, 10, 1)
    assert sum(report.images.values()) == 11 and report.excluded == {"status new": 1}
    assert [loss.what for loss in report.losses] == ["questions", "rounded", "statuses"]
    assert any("1-based" in note for note in report.notes)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out"]
    images = {path.read_bytes() for path in (tmp_path / "new" / "out" / "JPEGImages").iterdir()}
    assert images == {Path(item.image.path).read_bytes() for item in items[:11]}


def test_losses_are_those_of_the_written_labels(tmp_path: Path) -> None:
    items = [full_item(draw_image(tmp_path / "in" / f"{n}.png")) for n in range(3)]
    Path(items[0].image.path).unlink()
    report = export_labels(items, "coco", tmp_path / "out", ExportOptions(splits={"train": 1.0}))
    assert report.items == 2 and report.excluded == {"the image is gone or cannot be read": 1}
    assert {loss.what: loss.count for loss in report.losses}["evidence"] == 2


def test_turned_images_are_noted_only_where_there_are_some(items: list[Item], tmp_path: Path) -> None:
    assert export_labels(items, "coco", tmp_path / "upright", ExportOptions(splits=HALVES)).notes == ()
    items.append(make_item(draw_image(tmp_path / "in" / "t.jpg", orientation=6), [(1, 2, 30, 40)]))
    (note,) = export_labels(items, "coco", tmp_path / "turned", ExportOptions(splits=HALVES)).notes
    assert note == "1 image with EXIF rotation was written upright"


def test_the_full_record_is_in_the_metadata_file(tmp_path: Path) -> None:
    item = full_item(draw_image(tmp_path / "in" / "a.png"))
    export_labels([item], "createml", tmp_path / "out", ExportOptions(splits={"val": 1.0}))
    ((found,), _) = load_items(tmp_path / "out" / "hart_meta.jsonl")
    assert found.label == item.label and found.history == item.history
    assert found.image.path == str(tmp_path / "out" / "val" / "a.png")


@pytest.mark.parametrize("name", sorted(name for name, info in FORMATS.items() if info.save and name != "native"))
def test_one_class_for_all_boxes(tmp_path: Path, name: str) -> None:
    items = [full_item(draw_image(tmp_path / "in" / f"{n}.png")) for n in range(10)]
    options = ExportOptions(splits=HALVES, box_class="road sign")
    report = export_labels(items, name, tmp_path / "out", options)
    info = FORMATS[name]
    loaded = info.load(tmp_path / "out", ImportOptions(template="{label}", image_cache=tmp_path / "cache"))
    assert {box.label for sample in loaded.samples for box in sample.boxes} == {"road sign"}
    lines = (tmp_path / "out" / "hart_meta.jsonl").read_text().splitlines()
    kept = {box["label"] for line in lines for box in json.loads(line)["boxes"]}
    assert kept == {box.label for item in items for box in item.label.boxes}, "native records keep every label"
    losses = {loss.what: loss.text for loss in report.losses}
    assert losses["labels"].endswith("(replaced by 'road sign')")


def test_our_own_format_keeps_each_label(items: list[Item], project: Project, tmp_path: Path) -> None:
    for act in (lambda options: export_labels(items, "native", tmp_path / "out", options),
                lambda options: preview_export(project, "native", options)):  # fmt: skip
        with pytest.raises(InputError, match="keeps the labels of all boxes"):
            act(ExportOptions(box_class="sign"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", ["x" * 101, "a\nb", "\x00"])
def test_a_class_is_one_printable_line(wrong: str) -> None:
    with pytest.raises(InputError, match="expected a class name"):
        ExportOptions(box_class=wrong)


@pytest.mark.parametrize("kind", ["full", "file"])
def test_a_folder_that_holds_something_is_left_alone(kind: str, items: list[Item], tmp_path: Path) -> None:
    if kind == "full":
        (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine" if kind == "full" else tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        export_labels(items, "coco", tmp_path / "out")
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".png"] == ["mine"]


def test_an_empty_folder_will_do(items: list[Item], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_labels(items, "coco", tmp_path / "out")
    assert (tmp_path / "out" / "hart_meta.jsonl").is_file()


@pytest.mark.parametrize("name", sorted(name for name, info in FORMATS.items() if info.save))
def test_a_crash_leaves_nothing(name: str, items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(exporting, "get_format", lambda key: replace(FORMATS[key], save=crash))
    with pytest.raises(OSError, match="disk full"):
        export_labels(items, name, tmp_path / "out", ExportOptions(splits=HALVES))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["native", "coco", "yolo", "createml", "pascal_voc", "image_folder", "label_studio"])
def test_a_wrong_box_is_found_and_named(
    name: str, items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written from other labels than planned."""
    info = FORMATS[name]

    def save_shifted(plan: Any, folder: Path) -> None:
        image = plan.images[3]
        moved = [box.model_copy(update={"x_max": box.x_max + 5}) for box in image.items[0].boxes]
        label = image.items[0].item.label.model_copy(update={"boxes": tuple(moved)})
        item = image.items[0].item.model_copy(update={"label": label})
        planned = replace(image.items[0], item=item, boxes=tuple(moved))
        images = (*plan.images[:3], replace(image, items=(planned,)), *plan.images[4:])
        assert info.save is not None
        info.save(replace(plan, images=images), folder)

    monkeypatch.setattr(exporting, "get_format", lambda _: replace(info, save=save_shifted))
    with pytest.raises(DataError, match=r"Export check failed: .*: missing box 'sign' .* on item q-\w+"):
        export_labels(items, name, tmp_path / "out", ExportOptions(splits=HALVES))
    assert not (tmp_path / "out").exists()


def test_a_lost_image_is_found(items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = FORMATS["coco"]

    def save_fewer(plan: Any, folder: Path) -> None:
        assert info.save is not None
        info.save(replace(plan, images=plan.images[1:]), folder)

    monkeypatch.setattr(exporting, "get_format", lambda _: replace(info, save=save_fewer))
    with pytest.raises(DataError, match=r"Export check failed: .*: item \S+ is missing"):
        export_labels(items, "coco", tmp_path / "out")


def test_unreviewed_images_never_become_background(tmp_path: Path) -> None:
    labeled = [make_item(draw_image(tmp_path / "in" / f"{n}.png"), [(1, 2, 30, 40)]) for n in range(8)]
    path = draw_image(tmp_path / "in" / "half.png")
    half = [make_item(path, (), "Any car?"), make_item(path, [(1, 2, 3, 4)], "Any dog?", status="proposed")]
    empty = make_item(draw_image(tmp_path / "in" / "new.png"), (), status="proposed")
    options = ExportOptions(splits=HALVES)
    report = export_labels([*labeled, *half, empty], "yolo", tmp_path / "yolo", options)
    assert report.items == 8 and report.excluded == {
        NO_BACKGROUND: 1,
        "status proposed": 2,
    }
    report = export_labels([*labeled, *half, empty], "coco", tmp_path / "coco", options)
    assert report.items == 9 and report.negatives == 1  # it can say of which question nothing was found
    wide = replace(options, statuses=("accepted", "proposed"))
    report = export_labels([*labeled, *half, empty], "yolo", tmp_path / "wide", wide)
    assert report.items == 10 and report.excluded == {"no label that this format can hold": 1}
    assert all(file.read_text() for file in (tmp_path / "wide").glob("labels/*/*.txt"))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("yolo", {"images": "reference"}, "cannot reference images"),
        ("hf_parquet", {"images": "reference"}, "cannot reference images"),
        ("yolo", {"splits": {"train": 1.0}}, "No image in the split val"),
        ("x_anylabeling", {}, "Unknown export format"),
        ("coco", {"statuses": ("failed",)}, r"No labels to export \(10 items: status accepted\)"),
        ("grounded_chat", {"chat_family": "qwen2_5_vl"}, "whose size is unknown here"),
    ],
)
def test_options_that_do_not_fit(name: str, options: Any, reason: str, items: list[Item], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        export_labels(items, name, tmp_path / "out", ExportOptions(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_many_boxes_in_one_label_are_compared_quickly(tmp_path: Path) -> None:
    boxes = [(1 + k % 50, 1 + k // 100, 60 + k % 40, 90 + k % 7 + k / 1e5) for k in range(6000)]
    item = make_item(draw_image(tmp_path / "in" / "a.png", (200, 200)), boxes)
    started = time.perf_counter()
    assert export_labels([item], "coco", tmp_path / "out").boxes == 6000
    assert time.perf_counter() - started < 20


def test_good_labels_become_questions_with_the_labels_boxes(project: Project, image: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deeper"
    folder.mkdir()
    other = folder / "other.png"
    other.write_bytes(image.read_bytes() + b" ")
    rows = (ask(image, 0), ask(other, 1), ask(image, 2), ask(image, 3, answer=None), ask(image, 4))
    import_samples(project, LoadedSamples("s", rows))
    statuses = ("accepted", "edited", "rejected", "accepted", "auto_accepted")
    for item, status in zip(list(project.items()), statuses, strict=True):
        add_label(project, item.id, status=status)
    found = write_training_set(project)
    assert (found.questions, found.excluded, found.image_root) == (3, 1, tmp_path)
    loaded = load_jsonl(found.path, image_root=found.image_root)
    assert [sample.question[-2:] for sample in loaded.samples] == ["0?", "1?", "4?"]
    assert [sample.image for sample in loaded.samples] == [str(image), str(other), str(image)]
    assert all(sample.gold_boxes == () for sample in loaded.samples), "a label is no truth"
    kept = [item.label.boxes for item in project.items() if item.label.status in USABLE_STATUSES and item.sample.answer]
    assert [sample.label_boxes for sample in loaded.samples] == kept


def test_nothing_to_train_on(filled: Project) -> None:
    with pytest.raises(InputError, match="Run the labeling, or review items"):
        write_training_set(filled)
