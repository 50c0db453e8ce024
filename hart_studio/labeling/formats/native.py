"""Native format, JSON Lines: lossless, with evidence, provenance, reviewer and history.

A line of schema ``hart.label/2``::

    {"schema": "hart.label/2", "item_id": "0123456789abcdef", "qa_id": "q17", "split": "train",
     "image": {"file": "images/a.jpg", "sha256": "...", "width": 4032, "height": 3024, "exif_applied": true},
     "question": "...", "choices": [], "answer": "red", "category": "", "source": "...",
     "boxes": [{"xyxy": [504.0, 1209.6, 756.0, 1451.52], "label": "sign", "score": null}],
     "review": {"revision": 1, "status": "edited", "origin": "human", "score": 0.9, "check": {}, "provenance": {},
                "reviewer": "...", "at": "2026-01-31T12:00:00Z", "note": ""},
     "history": [{"boxes": [], "revision": 0, "status": "proposed"}]}

A box that a model proposed has ``model_text`` in place of ``label``: the text that the model wrote beside the box.

Beside another format, ``export`` names the format, and holds the boxes with their classes as exported.

``xyxy`` is in float pixels of the upright original, ``max`` edges exclusive. ``image.file`` is relative to the image
folder; absolute paths are not exported.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from hart_studio.data.rows import LoadedSamples, get_field, resolve_image_path, to_text
from hart_studio.errors import DataError, HartError
from hart_studio.labeling.export_plan import ExportPlan, PlannedImage, PlannedItem
from hart_studio.labeling.formats.reading import (
    ImportOptions,
    LabelCollector,
    iterate_lines,
    list_files,
    parse_line,
    to_label,
    to_list,
)
from hart_studio.labeling.records import ImageFile, Item, Label, LabeledSample
from hart_studio.records import Box, Sample

SCHEMA: Final = "hart.label/2"
LABELS: Final = "labels.jsonl"

_SAMPLE_FIELDS: Final = ("question", "choices", "answer", "category", "source")


def save_native(plan: ExportPlan, folder: Path) -> None:
    """Write ``labels.jsonl``.

    Raises:
        OSError: If the folder cannot be written.
    """
    write_records(plan, folder / LABELS, plan.path_of)


def write_records(
    plan: ExportPlan,
    path: Path,
    file_of: Callable[[PlannedImage], str],
    describe_export: Callable[[PlannedImage, PlannedItem], dict[str, Any]] | None = None,
) -> None:
    """Write the full records of a plan.

    Args:
        plan: Plan of the export.
        path: File to write.
        file_of: Returns the file name of an image, relative to the image folder.
        describe_export: Returns what the other format holds of an item, for the field ``export``.

    Raises:
        OSError: If the file cannot be written.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for image, planned in plan.rows():
            record = to_record(planned.item, file_of(image), image.split)
            if describe_export:
                record["export"] = describe_export(image, planned)
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def to_record(item: Item, file: str, split: str = "") -> dict[str, Any]:
    """Convert an item to a JSON object."""
    sample = item.sample.model_dump(mode="json")
    label = _label_record(item.label)
    return {
        "schema": SCHEMA,
        "item_id": item.id,
        "qa_id": item.sample.id,
        "split": split,
        "image": {"file": file, **item.image.model_dump(exclude={"path", "domain"}), "exif_applied": True},
        **{name: sample[name] for name in _SAMPLE_FIELDS},
        "boxes": label.pop("boxes"),
        "review": label,
        "history": [_label_record(earlier) for earlier in item.history],
    }


def to_item(record: Any, image_root: Path) -> Item:
    """Read an item from a JSON object.

    Args:
        record: Untrusted JSON, normally from ``to_record``.
        image_root: Folder that must hold the image.

    Raises:
        ValueError: If the record is invalid, or the image is missing.
        InputError: If the image path leads out of the folder.
    """
    if get_field(record, "schema") != SCHEMA:
        raise ValueError(f"expected the schema {SCHEMA!r}, got {str(record['schema'])[:40]!r}")
    return make_item(record, resolve_image_path(image_root, get_field(get_field(record, "image"), "file")))


