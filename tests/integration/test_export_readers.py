"""Exports, read by their target tools.

Readers that are not installed are skipped, and say so. Two, whose requirements conflict with those of HART Studio, are
installed by pip into environments of their own. Nothing else here touches the network, and nothing the home folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from hart_studio.imaging import ROTATIONS, SourceImage
from hart_studio.labeling.export_plan import ExportOptions, class_name, split_of
from hart_studio.labeling.exporting import export_labels
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.records import Item, Status
from hart_studio.models.chat import ImageInput
from hart_studio.models.families import FAMILIES
from hart_studio.models.generation import LocalChatModel
from hart_studio.models.inputs import process_image
from hart_studio.records import Box
from tests.integration.reader_environments import make_environment, run_reader
from tests.labels import NASTY, draw_image, make_item

pytestmark = pytest.mark.integration

SHARES = {"train": 0.5, "val": 0.3, "test": 0.2}
WH = (1008, 756)
BOXES = ((126.0, 302.4, 189.0, 362.88), (0.0, 0.0, 1008.0, 756.0), (1007.0, 755.0, 1008.0, 756.0))


@pytest.fixture(autouse=True)
def away_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "HF_HOME", "HF_DATASETS_CACHE", "YOLO_CONFIG_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("YOLO_OFFLINE", "True")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """Every fourth is a negative; one image is turned by EXIF; two questions about one image."""
    made = []
    for n in range(16):
        path = draw_image(tmp_path / "in" / f"p{n}.jpg", WH[::-1] if n == 1 else WH, 6 if n == 1 else 1)
        boxes = () if n % 4 == 0 else [Box.from_xyxy(xyxy, "car" if n % 2 else NASTY, 0.5) for xyxy in BOXES]
        made.append(make_item(path, boxes, f"Where is {NASTY} {n}?", answer=NASTY, score=0.75))
    made.append(make_item(path, [(1, 2, 30, 40)], "Which?", choices=("red", "green"), answer="B", score=0.5))
    return made


def negatives_in(split: str, items: list[Item], options: ExportOptions) -> list[Item]:
    """The same items, but with no box in one split."""
    return [
        item.model_copy(update={"label": item.label.model_copy(update={"boxes": ()})})
        if split_of(item.image.sha256, options.splits, options.salt) == split
        else item
        for item in items
    ]


@pytest.mark.core
def test_pycocotools(items: list[Item], tmp_path: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    # Only boxes that a model made have scores.
    items = [item.model_copy(update={"label": item.label.model_copy(update={"origin": "model"})}) for item in items]
    export_labels(items, "coco", tmp_path / "out", ExportOptions(splits=SHARES))
    seen, boxes = 0, []
    for file in sorted((tmp_path / "out" / "annotations").glob("instances_*.json")):
        coco = coco_module.COCO(str(file))
        assert min(coco.getImgIds()) >= 1 and min(coco.getAnnIds()) >= 1 and min(coco.getCatIds()) == 1
        seen += len(coco.getImgIds())
        boxes += [each["bbox"] for each in coco.loadAnns(coco.getAnnIds())]
        for image in coco.loadImgs(coco.getImgIds()):
            with SourceImage(tmp_path / "out" / "images" / image["file_name"]) as opened:
                assert opened.wh == (image["width"], image["height"])
        results = coco.loadRes(str(file.with_name(file.name.replace("instances", "results"))))
        scored = evaluation.COCOeval(coco, results, "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
        assert scored.stats[0] == pytest.approx(1)  # the labels match themselves
    assert seen == 16 and len(boxes) == sum(len(item.label.boxes) for item in items)
    assert [126.0, 302.4, 63.0, 362.88 - 302.4] in boxes


READ_YOLO = """
import json, sys
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset
results = []
for config in sys.argv[1:]:
    data = check_det_dataset(config, autodownload=False)
    found = {}
    for split in ("train", "val", "test"):
        made = YOLODataset(img_path=data[split], data=data, imgsz=64, augment=False, task="detect").labels
        found[split] = [
            [one["im_file"], one["shape"], one["cls"].ravel().tolist(), one["bboxes"].tolist()] for one in made
        ]
    results.append([found, {str(number): name for number, name in data["names"].items()}])
