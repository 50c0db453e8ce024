"""Apple CreateML object detection: a JSON list per split, beside its images.

Coordinates are the CENTER of a box with its width and height, in float pixels of the upright image, origin at the top
left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hart_studio.data.rows import LoadedSamples, get_field
from hart_studio.errors import DataError
from hart_studio.files import write_json
from hart_studio.labeling.export_plan import ExportPlan, class_name
from hart_studio.labeling.formats.reading import (
    ImageFinder,
    ImportOptions,
    LabelCollector,
    list_files,
    read_json,
    to_list,
    to_number,
)
from hart_studio.labeling.records import LabeledSample
from hart_studio.records import Box

LABELS: Final = "annotations.json"


def save_createml(plan: ExportPlan, folder: Path) -> None:
    """Write ``<split>/annotations.json``; a negative image has an empty list.

    Raises:
        OSError: If the folder cannot be written.
    """
    for split in plan.splits:
        (folder / split).mkdir(parents=True, exist_ok=True)
        rows = [
            {"image": image.name, "annotations": [_annotation(box) for box in image.merged_boxes]}
            for image in plan.of_split(split)
        ]
        write_json(folder / split / LABELS, rows)


def load_createml(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    """Read a CreateML file, or all CreateML files of a folder.

    Args:
        path: The JSON file, or a folder with ``*.json`` or ``*/*.json``.
        options: Import options. The default image folder is that of each file.

    Raises:
        DataError: If a file cannot be read or is no list, or if there is no sample.
    """
    options = options or ImportOptions()
    collector = LabelCollector(path, options)
    for file in list_files(path, "*.json", "*/*.json"):
        rows = read_json(file)
        if not isinstance(rows, list):
            raise DataError(
                f"{file} is not a CreateML file: expected a list, got {type(rows).__name__}. Choose another file."
            )
        images = ImageFinder(options.image_root or file.parent)
        for number, row in enumerate(rows, start=1):
            where = f"{file.parent.name}/{file.name} row {number}"
            with collector.row(where):
                _read_row(where, row, images, collector)
    return collector.finish()


def _annotation(box: Box) -> dict[str, Any]:
    coordinates = {
        "x": (box.x_min + box.x_max) / 2,
        "y": (box.y_min + box.y_max) / 2,
        "width": box.width,
        "height": box.height,
    }
    return {"label": class_name(box), "coordinates": coordinates}


def _read_row(where: str, row: Any, images: ImageFinder, collector: LabelCollector) -> None:
    # Some exporters name the field "imagefilename".
    name = row.get("imagefilename") if isinstance(row, dict) and "image" not in row else get_field(row, "image")
    image = images.find(name)
    annotations = to_list(row, "annotations")
    boxes = []
    for number, annotation in enumerate(annotations, start=1):
        with collector.row(f"{where} annotation {number}"):
            at = get_field(annotation, "coordinates")
            x, y, width, height = (to_number(get_field(at, side), side) for side in ("x", "y", "width", "height"))
            xyxy = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            boxes.append(image.box(xyxy, get_field(annotation, "label")))
    if annotations:
        collector.add_boxes(where, image, [(box, box.label) for box in boxes])
    else:
        collector.add_negative(where, image)
