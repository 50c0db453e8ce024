"""Hugging Face ImageFolder: a folder of images per split with ``metadata.jsonl``, one row per question.

``objects`` is a struct of lists with COCO boxes ``[x, y, width, height]`` in float pixels of the upright image;
``category`` indexes the lines of ``classes.txt`` from 0; detection trainers expect this name.

The library infers the type of each column from the first rows of a split, and rejects a dataset whose splits differ.
Lists that are empty in all rows, and texts in the form of dates, get another type than in other splits. So the inferred
types are checked, and if any is wrong, all splits get a typed ``metadata.parquet`` instead. A column with unknown
scores is dropped; an unknown answer is an empty text.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from hart_studio.data.parquet_rows import open_parquet
from hart_studio.data.rows import LoadedSamples, get_field
from hart_studio.files import parse_bounded_json
from hart_studio.labeling.export_plan import ExportPlan, PlannedImage, PlannedItem, class_name
from hart_studio.labeling.formats.reading import (
    FoundImage,
    ImageFinder,
    ImportOptions,
    LabelCollector,
    from_xywh,
    iterate_lines,
    list_files,
    read_bytes,
    to_list,
    to_xywh,
)
from hart_studio.labeling.records import LabeledSample
from hart_studio.records import Box

CLASSES: Final = "classes.txt"
FOLDER_OF: Final = {"train": "train", "val": "validation", "test": "test"}
"""Split -> its name in the library."""

_ROWS: Final = "metadata.jsonl"
_TYPED_ROWS: Final = "metadata.parquet"
_INFERRED_BYTES: Final = 10 << 20
"""Bytes of a file that the library infers types from."""


def save_image_folder(plan: ExportPlan, folder: Path) -> None:
    """Write ``<split>/metadata.jsonl``, or ``metadata.parquet`` if types cannot be inferred, and ``classes.txt``.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in plan.classes), encoding="utf-8", newline="\n")
    schema = _schema(plan)
    texts: dict[str, bytes] = {}
    for split in plan.splits:
        lines = (
            json.dumps(_metadata(image, planned, plan.classes, schema), ensure_ascii=False, allow_nan=False)
            for image, planned in plan.rows(split)
        )
        texts[split] = "".join(f"{line}\n" for line in lines).encode()
    is_typed = all(_inferred_schema(text) == schema for text in texts.values())
    for split, text in texts.items():
        (folder / FOLDER_OF[split]).mkdir(exist_ok=True)
        if is_typed:
            (folder / FOLDER_OF[split] / _ROWS).write_bytes(text)
        else:
            rows = [_metadata(image, planned, plan.classes, schema) for image, planned in plan.rows(split)]
            table = pa.Table.from_pylist(rows, schema=schema)
            pyarrow.parquet.write_table(table, folder / FOLDER_OF[split] / _TYPED_ROWS)


