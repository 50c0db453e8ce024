"""COCO detection JSON, one file per split, for pycocotools, CVAT and detection trainers.

Boxes are ``[x, y, width, height]`` in float pixels of the upright image, never rounded. Ids count from 1 over all
splits. Question, answer and status, which COCO does not define, are in ``attributes`` of an annotation, where CVAT
reads them. Questions without a box have no annotation; they are in ``hart_questions`` of their image.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final, NamedTuple

from hart_studio.data.rows import LoadedSamples, get_field, to_text
from hart_studio.errors import DataError
from hart_studio.files import write_json
from hart_studio.labeling.export_plan import ExportPlan, PlannedImage, PlannedItem, class_name
from hart_studio.labeling.formats import reading
from hart_studio.labeling.formats.reading import (
    FoundImage,
    ImageFinder,
    ImportOptions,
    LabelCollector,
    from_xywh,
    list_files,
    read_json,
    to_label,
    to_list,
    to_xywh,
)
from hart_studio.labeling.records import LabeledSample
from hart_studio.records import Box

ANNOTATIONS: Final = "annotations"

PLACEHOLDERS: Final = {
    **reading.PLACEHOLDERS,
    "area": "area of the annotation in square pixels",
    "supercategory": "supercategory of the class",
}
"""Placeholders of a question template, with their meanings."""


class _Category(NamedTuple):
    name: str
    supercategory: str


class _LocatedBox(NamedTuple):
    location: str
    attributes: Any
    box: Box
    facts: dict[str, str]
    """Values of placeholders."""


def save_coco(plan: ExportPlan, folder: Path) -> None:
    """Write ``annotations/instances_<split>.json``, and ``results_<split>.json`` for boxes with scores.

    Raises:
        OSError: If the folder cannot be written.
    """
    (folder / ANNOTATIONS).mkdir(parents=True, exist_ok=True)
    categories = {name: number for number, name in enumerate(plan.classes, start=1)}
    image_id = annotation_id = 0
    for split in plan.splits:
        images, annotations = [], []
        for image in plan.of_split(split):
            image_id += 1
            images.append(_image_entry(image_id, image))
            for planned in image.items:
                for box in planned.boxes:
                    annotation_id += 1
                    annotations.append(_annotation(annotation_id, image_id, categories[class_name(box)], box, planned))
        document = {
            "info": {"description": "HART Studio export", "version": "1.0", "contributor": "", "url": ""},
            "licenses": [{"id": 1, "name": "unknown", "url": ""}],
            "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in categories.items()],
            "images": images,
            "annotations": annotations,
        }
        write_json(folder / ANNOTATIONS / f"instances_{split}.json", document)
        keys = ("image_id", "category_id", "bbox", "score")
        results = [{key: each[key] for key in keys} for each in annotations if "score" in each]
        if results:
            write_json(folder / ANNOTATIONS / f"results_{split}.json", results)


def load_coco(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    """Read a COCO file, or all COCO files of a folder.

    Annotations of an image with the same ``attributes.qa_id``, or else the same ``attributes.question``, form one
    sample. Without them the question is made from the template, with ``PLACEHOLDERS``.

    Args:
        path: The JSON file, or a folder with ``annotations/instances_*.json``, ``annotations/*.json`` or ``*.json``.
        options: Import options. The default image folder is ``images`` beside the file or its folder, else the folder
            of the file.

    Raises:
        DataError: If a file cannot be read or is not a COCO file, or if there is no sample.
    """
    options = options or ImportOptions()
    collector = LabelCollector(path, options, PLACEHOLDERS)
    for file in list_files(path, f"{ANNOTATIONS}/instances_*.json", f"{ANNOTATIONS}/*.json", "*.json"):
        _read_file(file, collector, ImageFinder(options.image_root or _default_root(file)))
    return collector.finish()


def _default_root(file: Path) -> Path:
    near = [file.parent / "images", file.parent.parent / "images"]
    return next((folder for folder in near if folder.is_dir()), file.parent)


def _read_file(file: Path, collector: LabelCollector, images: ImageFinder) -> None:
    document = read_json(file)
    try:
        entries, annotations = to_list(document, "images"), to_list(document, "annotations")
        known = _read_categories(to_list(document, "categories"))
    except ValueError as error:
        raise DataError(f"{file} is not a COCO file: {error}. Choose another file.") from error
    rows_of: dict[str, list[_LocatedBox]] = {}
    found: dict[str, tuple[str, FoundImage, Any]] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"{file.name} image {number}"
        with collector.row(where):
            key = to_text(get_field(entry, "id"), "id")
            if key in found:
                raise ValueError(f"duplicate image id {key[:40]}")
            image = images.find(get_field(entry, "file_name"))
            image.check_size(entry.get("width"), entry.get("height"))
            found[key] = (where, image, entry)
    annotated = set()
    for number, annotation in enumerate(annotations, start=1):
        where = f"{file.name} annotation {number}"
        with collector.row(where):
            key = to_text(get_field(annotation, "image_id"), "image_id")
            annotated.add(key)
            if key not in found:
                raise ValueError("annotation of a missing image")
            category = to_text(get_field(annotation, "category_id"), "category_id")
            if category not in known:
                raise ValueError(f"annotation of an unknown category: {category[:40]}")
            xyxy = from_xywh(get_field(annotation, "bbox"))
            box = found[key][1].box(xyxy, known[category].name, annotation.get("score"))
            facts = _read_facts(annotation, known[category])
            rows_of.setdefault(key, []).append(_LocatedBox(where, annotation.get("attributes"), box, facts))
    for key, (where, image, entry) in found.items():
        _add_image(where, image, rows_of.get(key, []), entry, collector, is_annotated=key in annotated)


def _add_image(
    where: str, image: FoundImage, rows: list[_LocatedBox], entry: Any, collector: LabelCollector, *, is_annotated: bool
) -> None:
    asked: dict[str, tuple[str, Any, list[Box]]] = {}
    plain: list[_LocatedBox] = []
    for row in rows:
        location, attributes, box, _ = row
        question = attributes.get("question") if isinstance(attributes, dict) else None
        if isinstance(question, str) and question.strip():
            key = str(attributes.get("qa_id") or question)
            asked.setdefault(key, (location, attributes, []))[2].append(box)
        else:
            plain.append(row)
    for location, about, boxes in asked.values():
        collector.add_question(location, image, about["question"], boxes, _question_fields(about))
    collector.add_boxes(where, image, [(row.box, row.box.label) for row in plain], [row.facts for row in plain])
    without_boxes = entry.get("hart_questions")
    for about in without_boxes if isinstance(without_boxes, list) else ():
        with collector.row(where):
            collector.add_question(where, image, get_field(about, "question"), (), _question_fields(about))
    if not is_annotated and not without_boxes:
        collector.add_negative(where, image)


def _question_fields(attributes: dict[str, Any]) -> dict[str, Any]:
    return {**attributes, "id": attributes.get("qa_id")}


def _read_categories(categories: list[Any]) -> dict[str, _Category]:
    found: dict[str, _Category] = {}
    for each in categories:
        key, name = to_text(get_field(each, "id"), "id"), to_label(get_field(each, "name"), "name")
        above = each.get("supercategory")
        category = _Category(name, above.strip() if isinstance(above, str) else "")
        if found.setdefault(key, category).name != name:
            raise ValueError(f"category id {key[:40]} has two names, {found[key].name[:40]!r} and {name[:40]!r}")
    return found


def _read_facts(annotation: dict[str, Any], category: _Category) -> dict[str, str]:
    """Values of the placeholders that only COCO has; those without a value are missing."""
    facts = {"supercategory": category.supercategory} if category.supercategory else {}
    area = annotation.get("area")
    if isinstance(area, (int, float)) and not isinstance(area, bool) and 0 < area < math.inf:
        facts["area"] = f"{area:.0f}"
    return facts


def _image_entry(image_id: int, image: PlannedImage) -> dict[str, Any]:
    width, height = image.wh
    entry: dict[str, Any] = {
        "id": image_id,
        "file_name": image.name,
        "width": width,
        "height": height,
        "license": 1,
        "date_captured": "",
    }
    without_boxes = [_attributes(planned) for planned in image.items if not planned.boxes]
    return {**entry, "hart_questions": without_boxes} if without_boxes else entry


def _annotation(annotation_id: int, image_id: int, category_id: int, box: Box, planned: PlannedItem) -> dict[str, Any]:
    annotation: dict[str, Any] = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": to_xywh(box),
        "area": box.area,
        "iscrowd": 0,
        "segmentation": [],
    }
    if box.score is not None:
        annotation["score"] = box.score
    return {**annotation, "attributes": _attributes(planned)}


def _attributes(planned: PlannedItem) -> dict[str, Any]:
    sample, label = planned.item.sample, planned.item.label
    return {
        "qa_id": planned.item.id,
        "question": sample.question,
        "choices": list(sample.choices),
        "answer": sample.answer or "",
        "kind": sample.category,
        "crop_answer": (label.check.crops_answer if label.check else None) or "",
        "verified": bool(label.check and label.check.crops_correct),
        "status": label.status,
        "label_score": planned.score,
        "model": label.provenance.model if label.provenance else "",
    }
