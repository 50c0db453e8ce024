"""X-AnyLabeling and LabelMe: a JSON file per image with ``shapes``. Read-only format.

Rectangles have two or four corners, in float pixels of the upright image. The question asks for the ``description`` of
a shape, or else for its label.
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
    """Read a file, or all files of a folder.

    Args:
        path: A JSON file, or a folder with ``*.json`` or ``*/*.json``.
        options: Import options. The default image folder is that of each file.

    Raises:
        DataError: If there is no file, ``path`` is an unreadable file, or there is no sample.
    """
    options = options or ImportOptions()
    collector = LabelCollector(path, options)
    if path.is_file():
        read_json(path)  # a single file is the whole dataset, so its error is raised
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
    """Read the box, and the text that the question asks for."""
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
