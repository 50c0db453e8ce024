"""Ultralytics YOLO detection: ``data.yaml``, ``images/<split>`` and ``labels/<split>``.

One line per box, exactly five columns: class, then center and size as shares of the upright image's sides, six
decimals, inside [0, 1]. A sixth column would make the reader drop the whole image. ``data.yaml`` has no ``path``: the
reader then takes the file's own folder, wherever it is started from. A confirmed negative has an empty label file;
an image that no one looked at is not written, because it would be trained on as background.

Reading obeys four keys of ``data.yaml`` and no other: others can hold code that the original reader would run.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError, InputError
from hart_studio.files import resolve_inside
from hart_studio.geometry import WH, XYXY
from hart_studio.labeling.export_plan import SPLITS, ExportPlan, PlannedImage, class_name
from hart_studio.labeling.formats.reading import (
    FoundImage,
    ImageFinder,
    ImportOptions,
    LabelCollector,
    parse_number,
    read_bytes,
    to_label,
)
from hart_studio.labeling.records import LabeledSample
from hart_studio.records import Box

CONFIG: Final = "data.yaml"
CLASSES: Final = "classes.txt"
STEP: Final = 1e-6
"""One unit of the last decimal, share of a side."""
MIN_IMAGE_SIDE: Final = 10
"""Ultralytics drops images with a shorter side, pixels."""

_MAX_CONFIG_BYTES: Final = 1 << 20
_MAX_DEPTH: Final = 32
_READ_SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def export_path(image: PlannedImage) -> str:
    """Where a copied image goes."""
    return f"images/{image.split}/{image.name}"


def exclusion_reason(image: PlannedImage) -> str:
    """Why the reader would drop an image without a word; empty when it would not."""
    if min(image.wh) < MIN_IMAGE_SIDE:
        return f"an image with a side below {MIN_IMAGE_SIDE} px, which YOLO trainers drop"
    if Path(image.name).suffix.lower() not in _READ_SUFFIXES:
        return f"a {Path(image.name).suffix[1:].upper()} image, which YOLO trainers do not read"
    return ""


def tolerance(wh: WH) -> tuple[float, float]:
    """How far an edge can move by the rounding of center and size, pixels across and down."""
    return 1.5 * STEP * wh[0] + 1e-6, 1.5 * STEP * wh[1] + 1e-6


def written_box(box: Box, wh: WH) -> XYXY:
    """The box as it can be read back, original pixels."""
    shares = [float(share) for share in _shares(box, wh)]
    return _from_shares(shares, wh)


def save_yolo(plan: ExportPlan, folder: Path) -> None:
    """Write ``data.yaml`` and the label files.

    Raises:
        InputError: If train or val is empty: the reader requires both.
        OSError: If the folder cannot be written.
    """
    for split in ("train", "val"):
        if split not in plan.splits:
            raise InputError(
                f"expected at least one image in {split}, got none: YOLO needs train and val; "
                f"raise the share of {split}, label more images or change the salt"
            )
    numbers = {name: number for number, name in enumerate(plan.classes)}
    for split in plan.splits:
        labels = folder / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        for image in plan.of_split(split):
            rows = (f"{numbers[class_name(box)]} {' '.join(_shares(box, image.wh))}\n" for box in image.merged_boxes)
            # Two boxes may be one after rounding; the reader would warn of the second.
            text = "".join(dict.fromkeys(rows))
            (labels / f"{Path(image.name).stem}.txt").write_text(text, encoding="utf-8", newline="\n")
    config = {split: f"images/{split}" for split in plan.splits}
    names = {number: name for name, number in numbers.items()}
    text = yaml.safe_dump({**config, "names": names}, sort_keys=False, allow_unicode=False)
    (folder / CONFIG).write_text(text, encoding="utf-8", newline="\n")


def load_yolo(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    """Read a YOLO data set.

    Args:
        path: ``data.yaml``, a folder with one, or a folder with ``images``, ``labels`` and ``classes.txt``.
        options: How to read. ``image_root`` replaces the folder that everything starts from.

    Raises:
        DataError: If the names of the classes or the images cannot be found, or if there is no sample.
    """
    options = options or ImportOptions()
    config = path / CONFIG if path.is_dir() else path
    root = options.image_root or (path if path.is_dir() else path.parent)
    if config.is_file():
        names, folders = _read_config(config)
    elif (root / CLASSES).is_file():
        lines = read_bytes(root / CLASSES).decode("utf-8", errors="replace").splitlines()
        names, folders = dict(enumerate(line.strip() for line in lines)), ["images"]
    else:
        raise DataError(f"expected {CONFIG} or {CLASSES} in {path}, got neither; name the folder of the data set")
    collector = LabelCollector(path, options)
    images = ImageFinder(root)
    for name in dict.fromkeys(_image_names(root, folders, collector)):
        with collector.row(name):
            _read_image_labels(name, root, names, images, collector)
    return collector.finish()


def _shares(box: Box, wh: WH) -> list[str]:
    """Center and size as shares, written; a side that rounding would flatten keeps one unit."""
    written = []
    for low, high, side in ((box.x_min, box.x_max, wh[0]), (box.y_min, box.y_max, wh[1])):
        first, last = max(0.0, low / side), min(1.0, high / side)
        written.append(((first + last) / 2, max(STEP, last - first)))
    (across, width), (down, height) = written
    return [f"{share:.6f}" for share in (across, down, width, height)]


def _from_shares(shares: list[float], wh: WH) -> XYXY:
    across, down, width, height = shares
    return (
        (across - width / 2) * wh[0],
        (down - height / 2) * wh[1],
        (across + width / 2) * wh[0],
        (down + height / 2) * wh[1],
    )


def _read_config(file: Path) -> tuple[dict[int, str], list[str]]:
    """Names of the classes, and the folders or lists of images."""
    data = read_bytes(file)
    depths = accumulate((sign in b"[{") - (sign in b"]}") for sign in data[:_MAX_CONFIG_BYTES])
    if len(data) > _MAX_CONFIG_BYTES or max(depths, default=0) > _MAX_DEPTH:
        # The time of the YAML library grows with the square of the depth: a few kilobytes would hold it for minutes.
        raise DataError(
            f"expected at most {_MAX_CONFIG_BYTES} bytes and {_MAX_DEPTH} nested lists in {file}, got more; "
            "name another file"
        )
    try:
        config = yaml.safe_load(data)
    except Exception as error:  # the library's constructors raise anything, from IndexError to OverflowError
        raise DataError(f"expected YAML in {file}, got: {str(error).splitlines()[:1]}; repair the file") from error
    if not isinstance(config, dict):
        raise DataError(f"expected train, val and names in {file}, got no mapping; name another file")
    folders = []
    for split in SPLITS:
        value = config.get(split)
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and all(isinstance(each, str) for each in values):
            # Widely used exporters write ../train/images and mean train/images; the original reader knows, too.
            folders += [each.removeprefix("../") for each in values]
    return _class_names(config.get("names"), file), folders


def _class_names(names: Any, file: Path) -> dict[int, str]:
    pairs = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(pairs, dict) or not pairs:
        raise DataError(f"expected names of classes in {file}, got {type(names).__name__}; add names")
    try:
        return {int(parse_number(number, "names")): to_label(name, "names") for number, name in pairs.items()}
    except ValueError as error:
        raise DataError(f"expected numbers and texts in names of {file}, got: {error}; repair it") from error


def _image_names(root: Path, folders: list[str], collector: LabelCollector) -> Iterator[str]:
    """Names of the images below the root, sorted within each folder."""
    for folder in folders:
        with collector.row(folder):
            image_folder = resolve_inside(root, folder)
            if image_folder.is_dir():
                inside = root.resolve()
                files = sorted(image_folder.rglob("*"))
                yield from (
                    file.relative_to(inside).as_posix()
                    for file in files
                    if file.suffix.lower() in _READ_SUFFIXES and file.is_file()
                )
            elif image_folder.suffix == ".txt" and image_folder.is_file():
                lines = read_bytes(image_folder).decode("utf-8", errors="replace").splitlines()
                yield from (line.strip().removeprefix("./") for line in lines if line.strip())
            else:
                raise ValueError("a folder of images that is missing")


def _read_image_labels(
    name: str, root: Path, names: dict[int, str], images: ImageFinder, collector: LabelCollector
) -> None:
    image = images.find(name)
    parts = list(PurePosixPath(name).parts)
    if "images" in parts:  # the last one, as the original reader does it
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    file = resolve_inside(root, str(PurePosixPath(*parts).with_suffix(".txt")))
    if not file.is_file():
        raise ValueError("an image without a label file: no one said that it shows nothing")
    lines = [
        (number, line)
        for number, line in enumerate(read_bytes(file).decode("utf-8-sig", errors="replace").splitlines(), start=1)
        if line.strip()
    ]
    boxes = []
    for number, line in lines:
        with collector.row(f"{file.name} line {number}"):
            boxes.append(_read_line(line, names, image))
    if lines:
        collector.add_boxes(name, image, [(box, box.label) for box in boxes])
    else:
        collector.add_negative(name, image)


def _read_line(line: str, names: dict[int, str], image: FoundImage) -> Box:
    columns = line.split()
    if len(columns) != 5:
        raise ValueError(f"expected 5 columns, got {len(columns)}")
    number = parse_number(columns[0], "class")
    if number not in names:
        raise ValueError(f"expected the number of a class, got {columns[0][:20]}")
    shares = [parse_number(column, "box") for column in columns[1:]]
    if not all(-0.01 <= share <= 1.01 for share in shares):
        raise ValueError("expected shares of the image in [0, 1], got one outside")
    return image.box(_from_shares(shares, image.wh), names[int(number)])
