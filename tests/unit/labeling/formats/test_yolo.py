from pathlib import Path

import pytest

from hart_studio.errors import DataError, InputError
from hart_studio.labeling.export_plan import ExportOptions, plan_export
from hart_studio.labeling.formats.reading import NOTHING_TO_ASK, ImportOptions
from hart_studio.labeling.formats.yolo import exclusion_reason, load_yolo, save_yolo, written_box
from hart_studio.records import Box
from tests.labels import copy_images, draw_image, make_item

HALVES = {"train": 0.5, "val": 0.5}


def data_set(
    folder: Path, label: str, config: str = "train: images/train\nval: images/val\nnames: [roi, car]\n"
) -> Path:
    for split in ("train", "val"):
        draw_image(folder / "images" / split / f"{split}.png", (100, 50))
        (folder / "labels" / split).mkdir(parents=True)
        (folder / "labels" / split / f"{split}.txt").write_text(label)
    (folder / "data.yaml").write_text(config)
    return folder


def test_what_is_written(tmp_path: Path) -> None:
    items = [
        make_item(draw_image(tmp_path / "in" / f"{n}.png", (4000, 3000)), [(500, 1200, 750, 1440)]) for n in range(8)
    ]
    items[0] = make_item(Path(items[0].image.path), ())
    plan = plan_export(items, ExportOptions(splits=HALVES))
    save_yolo(plan, tmp_path / "out")
    assert (tmp_path / "out" / "data.yaml").read_text() == "train: images/train\nval: images/val\nnames:\n  0: sign\n"
    texts = {file.stem: file.read_text() for file in (tmp_path / "out" / "labels").glob("*/*.txt")}
    # center (625, 1320) of 4000 x 3000 is (0.15625, 0.44), 250 x 240 is (0.0625, 0.08)
    assert texts == {"0": ""} | {str(n): "0 0.156250 0.440000 0.062500 0.080000\n" for n in range(1, 8)}


def test_a_flat_box_keeps_a_unit_and_an_edge_stays_inside() -> None:
    wh = (8192, 5460)
    for box in (
        Box.from_xyxy((8191.999, 5459.999, 8192, 5460)),
        Box.from_xyxy((0, 0, 0.001, 0.001)),
        Box.from_xyxy((0, 0, 8192, 5460)),
    ):
        written = Box.from_xyxy(written_box(box.xyxy, wh))
        assert written.width >= 0.99e-6 * 8192 and abs(written.x_min - box.x_min) < 0.0123


def test_equal_boxes_of_two_questions_are_one_row(tmp_path: Path) -> None:
    items = []
    for n in range(8):
        path = draw_image(tmp_path / "in" / f"{n}.png")
        items += [make_item(path, [(1, 2, 3, 4)], question) for question in ("Where?", "Which?")]
    save_yolo(plan_export(items, ExportOptions(splits=HALVES)), tmp_path / "out")
    assert all(len(file.read_text().splitlines()) == 1 for file in (tmp_path / "out").glob("labels/*/*.txt"))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    item = make_item(draw_image(tmp_path / "a.png"), [(1, 2, 3, 4)])
    with pytest.raises(InputError, match="No image in the split val"):
        save_yolo(plan_export([item], ExportOptions(splits={"train": 1})), tmp_path / "out")


def test_images_that_the_reader_would_drop(tmp_path: Path) -> None:
    sizes = {"a.png": (9, 100), "b.gif": (20, 20), "c.png": (10, 10)}
    items = [
        make_item(draw_image(tmp_path / name, wh), [(1, 2, 3, 4)]) for name, wh in sizes.items() if "gif" not in name
    ]
    plan = plan_export(items, ExportOptions(splits={"train": 1}))
    assert [bool(exclusion_reason(image)) for image in plan.images] == [True, False]


def test_classes_with_odd_names(tmp_path: Path) -> None:
    names = ["yes", "0", "a: b", "- c", "#d", "é {x}", "null", "1.0"]
    items = [
        make_item(draw_image(tmp_path / "in" / f"{n}.png"), [Box.from_xyxy((1, 2, 3, 4), name) for name in names])
        for n in range(8)
    ]
    plan = plan_export(items, ExportOptions(splits=HALVES))
    save_yolo(plan, tmp_path / "out")
    copy_images(plan, tmp_path / "out", "yolo")
    loaded = load_yolo(tmp_path / "out", ImportOptions(template="{label}"))
    assert {sample.question for sample in loaded.samples} == set(names)


