"""Ultralytics YOLO detection: ``data.yaml``, ``images/<split>`` and ``labels/<split>``.

One line per box with exactly five columns: class, then center and size as shares of the upright image size, six
decimals, inside [0, 1]. A sixth column would make the reader drop the whole image. ``data.yaml`` has no ``path``, so
the reader uses the folder of the file, independent of the working directory. A confirmed negative has an empty label
file; an unlabeled image is not written, because it would be trained on as background.

Only four keys of ``data.yaml`` are read: others can hold code that the original reader would run.
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
"""Resolution of the written decimals, share of a side."""
MIN_IMAGE_SIDE: Final = 10
"""Minimum image side, pixels; Ultralytics drops smaller images."""

_MAX_CONFIG_BYTES: Final = 1 << 20
_MAX_DEPTH: Final = 32
_READ_SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def exclusion_reason(image: PlannedImage) -> str:
    """Why the reader would drop an image without a warning; empty if it would not."""
    if min(image.wh) < MIN_IMAGE_SIDE:
        return f"image side below {MIN_IMAGE_SIDE} px, which YOLO trainers drop"
    if Path(image.name).suffix.lower() not in _READ_SUFFIXES:
        return f"{Path(image.name).suffix[1:].upper()} image, which YOLO trainers do not read"
    return ""


def tolerance(wh: WH) -> tuple[float, float]:
    """Rounding error of an edge, from center and size, pixels, horizontal and vertical."""
    return 1.5 * STEP * wh[0] + 1e-6, 1.5 * STEP * wh[1] + 1e-6


def written_box(edges: XYXY, wh: WH) -> XYXY:
    """Box as read back from the export, original pixels."""
    shares = [float(share) for share in _shares(edges, wh)]
    return _from_shares(shares, wh)


def save_yolo(plan: ExportPlan, folder: Path) -> None:
    """Write ``data.yaml`` and the label files.

    Raises:
        InputError: If train or val is empty; the reader requires both.
        OSError: If the folder cannot be written.
    """
    for split in ("train", "val"):
        if split not in plan.splits:
            raise InputError(
                f"No image in the split {split}: YOLO needs train and val. Raise the share of {split}, or label "
                "more images."
            )
    numbers = {name: number for number, name in enumerate(plan.classes)}
    for split in plan.splits:
        labels = folder / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        for image in plan.of_split(split):
            rows = (
                f"{numbers[class_name(box)]} {' '.join(_shares(box.xyxy, image.wh))}\n" for box in image.merged_boxes
            )
            # Boxes may be equal after rounding; the reader would warn about duplicates.
            text = "".join(dict.fromkeys(rows))
            (labels / f"{Path(image.name).stem}.txt").write_text(text, encoding="utf-8", newline="\n")
    config = {split: f"images/{split}" for split in plan.splits}
    names = {number: name for name, number in numbers.items()}
    text = yaml.safe_dump({**config, "names": names}, sort_keys=False, allow_unicode=False)
    (folder / CONFIG).write_text(text, encoding="utf-8", newline="\n")


def load_yolo(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    """Read a YOLO dataset.

    Args:
        path: ``data.yaml``, a folder with one, or a folder with ``images``, ``labels`` and ``classes.txt``.
        options: Import options. ``image_root`` replaces the base folder of all paths.

    Raises:
        DataError: If class names or images cannot be found, or if there is no sample.
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
        raise DataError(f"No {CONFIG} or {CLASSES} in {path}. Choose the folder of the dataset.")
    collector = LabelCollector(path, options)
    images = ImageFinder(root)
    for name in dict.fromkeys(_image_names(root, folders, collector)):
        with collector.row(name):
            _read_image_labels(name, root, names, images, collector)
    return collector.finish()


def _shares(edges: XYXY, wh: WH) -> list[str]:
    """Format center and size as shares; a side that rounding would reduce to 0 becomes one unit."""
    written = []
    for low, high, side in ((edges[0], edges[2], wh[0]), (edges[1], edges[3], wh[1])):
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
    """Read class names, and folders or lists of images."""
    data = read_bytes(file)
    depths = accumulate((sign in b"[{") - (sign in b"]}") for sign in data[:_MAX_CONFIG_BYTES])
    if len(data) > _MAX_CONFIG_BYTES or max(depths, default=0) > _MAX_DEPTH:
        # The YAML library takes quadratic time in the depth: a few kilobytes would take minutes.
        raise DataError(
            f"{file} has more than {_MAX_CONFIG_BYTES} bytes or {_MAX_DEPTH} nested lists. Choose another file."
        )
    try:
        config = yaml.safe_load(data)
    except Exception as error:  # the library's constructors raise anything, from IndexError to OverflowError
        raise DataError(f"{file} is not valid YAML: {str(error).splitlines()[:1]}. Repair the file.") from error
    if not isinstance(config, dict):
        raise DataError(f"{file} is not a YOLO file: it has no train, val and names. Choose another file.")
    folders = []
    for split in SPLITS:
        value = config.get(split)
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and all(isinstance(each, str) for each in values):
            # Common exporters write ../train/images for train/images; the original reader handles this too.
            folders += [each.removeprefix("../") for each in values]
    return _class_names(config.get("names"), file), folders


def _class_names(names: Any, file: Path) -> dict[int, str]:
    pairs = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(pairs, dict) or not pairs:
        raise DataError(f"{file} has no class names. Add names.")
    try:
        return {int(parse_number(number, "names")): to_label(name, "names") for number, name in pairs.items()}
    except ValueError as error:
        raise DataError(f"Invalid names in {file}: {error}. Repair the file.") from error


def _image_names(root: Path, folders: list[str], collector: LabelCollector) -> Iterator[str]:
    """Image names below the root, sorted within each folder."""
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
                raise ValueError("image folder is missing")


def _read_image_labels(
    name: str, root: Path, names: dict[int, str], images: ImageFinder, collector: LabelCollector
) -> None:
    image = images.find(name)
    parts = list(PurePosixPath(name).parts)
    if "images" in parts:  # the last one, like the original reader
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    file = resolve_inside(root, str(PurePosixPath(*parts).with_suffix(".txt")))
    if not file.is_file():
        raise ValueError("image without a label file")
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
        raise ValueError(f"unknown class number {columns[0][:20]}")
    shares = [parse_number(column, "box") for column in columns[1:]]
    if not all(-0.01 <= share <= 1.01 for share in shares):
        raise ValueError("box coordinate outside of [0, 1]")
    return image.box(_from_shares(shares, image.wh), names[int(number)])
