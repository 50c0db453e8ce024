"""X-AnyLabeling and LabelMe: a JSON file per image with ``shapes``. It is read, not written.

Rectangles have two corners, or all four, in float pixels of the upright image. A shape's ``description`` is what the
question asks for, where there is one; else its label is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hart_studio.data.rows import LoadedSamples, get_field
from hart_studio.labeling.formats.reading import (
    FoundImage,
    ImageFinder,
    ImportOptions,
    LabelCollector,
    list_files,
    read_json,
    to_label,
    to_list,
    to_number,
)
from hart_studio.labeling.records import LabeledSample
from hart_studio.records import Box


def load_x_anylabeling(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    """Read one file, or those of a folder.

    Args:
        path: A JSON file, or a folder with ``*.json`` or ``*/*.json``.
        options: How to read. Images are looked up beside the files of each folder by default.

    Raises:
        DataError: If there is no file, or the one that was named cannot be read, or if there is no sample.
    """
    options = options or ImportOptions()
    collector = LabelCollector(path, options)
    if path.is_file():
        read_json(path)  # alone it is the whole data set, so its error is the answer
    for file in list_files(path, "*.json", "*/*.json"):
        with collector.row(file.name):
            _read_file(file, ImageFinder(options.image_root or file.parent), collector)
    return collector.finish()


def _read_file(file: Path, images: ImageFinder, collector: LabelCollector) -> None:
    document = read_json(file)
    shapes = to_list(document, "shapes")
    name = get_field(document, "imagePath")
    image = images.find(name.replace("\\", "/") if isinstance(name, str) else name)
    image.check_size(document.get("imageWidth"), document.get("imageHeight"))
    boxes = []
    for number, shape in enumerate(shapes, start=1):
        with collector.row(f"{file.name} shape {number}"):
            boxes.append(_read_shape(shape, image))
    if shapes:
        collector.add_boxes(file.name, image, boxes)
    else:
        collector.add_negative(file.name, image)


def _read_shape(shape: Any, image: FoundImage) -> tuple[Box, str]:
    """The box, and the words for what it shows."""
    kind = get_field(shape, "shape_type")
    if kind != "rectangle":
        raise ValueError(f"expected a rectangle, got {str(kind)[:40]!r}")
    points = to_list(shape, "points")
    if len(points) not in (2, 4) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise ValueError("expected the two or four corners of a rectangle in 'points'")
    across = [to_number(point[0], "points") for point in points]
    down = [to_number(point[1], "points") for point in points]
    box = image.box((min(across), min(down), max(across), max(down)), get_field(shape, "label"), shape.get("score"))
    description = shape.get("description")
    words = description.strip() if isinstance(description, str) else ""
    return box, to_label(words or box.label, "description")
