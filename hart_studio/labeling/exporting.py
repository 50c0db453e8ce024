"""Export labels: write to a draft folder, read back, compare, then move to the target.

``hart_meta.jsonl`` beside the export holds the full native records, including what the format loses.
``write_training_set`` writes the file for the ``data`` settings of a training run.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError, InputError
from hart_studio.files import copy_regular_file, from_stored_path, to_stored_path, write_atomically
from hart_studio.labeling.export_loss import NOTHING_EXCLUDED, Exclusions, ExportLoss, count_losses, read_exclusions
from hart_studio.labeling.export_plan import (
    SPLITS,
    ExportOptions,
    ExportPlan,
    PlannedImage,
    PlannedItem,
    class_name,
    plan_export,
)
from hart_studio.labeling.formats.native import check_records, load_items, to_record, write_records
from hart_studio.labeling.formats.reading import META, ImportOptions
from hart_studio.labeling.formats.table import FormatInfo, get_format, get_unmatched_box
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_locks import TRAINING, check_links
from hart_studio.labeling.records import USABLE_STATUSES, Item, ItemFilter, LabeledSample
from hart_studio.labeling.rotated_images import rewrite_rotated
from hart_studio.records import Box

_NOTHING_HERE: Final = "nothing here"


@dataclass(frozen=True)
class ExportReport:
    """Result of an export.

    Attributes:
        format_name: Key of ``FORMATS``.
        folder: Folder of the export.
        images: Split -> number of images.
        items: Number of questions.
        boxes: Number of boxes of all questions.
        negatives: Number of questions whose label is a negative.
        losses: Data that the format could not hold.
        excluded: Reason -> number of excluded items.
        notes: Notes to show.
    """

    format_name: str
    folder: Path
    images: dict[str, int]
    items: int
    boxes: int
    negatives: int
    losses: tuple[ExportLoss, ...]
    excluded: dict[str, int]
    notes: tuple[str, ...]


def export_project(project: Project, format_name: str, folder: Path, options: ExportOptions) -> ExportReport:
    """Export the labels of a project with their history.

    Items of other statuses are not read. They are counted, because their images may not count as background.

    Raises:
        InputError: See ``export_labels``.
        DataError: See ``export_labels``, or if the project cannot be read.
        OSError: See ``export_labels``.
    """
    exclusions = read_exclusions(project, options.statuses)
    items = project.items(ItemFilter(statuses=options.statuses), with_history=True)
    return export_labels(items, format_name, folder, options, exclusions)


def export_labels(
    items: Iterable[Item],
    format_name: str,
    folder: Path,
    options: ExportOptions | None = None,
    exclusions: Exclusions = NOTHING_EXCLUDED,
) -> ExportReport:
    """Write labels as a dataset of another tool, and verify them by reading them back.

    Args:
        items: Items; ``options`` select among them.
        format_name: Key of ``FORMATS``.
        folder: Folder that does not exist yet or is empty.
        options: Options of the export.
        exclusions: Items that are not in ``items``, from ``read_exclusions``.

    Returns:
        Counts, losses and notes.

    Raises:
        InputError: If the folder is not empty, no label is left to export, or the options do not fit the format.
        DataError: If the files read back differently; the item is named. The draft is removed.
        OSError: If the folder cannot be written; the draft is removed.
    """
    options = options or ExportOptions()
    info = get_format(format_name)
    _check_folder(folder)
    info.check_options(options)
    plan = info.fit_plan(plan_export(items, options, exclusions.undecided_questions))
    excluded = Counter(plan.excluded) + Counter(exclusions.reasons)
    plan = replace(plan, excluded=dict(sorted(excluded.items())))
    _check_not_empty(plan)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.draft"
    rewritten = draft.with_suffix(".images")
    try:
        if plan.options.images == "copy" and "records" not in info.preserves:
            rewritten.mkdir()
            plan = rewrite_rotated(plan, rewritten)
            _check_not_empty(plan)
        _write(plan, info, draft)
        check_export(plan, info, draft)
        if folder.exists():
            folder.rmdir()  # fails unless the folder is empty
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(rewritten, ignore_errors=True)
    return _report(plan, info, folder)


def check_export(plan: ExportPlan, info: FormatInfo, folder: Path) -> None:
    """Read an export with the loader of its format and compare it with the plan.

    Raises:
        DataError: On the first item that differs or cannot be read.
    """
    is_reference = plan.options.images == "reference"
    with tempfile.TemporaryDirectory(prefix="hart-export-") as cache:
        options = ImportOptions(
            image_root=plan.image_root if is_reference else None,
            template="{label}",
            negative_question=_NOTHING_HERE,
            image_cache=Path(cache),
        )
        loaded = info.load(folder, options)
        if loaded.invalid_rows:
            bad = loaded.invalid_rows[0]
            raise _mismatch(info, f"{bad.row} cannot be read: {bad.reason}")
        if "questions" in info.preserves:
            _compare_questions(plan, info, loaded)
        else:
            _compare_images(plan, info, loaded)
        if "records" in info.preserves:
            _compare_records(plan, info, load_items(folder, options)[0])
        else:
            check_records(folder / META, len(plan.rows()))


def _check_not_empty(plan: ExportPlan) -> None:
    if not plan.images:
        reasons = "; ".join(f"{count} items: {reason}" for reason, count in plan.excluded.items()) or "no items"
        raise InputError(f"No labels to export ({reasons}). Review some items, or choose other statuses.")


def _check_folder(folder: Path) -> None:
    try:
        is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"Cannot use the folder {folder}: {error.strerror}. Choose another one.") from error
    if not is_free:
        raise InputError(f"The folder {folder} is not empty. Choose a new or empty one.")


def _write(plan: ExportPlan, info: FormatInfo, draft: Path) -> None:
    draft.mkdir()
    is_copy = plan.options.images == "copy" and info.layout
    for image in plan.images if is_copy else ():
        target = draft / info.path_of(image, plan.options)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_regular_file(image.source, target)
    if info.save is not None:
        info.save(plan, draft)
    if "records" not in info.preserves:
        write_records(
            plan,
            draft / META,
            lambda image: info.path_of(image, plan.options),
            lambda image, planned: _describe_export(image, planned, plan, info),
        )


def _describe_export(image: PlannedImage, planned: PlannedItem, plan: ExportPlan, info: FormatInfo) -> dict[str, Any]:
    """Boxes and image of an item as exported: an import compares them to detect changes made by another tool."""
    boxes = [
        {
            "xyxy": list(info.written(box.xyxy, image.wh, plan.options) if info.written else box.xyxy),
            "class": class_name(box),
        }
        for box in planned.boxes
    ]
    export: dict[str, Any] = {"format": info.name, "boxes": boxes}
    if image.rewritten and plan.options.exif == "upright":  # boxes of this record also fit the copy
        export["image_sha256"] = image.exported_sha256
    return export


def _compare_questions(plan: ExportPlan, info: FormatInfo, loaded: LoadedSamples[LabeledSample]) -> None:
    found = {sample.id: sample for sample in loaded.samples}
    rows = plan.rows()
    for image, planned in rows:
        sample = found.get(planned.item.id)
        if sample is None:
            raise _mismatch(info, f"item {planned.item.id} is missing")
        original = planned.item.sample
        for name in ("question", "choices", "answer", "category"):
            if getattr(sample, name) != getattr(original, name):
                expected, got = getattr(original, name), getattr(sample, name)
                raise _mismatch(info, f"expected the {name} {expected!r} on item {original.id}, got {got!r}")
        if sample.status != planned.item.label.status:
            expected = planned.item.label.status
            raise _mismatch(info, f"expected the status {expected} on item {original.id}, got {sample.status}")
        if _key_of_path(sample.image, plan, info) != _key_of(image, plan, info):
            got = Path(sample.image).name
            raise _mismatch(info, f"expected the image {image.name} on item {original.id}, got {got}")
        boxes = planned.item.label.boxes if "records" in info.preserves else planned.boxes
        _compare_boxes(original.id, boxes, sample.boxes, image, plan, info)
    if len(found) != len(rows):
        extra = sorted(set(found) - {planned.item.id for _, planned in rows})
        raise _mismatch(info, f"contains an extra item {extra[0]}")


def _compare_images(plan: ExportPlan, info: FormatInfo, loaded: LoadedSamples[LabeledSample]) -> None:
    """Compare all boxes of an image, for formats without questions."""
    found: dict[str, list[Box]] = {}
    for sample in loaded.samples:
        found.setdefault(_key_of_path(sample.image, plan, info), []).extend(sample.boxes)
    for image in plan.images:
        item_id = image.items[0].item.sample.id
        boxes = found.pop(_key_of(image, plan, info), None)
        if boxes is None:
            raise _mismatch(info, f"image {image.name} is missing")
        _compare_boxes(item_id, image.merged_boxes, boxes, image, plan, info)
    if found:
        raise _mismatch(info, f"contains an extra image {Path(next(iter(found))).name}")


def _key_of(image: PlannedImage, plan: ExportPlan, info: FormatInfo) -> str:
    """Key of an image of the plan, equal to that of the image read back."""
    if not info.layout:
        return image.exported_sha256[:32]  # images stored inside a file are named by their content
    if plan.options.images == "copy":
        return image.name
    return str((plan.image_root / image.name).resolve())


def _key_of_path(path: str, plan: ExportPlan, info: FormatInfo) -> str:
    if not info.layout:
        return Path(path).stem
    return Path(path).name if plan.options.images == "copy" else path


def _compare_boxes(
    item_id: str,
    exported: Sequence[Box],
    found: Sequence[Box],
    image: PlannedImage,
    plan: ExportPlan,
    info: FormatInfo,
) -> None:
    """Check that expected and found boxes are the same within the tolerance; duplicates may be merged."""
    tolerance = info.tolerance(image.wh, plan.options)
    wanted, got = info.name_boxes(exported), info.name_boxes(found)
    for some, others, problem in ((wanted, got, "missing"), (got, wanted, "unexpected")):
        missing = get_unmatched_box(some, others, tolerance)
        if missing is not None:
            edges = ", ".join(f"{edge:.6g}" for edge in missing[1])
            raise _mismatch(info, f"{problem} box {missing[0]!r} [{edges}] on item {item_id}")


def _compare_records(plan: ExportPlan, info: FormatInfo, items: Sequence[Item]) -> None:
    found = {item.id: item for item in items}
    for _, planned in plan.rows():
        if to_record(found[planned.item.id], "") != to_record(planned.item, ""):
            raise _mismatch(info, f"the record of item {planned.item.sample.id} differs")


def _mismatch(info: FormatInfo, problem: str) -> DataError:
    return DataError(f"Export check failed: {info.title}: {problem}. The export was removed. Please report this bug.")


def _report(plan: ExportPlan, info: FormatInfo, folder: Path) -> ExportReport:
    rows: list[tuple[PlannedImage, PlannedItem]] = plan.rows()
    return ExportReport(
        format_name=info.name,
        folder=folder,
        images={split: len(plan.of_split(split)) for split in SPLITS if plan.of_split(split)},
        items=len(rows),
        boxes=sum(len(planned.boxes) for _, planned in rows),
        negatives=sum(planned.state.is_negative for _, planned in rows),
        losses=count_losses(plan, info),
        excluded=dict(plan.excluded),
        notes=(*plan.notes, *_notes(plan, info)),
    )


def _notes(plan: ExportPlan, info: FormatInfo) -> list[str]:
    notes = []
    if rewritten := sum(image.rewritten is not None for image in plan.images):
        images = f"{rewritten:,} image{'' if rewritten == 1 else 's'} with EXIF rotation"
        was = "was" if rewritten == 1 else "were"
        done = "" if plan.options.exif == "upright" else " as stored, with turned boxes and without the rotation"
        notes.append(f"{images} {was} written{done or ' upright'}")
    if rotated := sum(image.is_rotated and image.rewritten is None for image in plan.images):
        notes.append(
            f"images with EXIF rotation, not changed by this export: {rotated:,}; boxes refer to the upright image, so "
            "your loader must apply EXIF rotation"
        )
    open_counts = [image.waiting for image in plan.images if image.waiting]
    if open_counts and (info.is_detection_set or "questions" not in info.preserves):
        notes.append(
            f"exported images with unreviewed or excluded boxes: {len(open_counts)} ({sum(open_counts)} questions); a "
            "detector learns those regions as background"
        )
    if info.note:
        notes.append(info.note(plan))
    if plan.options.images == "reference":
        notes.append(f"image paths are relative to {plan.image_root}")
    return notes


class TrainingSet(NamedTuple):
    """Result of the export."""

    path: Path
    """JSONL in the form of ``data.sources.load_jsonl``."""
    image_root: Path
    """Base folder of image names."""
    questions: int
    """Number of rows."""
    excluded: int
    """Number of such labels without a known answer; a reward needs one."""


def write_training_set(project: Project) -> TrainingSet:
    """Write questions and boxes of all auto-accepted, accepted and edited labels with known answers.

    Reinforcement learning uses no boxes; SFT may use these (``method.sft_target``). Rejected labels and bad questions
    are excluded.

    Raises:
        InputError: If no such label has a known answer, or a link leads out of the project.
        OSError: If the project cannot be written.
    """
    check_links(project)
    items = list(project.items(ItemFilter(statuses=USABLE_STATUSES)))
    known = [item for item in items if item.sample.answer is not None]
    if not known:
        raise InputError(
            "No auto-accepted, accepted or edited label has a known answer to train on. Run the labeling, "
            "or review items."
        )
    root = Path(os.path.commonpath([str(from_stored_path(item.image.path).parent) for item in known]))
    rows = [
        {
            "id": item.id,
            "image": to_stored_path(from_stored_path(item.image.path).relative_to(root)),
            "question": item.sample.question,
            "choices": list(item.sample.choices),
            "answer": item.sample.answer,
            "category": item.sample.category,
            "label_boxes": [{"box": list(box.xyxy), "label": box.label} for box in item.label.boxes],
        }
        for item in known
    ]
    folder = project.folder / TRAINING
    folder.mkdir(exist_ok=True)
    path = folder / "samples.jsonl"
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return TrainingSet(path, root, len(rows), len(items) - len(known))