print("RESULT" + json.dumps(results))
"""


def test_ultralytics(items: list[Item], tmp_path: Path) -> None:
    """Run in a separate process: it reads its settings on import, and runs in another folder."""
    pytest.importorskip("ultralytics", reason="ultralytics is not installed: pip install -r requirements-readers.txt")
    options = ExportOptions(splits=SHARES)
    cases = {"all": items, "val": negatives_in("val", items, options)}
    reports = [export_labels(chosen, "yolo", tmp_path / name, options) for name, chosen in cases.items()]
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READ_YOLO, *(str(report.folder / "data.yaml") for report in reports)],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.split("RESULT")[1])
    for (empty, chosen), report, (found, names) in zip(cases.items(), reports, results, strict=True):
        assert {split: len(rows) for split, rows in found.items()} == report.images  # none was dropped
        meant: dict[str, list[Box]] = {}
        for item in chosen:
            meant.setdefault(Path(item.image.path).name, []).extend(item.label.boxes)
        for split, rows in found.items():
            for file, (height, width), classes, boxes in rows:
                assert (width, height) == WH  # upright
                expected = meant[Path(file).name]
                assert len(boxes) == len(expected) and not (split == empty and boxes)
                for number, (x, y, w, h) in zip(classes, boxes, strict=True):
                    got = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * [width, height, width, height]
                    near = [box for box in expected if np.abs(got - box.xyxy).max() < 0.01]
                    assert any(class_name(box) == names[str(int(number))] for box in near)


@pytest.mark.parametrize(
    ("name", "empty"), [("image_folder", ""), ("image_folder", "val"), ("hf_parquet", ""), ("hf_parquet", "train")]
)
def test_datasets(name: str, empty: str, items: list[Item], tmp_path: Path) -> None:
    import datasets  # noqa: PLC0415 - it reads where its caches are when it is imported

    options = ExportOptions(splits=SHARES)
    chosen = negatives_in(empty, items, options) if empty else items
    export_labels(chosen, name, tmp_path / "out", options)
    cache = str(tmp_path / "cache")
    ways = [lambda: datasets.load_dataset(str(tmp_path / "out"), cache_dir=cache)]
    if name == "image_folder":
        ways.append(lambda: datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=cache))
    for load in ways:
        loaded = load()
        assert set(loaded) == {"train", "validation", "test"}
        features = [loaded[split].features for split in loaded]
        assert all(each == features[0] for each in features)
        objects = features[0]["objects"]
        assert objects["bbox"] == datasets.List(datasets.List(datasets.Value("float64")))
        assert isinstance(features[0]["image"], datasets.Image)
        if name == "hf_parquet":
            used = {class_name(box) for item in chosen for box in item.label.boxes}
            assert objects["category"].feature.names == sorted(used)
        by_id = {item.id: item for item in chosen}
        for split in loaded:
            for row in loaded[split]:
                item = by_id.pop(row["id"])
                assert (row["question"], row["answer"]) == (item.sample.question, item.sample.answer or "")
                assert row["image"].size == WH  # turned upright by the library
                got = [[x, y, x + w, y + h] for x, y, w, h in row["objects"]["bbox"]]
                assert np.allclose(np.reshape(got, (-1, 4)), np.reshape([b.xyxy for b in item.label.boxes], (-1, 4)))
        assert not by_id


READ_LABEL_STUDIO = """
import json, logging, sys
from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface
logging.disable(logging.WARNING)
folder, out = sys.argv[1:]
tasks = json.load(open(folder + "/tasks.json"))
config = open(folder + "/label_config.xml").read()
interface = LabelInterface(config)
problems = [
    region
    for task in tasks
    for made in task.get("annotations", []) + task.get("predictions", [])
    for region in made["result"]
    if not interface.validate_region(region)
]
problems += [
    problem
    for task in tasks
    for prediction in task.get("predictions", [])
    for problem in interface.validate_prediction(prediction, return_errors=True)
]
converter = Converter(config, folder, download_resources=False)
converter.convert_to_coco(folder + "/tasks.json", out + "/coco", is_dir=False)
converter.convert_to_yolo(folder + "/tasks.json", out + "/yolo", is_dir=False)
print("RESULT" + json.dumps([problems, json.load(open(out + "/coco/result.json"))]))
"""


def test_label_studio(items: list[Item], tmp_path: Path) -> None:
    """Its converter reads tasks.json as we write it, with the boxes of the accepted labels alone."""
    interpreter = make_environment(tmp_path / "environment", "label-studio-sdk>=2.1,<3")
    statuses: tuple[Status, ...] = ("accepted", "edited", "auto_accepted", "proposed")
    mixed = [
        item.model_copy(update={"label": item.label.model_copy(update={"status": statuses[number % 4]})})
        for number, item in enumerate(items[1:])
    ]
    options = ExportOptions(splits={"train": 1.0}, statuses=statuses)
    export_labels(mixed, "label_studio", tmp_path / "out", options)
    problems, made = run_reader(interpreter, READ_LABEL_STUDIO, tmp_path / "out", tmp_path)
    assert problems == []
    got = sorted(tuple(annotation["bbox"]) for annotation in made["annotations"])
    accepted = [item for item in mixed if item.label.status in ("accepted", "edited")]
    boxes = [box for item in accepted for box in item.label.boxes]
    meant = sorted((box.x_min, box.y_min, box.width, box.height) for box in boxes)
    assert 0 < len(meant) < sum(len(item.label.boxes) for item in mixed)  # the others are predictions
    assert len(got) == len(meant) and np.abs(np.array(got) - np.array(meant)).max() < 0.01
    rows = [
        line.split() for file in (tmp_path / "yolo" / "labels").glob("*.txt") for line in file.read_text().splitlines()
    ]
    shares = np.array([[float(share) for share in row[1:]] for row in rows]) * [*WH, *WH]
    assert len(rows) >= 3 * len({item.image.sha256 for item in accepted if item.label.boxes}) - 3
    for x, y, width, height in shares:
        corner = np.array([x - width / 2, y - height / 2, width, height])
        assert np.abs(np.array(meant) - corner).max(axis=1).min() < 0.01


READ_DATUMARO = """
import json, sys
import datumaro
from datumaro import AnnotationType, Dataset
found = {}
for name, kind, options in (
    ("pascal_voc", "voc", {"coordinate_mode": "voc-one-based"}), ("coco", "coco", {}), ("yolo", "yolo", {})
):
    dataset = Dataset.import_from(sys.argv[1] + "/" + name, kind, **options)
    names = [each.name for each in dataset.categories()[AnnotationType.label]]
    found[name] = [
        [item.id, item.subset, list(item.media.size), [[names[box.label], *box.points] for box in item.annotations]]
        for item in dataset
    ]