def test_boxes_are_read_in_pixels_of_the_upright_image(tmp_path: Path) -> None:
    draw_image(tmp_path / "images" / "a.jpg", (50, 100), orientation=6)  # upright 100 x 50
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("\ufeff1 0.5 0.5 0.2 0.4\n\n0 0.05 0.1 0.1 0.2\n", "utf-8")
    (tmp_path / "classes.txt").write_text("roi\ncar\n")
    loaded = load_yolo(tmp_path)
    assert [(sample.question, sample.boxes[0].xyxy) for sample in loaded.samples] == [
        ("Where is the car?", (40, 15, 60, 35)),
        ("Where is the roi?", (0, 0, 10, 10)),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.2", "expected 5 columns, got 4"),
        ("0 0.5 0.5 0.2 0.2 0.9", "expected 5 columns, got 6"),
        ("2 0.5 0.5 0.2 0.2", "unknown class number 2"),
        ("0.5 0.5 0.5 0.2 0.2", "unknown class number"),
        ("x 0.5 0.5 0.2 0.2", "expected a finite number in 'class', got 'x'"),
        ("0 nan 0.5 0.2 0.2", "expected a finite number in 'box', got 'nan'"),
        ("0 1e999 0.5 0.2 0.2", "expected a finite number"),
        ("0 50 50 20 20", "box coordinate outside"),
        ("0 0.5 0.5 0 0.2", "expected x_min < x_max"),
    ],
)
def test_a_bad_line_is_counted(line: str, reason: str, tmp_path: Path) -> None:
    loaded = load_yolo(data_set(tmp_path / "d", f"{line}\n1 0.5 0.5 0.2 0.2\n"))
    assert len(loaded.samples) == 2 and len(loaded.invalid_rows) == 2
    assert loaded.invalid_rows[0].row == "train.txt line 1" and reason in loaded.invalid_rows[0].reason


def test_unlabeled_is_not_negative(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "d", "")
    (folder / "labels" / "val" / "val.txt").unlink()
    loaded = load_yolo(folder, ImportOptions(negative_question="Anything?"))
    assert [sample.boxes for sample in loaded.samples] == [()]
    assert "without a label file" in loaded.invalid_rows[0].reason
    with pytest.raises(DataError, match=NOTHING_TO_ASK):
        load_yolo(folder)


def test_no_other_key_is_obeyed(tmp_path: Path) -> None:
    config = "path: /\ndownload: exit\nnc: 99\ntrain: ../images/train\nval: [images/val]\nnames: {0: roi, 1: car}\n"
    loaded = load_yolo(data_set(tmp_path / "d", "0 0.5 0.5 0.2 0.4\n", config) / "data.yaml")
    assert [Path(sample.image).name for sample in loaded.samples] == ["train.png", "val.png"]


def test_a_list_of_images(tmp_path: Path) -> None:
    config = "train: train.txt\nnames: [roi]\n"
    folder = data_set(tmp_path / "d", "0 0.5 0.5 0.2 0.4\n", config)
    draw_image(tmp_path / "out.png")
    (folder / "train.txt").write_text("./images/train/train.png\n../out.png\n/etc/passwd\n\n")
    loaded = load_yolo(folder)
    assert len(loaded.samples) == 1 and len(loaded.invalid_rows) == 2


@pytest.mark.parametrize(
    "config",
    [
        "",
        "[]",
        "train: images/train",
        "train: images/train\nnames: 3",
        "train: images/train\nnames: {a: b}",
        "train: images/train\nnames: [[1]]",
        "names: [roi]\ntrain: ../../images",
        "names: [roi]\ntrain: /etc",
        "names: [roi]\ntrain: 7",
        "names: !!python/object/apply:os.system ['true']",
        "names: !!int ''",
        "names: !!timestamp x",
        "a: &a [*a]\nnames: *a",
        "names: [\x00]",
        "[" * 5000,
    ],
)
def test_what_is_no_data_set(config: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load_yolo(data_set(tmp_path / "d", "0 0.5 0.5 0.2 0.4\n", config))