def load_image_folder(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    """Read an ImageFolder with boxes in ``objects``.

    ``objects.category`` or ``objects.categories`` holds names, or line numbers of ``classes.txt``. The question is the
    column ``question``, else the template asks for each label.

    Args:
        path: Metadata file, or a folder with such files in it or in its subfolders.
        options: Import options. The default image folder is that of each metadata file.

    Raises:
        DataError: If a file cannot be read, or if there is no sample.
    """
    options = options or ImportOptions()
    collector = LabelCollector(path, options)
    for file in list_files(path, f"*/{_ROWS}", f"*/{_TYPED_ROWS}", _ROWS, _TYPED_ROWS):
        images = ImageFinder(options.image_root or file.parent)
        names = _class_names(file)
        for number, row in enumerate(_read_rows(file), start=1):
            where = f"{file.parent.name}/{file.name} row {number}"
            with collector.row(where):
                if isinstance(row, ValueError):
                    raise row
                parsed = parse_bounded_json(row) if isinstance(row, bytes) else row
                add_row(where, parsed, images.find(get_field(parsed, "file_name")), names, collector)
    return collector.finish()


def to_row(image: PlannedImage, planned: PlannedItem, classes: tuple[str, ...]) -> dict[str, Any]:
    """Convert a question to a row of either Hugging Face format, without its image.

    Args:
        image: Its image.
        planned: The question.
        classes: Class names; ``category`` indexes them from 0.
    """
    sample, label = planned.item.sample, planned.item.label
    numbers = {name: number for number, name in enumerate(classes)}
    boxes = planned.boxes
    objects = {
        "id": list(range(1, len(boxes) + 1)),
        "bbox": [to_xywh(box) for box in boxes],
        "area": [box.area for box in boxes],
        "category": [numbers[class_name(box)] for box in boxes],
        "score": [box.score for box in boxes],
    }
    return {
        "id": planned.item.id,
        "width": image.wh[0],
        "height": image.wh[1],
        "question": sample.question,
        "choices": list(sample.choices),
        "answer": sample.answer or "",
        "kind": sample.category,
        "status": label.status,
        "score": planned.score,
        "crop_answer": (label.check.crops_answer if label.check else None) or "",
        "verified": bool(label.check and label.check.crops_correct),
        "objects": objects,
    }


def add_row(where: str, row: Any, image: FoundImage, names: dict[int, str], collector: LabelCollector) -> None:
    """Add the sample or samples of a row of either Hugging Face format.

    Args:
        where: Location of the row, for error messages.
        row: The row.
        image: Its image.
        names: Class names by number; a number without one is used as the name.
        collector: Collects samples and invalid rows.

    Raises:
        ValueError: If the row is invalid.
    """
    image.check_size(row.get("width"), row.get("height"))
    objects = row.get("objects")
    objects = {"bbox": [], "category": []} if objects is None else objects
    boxes_xywh = to_list(objects, "bbox")
    categories = to_list(objects, "category" if "category" in objects else "categories")
    scores = objects.get("score")
    scores = scores if isinstance(scores, list) and len(scores) == len(boxes_xywh) else [None] * len(boxes_xywh)
    if len(categories) != len(boxes_xywh):
        raise ValueError(f"expected one category per box, got {len(categories)} for {len(boxes_xywh)}")
    boxes: list[Box] = []
    for number, (xywh, category, score) in enumerate(zip(boxes_xywh, categories, scores, strict=True), start=1):
        with collector.row(f"{where} box {number}"):
            label = names.get(category, category) if isinstance(category, int) else category
            boxes.append(image.box(from_xywh(xywh), label, score))
    question = row.get("question")
    if boxes_xywh and not boxes:
        return
    if isinstance(question, str) and question.strip():
        collector.add_question(where, image, question, boxes, row)
    elif boxes:
        collector.add_boxes(where, image, [(box, box.label) for box in boxes])
    else:
        collector.add_negative(where, image)


def _schema(plan: ExportPlan) -> pa.Schema:
    """Columns and types; scores only if all are known, choices only if there are any."""
    planned = [each for _, each in plan.rows()]
    boxes = [box for each in planned for box in each.boxes]
    objects = [
        pa.field("id", pa.list_(pa.int64())),
        pa.field("bbox", pa.list_(pa.list_(pa.float64()))),
        pa.field("area", pa.list_(pa.float64())),
        pa.field("category", pa.list_(pa.int64())),
    ]
    if boxes and all(box.score is not None for box in boxes):
        objects.append(pa.field("score", pa.list_(pa.float64())))
    columns = {
        "file_name": pa.string(),
        "id": pa.string(),
        "width": pa.int64(),
        "height": pa.int64(),
        "question": pa.string(),
        "choices": pa.list_(pa.string()),
        "answer": pa.string(),
        "kind": pa.string(),
        "status": pa.string(),
        "score": pa.float64(),
        "crop_answer": pa.string(),
        "verified": pa.bool_(),
        "objects": pa.struct(objects),
    }
    if any(each.score is None for each in planned):
        del columns["score"]
    if not any(each.item.sample.choices for each in planned):
        del columns["choices"]
    return pa.schema(list(columns.items()))


def _metadata(image: PlannedImage, planned: PlannedItem, classes: tuple[str, ...], schema: pa.Schema) -> dict[str, Any]:
    row = {"file_name": image.name, **to_row(image, planned, classes)}
    kept = {field.name for field in schema.field("objects").type}
    row["objects"] = {name: values for name, values in row["objects"].items() if name in kept}
    return {name: row[name] for name in schema.names}


def _inferred_schema(text: bytes) -> pa.Schema | None:
    """Types that the library will infer; None if it cannot parse the text."""
    end = text.find(b"\n", _INFERRED_BYTES)
    seen = text if end < 0 else text[: end + 1]
    try:
        options = pyarrow.json.ReadOptions(block_size=max(len(seen) + 1, 1 << 16))
        return pyarrow.json.read_json(io.BytesIO(seen), read_options=options).schema
    except pa.ArrowInvalid:
        return None


def _read_rows(file: Path) -> Iterator[Any]:
    """Raw lines of a JSONL file, or rows of a Parquet file."""
    if file.suffix == ".jsonl":
        yield from (line for _, line in iterate_lines(file))
        return
    yield from open_parquet(file)[1]


def _class_names(file: Path) -> dict[int, str]:
    for folder in (file.parent, file.parent.parent):
        if (folder / CLASSES).is_file():
            text = read_bytes(folder / CLASSES).decode("utf-8", errors="replace")
            return dict(enumerate(text.split("\n")[:-1]))
    return {}