print("RESULT" + json.dumps(found))
"""


def test_datumaro(items: list[Item], tmp_path: Path) -> None:
    """CVAT reads and writes these formats with it. Without ``labelmap.txt`` it refuses all classes but those of VOC."""
    interpreter = make_environment(tmp_path / "environment", "datumaro>=1.13,<2")
    for name in ("pascal_voc", "coco", "yolo"):
        export_labels(items, name, tmp_path / name, ExportOptions(splits=SHARES))
    found = run_reader(interpreter, READ_DATUMARO, tmp_path)
    meant: dict[str, list[tuple[str, Any]]] = {}
    for item in items:
        boxes = [(class_name(box), box.xyxy) for box in item.label.boxes]
        meant.setdefault(Path(item.image.path).stem, []).extend(boxes)
    for name, rows in found.items():
        assert len(rows) == 16
        for stem, subset, size, boxes in rows:
            assert (size, subset in SHARES) == ([WH[1], WH[0]], True)  # upright
            expected = meant[stem]
            assert len(boxes) == len(expected)
            tolerance = 1 if name == "pascal_voc" else 0.01  # whole pixels, moved outward
            for label, *edges in boxes:
                near = [each for each in expected if np.abs(np.array(edges) - each[1]).max() <= tolerance]
                assert label in [each[0] for each in near]


MARK = (30.0, 50.0, 90.0, 170.0)
"""A red box in a blue upright image."""


def marked_items(tmp_path: Path) -> list[Item]:
    """One image for each EXIF orientation, upright 200 x 240, in formats with EXIF."""
    made = []
    for orientation in range(1, 9):
        upright = Image.new("RGB", (200, 240), "blue")
        upright.paste("red", tuple(int(edge) for edge in MARK))
        if orientation > 1:  # the stored image is the upright one turned back
            back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
            upright = upright.transpose(back.get(orientation, ROTATIONS[orientation]))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        for suffix in ("jpg", "png", "tiff"):
            path = tmp_path / "in" / f"o{orientation}{suffix}.{suffix}"
            path.parent.mkdir(exist_ok=True)
            upright.save(path, exif=exif)
            made.append(make_item(path, [Box.from_xyxy(MARK, "mark")]))
    return made


def check_mark(pixels: Any, edges: Any) -> None:
    """Check that the box is around the mark, which a reader may show in RGB or BGR."""
    x_min, y_min, x_max, y_max = (round(float(edge)) for edge in edges)
    height, width = pixels.shape[:2]
    assert 0 <= x_min < x_max <= width and 0 <= y_min < y_max <= height
    inside = pixels[y_min + 8 : y_max - 8, x_min + 8 : x_max - 8].reshape(-1, 3)
    frame = pixels[max(0, y_min - 12) : y_max + 12, max(0, x_min - 12) : x_max + 12]
    border = np.concatenate([frame[:4].reshape(-1, 3), frame[-4:].reshape(-1, 3), frame[:, :4].reshape(-1, 3)])
    assert {int(inside.mean(axis=0).argmax()), int(border.mean(axis=0).argmax())} == {0, 2}
    assert np.ptp(inside.astype(int), axis=0).max() < 60  # nothing but the mark


@pytest.mark.parametrize("exif", ["upright", "stored"])
def test_boxes_are_on_the_object_in_readers_with_and_without_exif(exif: Any, tmp_path: Path) -> None:
    """torchvision and Pillow do not apply EXIF, OpenCV does."""
    datasets = pytest.importorskip("torchvision.datasets")
    cv2 = pytest.importorskip("cv2")
    items = marked_items(tmp_path)
    report = export_labels(items, "coco", tmp_path / "out", ExportOptions(splits={"train": 1.0}, exif=exif))
    assert any(note.startswith("21 images with EXIF rotation were written") for note in report.notes)
    folder = tmp_path / "out" / "images"
    loaded = datasets.CocoDetection(str(folder), str(tmp_path / "out" / "annotations" / "instances_train.json"))
    wrapped = datasets.wrap_dataset_for_transforms_v2(loaded, target_keys=["boxes", "image_id"])
    assert len(loaded) == 24
    for number in range(24):
        image, target = wrapped[number]
        boxes = target["boxes"]
        assert tuple(boxes.canvas_size) == image.size[::-1]
        check_mark(np.asarray(image), boxes[0])
        check_mark(np.asarray(ImageOps.exif_transpose(image)), boxes[0])
        file = str(folder / loaded.coco.loadImgs(loaded.ids[number])[0]["file_name"])
        for flags in (cv2.IMREAD_COLOR, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION):
            check_mark(cv2.imread(file, flags), boxes[0])


def test_copies_of_the_originals_would_not_agree(tmp_path: Path) -> None:
    """The reason for all this: Pillow and OpenCV show one file in two frames."""
    cv2 = pytest.importorskip("cv2")
    (turned,) = [item for item in marked_items(tmp_path) if item.image.path.endswith("o6jpg.jpg")]
    with Image.open(turned.image.path) as image:
        plain = np.asarray(image)
    assert plain.shape != cv2.imread(turned.image.path).shape
    with pytest.raises(AssertionError):
        check_mark(plain, MARK)


@pytest.mark.parametrize("exif", ["upright", "stored"])
def test_supervision(exif: Any, tmp_path: Path) -> None:
    reason = "supervision is not installed: pip install -r requirements-readers.txt"
    supervision = pytest.importorskip("supervision", reason=reason)
    items = marked_items(tmp_path)
    for name in ("coco", "pascal_voc", "yolo"):
        export_labels(items, name, tmp_path / name, ExportOptions(splits={"train": 0.5, "val": 0.5}, exif=exif))
    coco, voc, yolo = (tmp_path / name for name in ("coco", "pascal_voc", "yolo"))
    read = supervision.DetectionDataset
    datasets = [read.from_pascal_voc(str(voc / "JPEGImages"), str(voc / "Annotations"))]
    for split in ("train", "val"):
        # Its reader of COCO wants every image of the folder in the file, so each split gets a folder.
        file = coco / "annotations" / f"instances_{split}.json"
        (coco / split).mkdir()
        for image in json.loads(file.read_text())["images"]:
            (coco / "images" / image["file_name"]).rename(coco / split / image["file_name"])
        datasets.append(read.from_coco(str(coco / split), str(file)))
        labels = (yolo / "images" / split, yolo / "labels" / split, yolo / "data.yaml")
        datasets.append(read.from_yolo(*map(str, labels)))
    seen = 0
    for dataset in datasets:
        for _, image, detections in dataset:
            seen += 1
            assert [dataset.classes[number] for number in detections.class_id] == ["mark"]
            check_mark(image, detections.xyxy[0])
    assert seen == 3 * 24


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_frame_of_a_real_processor(family: str, load_tiny: Callable[[str], LocalChatModel], tmp_path: Path) -> None:
    """``model_wh_of`` as its documentation says, with the processor of each family."""
    model = load_tiny(family)

    def model_wh_of(wh: tuple[int, int]) -> tuple[int, int]:
        budget = model.overview_budget
        with SourceImage(draw_image(tmp_path / "size.png", wh)) as image:
            overview = ImageInput(image.overview(max_pixels=budget.max_pixels), *budget)
        return process_image(model.processor, FAMILIES[family], overview, is_alone=True).size_wh

    wh = (1300, 700)
    boxes = [(100.0, 200.0, 900.0, 650.0), (1299.0, 699.0, 1300.0, 700.0), (0.0, 0.0, 1300.0, 700.0)]
    item = make_item(draw_image(tmp_path / "in" / "a.png", wh), boxes)
    options = ExportOptions(splits={"train": 1.0}, chat_family=family, model_wh_of=model_wh_of)
    export_labels([item], "grounded_chat", tmp_path / "out", options)
    (sample,) = FORMATS["grounded_chat"].load(tmp_path / "out", ImportOptions()).samples
    row: dict[str, Any] = json.loads((tmp_path / "out" / "train.jsonl").read_text())
    if family == "qwen2_5_vl":
        assert tuple(row["model_wh"]) == model_wh_of(wh) != wh
    across, down = FORMATS["grounded_chat"].tolerance(wh, options)
    assert len(sample.boxes) == 3
    for box, meant in zip(sample.boxes, boxes, strict=True):
        moves = np.abs(np.array(box.xyxy) - meant)
        assert moves[[0, 2]].max() <= across and moves[[1, 3]].max() <= down