def make_item(record: Any, path: str) -> Item:
    """Read an item from a JSON object whose image was found.

    Args:
        record: Untrusted JSON, normally from ``to_record``.
        path: Path of the image, in the form of ``files.to_stored_path``.

    Raises:
        ValueError: If the record is invalid.
    """
    image = get_field(record, "image")
    review = get_field(record, "review")
    if not isinstance(review, dict):
        raise ValueError(f"expected an object in 'review', got {type(review).__name__}")
    sample = {name: get_field(record, name) for name in _SAMPLE_FIELDS}
    return Item(
        id=get_field(record, "item_id"),
        sample=Sample(id=to_text(get_field(record, "qa_id"), "qa_id"), image=path, **sample),
        image=ImageFile(path=path, **{name: get_field(image, name) for name in ("sha256", "width", "height")}),
        label=_to_label({**review, "boxes": get_field(record, "boxes")}),
        history=tuple(_to_label(earlier) for earlier in to_list(record, "history")),
    )


def load_items(
    path: Path, options: ImportOptions | None = None
) -> tuple[tuple[Item, ...], LoadedSamples[LabeledSample]]:
    """Read full records, with evidence and history.

    Args:
        path: JSONL file, or folder of the export.
        options: Import options; only ``image_root`` and ``source`` are used. The default image folder is that of the
            file.

    Returns:
        The items, and the same as samples together with the invalid rows.

    Raises:
        DataError: If the file cannot be read, or has no valid item.
    """
    options = options or ImportOptions()
    (file,) = list_files(path, LABELS)[:1]
    root = options.image_root or file.parent
    collector = LabelCollector(file, options)
    items: dict[str, Item] = {}
    for number, line in iterate_lines(file):
        where = f"line {number}"
        with collector.row(where):
            item = to_item(parse_line(line), root)
            content = item.sample.model_dump(exclude={"id", "source"})
            label = {"boxes": item.label.boxes, "status": item.label.status}
            collector.add(where, LabeledSample(id=item.id, source=collector.source, **content, **label))
            items.setdefault(item.id, item)
    return tuple(items.values()), collector.finish()


def load_native(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    """Read questions and boxes; ``load_items`` reads full records. The ids are those of the items.

    Raises:
        DataError: If the file cannot be read, or has no valid item.
    """
    return load_items(path, options)[1]


def check_records(path: Path, count: int) -> None:
    """Check that the metadata file beside another format is complete.

    Raises:
        DataError: If it does not hold ``count`` records.
    """
    try:
        found = sum(get_field(parse_line(line), "schema") == SCHEMA for _, line in iterate_lines(path))
    except (ValueError, HartError) as error:
        raise DataError(f"Cannot read the records in {path.name}: {error}. Export again.") from error
    if found != count:
        raise DataError(f"{path.name} has {found} records instead of {count}. Export again.")


def _label_record(label: Label) -> dict[str, Any]:
    # A separate name, so that readers do not take the text of a model for a class.
    text = "model_text" if label.origin == "model" else "label"
    boxes = [{"xyxy": list(box.xyxy), text: box.label, "score": box.score} for box in label.boxes]
    return {"boxes": boxes, **label.model_dump(mode="json", exclude={"boxes"})}


def _to_label(record: Any) -> Label:
    boxes = []
    for box in to_list(record, "boxes"):
        xyxy = to_list(box, "xyxy")
        if len(xyxy) != 4:
            raise ValueError(f"expected four numbers in 'xyxy', got {len(xyxy)}")
        text = box["model_text"] if "model_text" in box else get_field(box, "label")
        boxes.append(Box.from_xyxy((xyxy[0], xyxy[1], xyxy[2], xyxy[3]), to_label(text), box.get("score")))
    return Label.model_validate({**record, "boxes": boxes})
