"""Export of labels: written beside the target, read back, compared, and only then put in its place.

Whatever the format loses stands in ``hart_meta.jsonl`` beside it: our own records, whole.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError, InputError
from hart_studio.files import copy_regular_file, from_stored_path
from hart_studio.labeling.box_matching import NamedBox, get_unmatched_box
from hart_studio.labeling.export_exclusions import NOTHING_EXCLUDED, Exclusions, read_exclusions
from hart_studio.labeling.export_loss import ExportLoss, export_losses, fits
from hart_studio.labeling.export_plan import (
    NO_BACKGROUND,
    SPLITS,
    ExportOptions,
    ExportPlan,
    PlannedImage,
    PlannedItem,
    class_name,
    may_have_region,
    plan_export,
)
from hart_studio.labeling.filters import ItemFilter
from hart_studio.labeling.formats.native import check_records, load_items, to_record, write_records
from hart_studio.labeling.formats.reading import META, ImportOptions
from hart_studio.labeling.formats.table import FORMATS, FormatInfo, get_format
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import Item, LabeledSample
from hart_studio.records import Box

__all__ = [
    "FORMATS",
    "ExportOptions",
    "ExportReport",
    "export_labels",
    "export_losses",
    "export_project",
    "plan_export",
]

_NOTHING_HERE: Final = "nothing here"


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        format_name: Key of ``FORMATS``.
        folder: Where.
        images: Split -> number of images.
        items: Questions.
        boxes: Boxes of all questions.
        negatives: Questions whose label is "nothing here".
        losses: What the format could not hold.
        excluded: Reason -> number of items that are not in the export.
        notes: What else a person should know.
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
    """Export labels of a project, with their history.

    Items of other statuses are not read. They are counted, because an image of theirs may be no background image.

    Raises:
        InputError: As ``export_labels``.
        DataError: As ``export_labels``, or if the project cannot be read.
        OSError: As ``export_labels``.
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
    """Write labels as a data set of another tool, and make sure that they can be read back.

    Args:
        items: Any items; ``options`` choose among them.
        format_name: Key of ``FORMATS``.
        folder: A folder that does not exist yet, or is empty.
        options: What to export.
        exclusions: What is not among ``items``, from ``read_exclusions``.

    Returns:
        What was written and what was lost.

    Raises:
        InputError: If the folder is not empty, nothing is left to export, or the options do not fit the format.
        DataError: If what was written reads back as something else; the item is named. Nothing is left behind.
        OSError: If the folder cannot be written; nothing is left behind.
    """
    options = options or ExportOptions()
    info = get_format(format_name)
    items = list(items)
    _check_folder(folder)
    info.check_options(options)
    plan = fit_plan(plan_export(items, options, exclusions.open_questions), info)
    excluded = Counter(plan.excluded) + Counter(exclusions.reasons)
    plan = replace(plan, excluded=dict(sorted(excluded.items())))
    if not plan.images:
        reasons = "; ".join(f"{count} items: {reason}" for reason, count in plan.excluded.items()) or "no items"
        raise InputError(f"expected labels to export, got none ({reasons}); review some, or choose other statuses")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.draft"
    try:
        _write(plan, info, draft)
        check_export(plan, info, draft)
        if folder.exists():
            folder.rmdir()  # it is empty, or this fails
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _report(plan, info, folder, export_losses(format_name, items, options, exclusions.open_questions))


def fit_plan(plan: ExportPlan, info: FormatInfo) -> ExportPlan:
    """The plan without what a format has no form for, or what its readers would misunderstand.

    Formats without questions cannot tell "nothing here" from "not looked at yet": an image without a box is left out
    while one of its questions may have a region that is not exported.
    """
    excluded = Counter(plan.excluded)
    images = []
    for image in plan.images:
        kept = tuple(planned for planned in image.items if fits(planned, info))
        excluded["no label that this format can hold"] += len(image.items) - len(kept)
        labels = [planned.item.label for planned in image.items if not planned.is_labeled]
        waiting = image.waiting + sum(may_have_region(label.status, bool(label.boxes)) for label in labels)
        reason = info.exclusion_reason(image) if info.exclusion_reason else ""
        has_boxes = any(planned.boxes for planned in kept)
        if "questions" not in info.preserves and waiting and not has_boxes:
            reason = reason or NO_BACKGROUND
        if reason:
            excluded[reason] += len(kept)
        elif kept:
            images.append(replace(image, items=kept, waiting=waiting))
    counts = {reason: count for reason, count in sorted(excluded.items()) if count}
    return replace(plan, images=tuple(images), excluded=counts)


def check_export(plan: ExportPlan, info: FormatInfo, folder: Path) -> None:
    """Read an export with the loader of its format and compare it with what was meant.

    Raises:
        DataError: At the first item that differs, or cannot be read.
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
            raise _mismatch(info, bad.row, f"a row that can be read, got: {bad.reason}")
        if "questions" in info.preserves:
            _compare_questions(plan, info, loaded)
        else:
            _compare_images(plan, info, loaded)
        if info.name == "native":
            _compare_records(plan, info, load_items(folder, options)[0])
        else:
            check_records(folder / META, len(plan.rows()))


def _check_folder(folder: Path) -> None:
    try:
        is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"expected a new folder, got {folder}: {error.strerror}; choose another") from error
    if not is_free:
        raise InputError(f"expected a new or empty folder, got {folder}, which holds something; choose another")


def _write(plan: ExportPlan, info: FormatInfo, draft: Path) -> None:
    draft.mkdir()
    is_copy = plan.options.images == "copy" and info.export_path is not None
    for image in plan.images if is_copy else ():
        target = draft / _file_of(image, plan, info)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_regular_file(from_stored_path(image.file.path), target)
    if info.save is not None:
        info.save(plan, draft)
    if info.name != "native":
        write_records(
            plan,
            draft / META,
            lambda image: _file_of(image, plan, info),
            lambda image, planned: _describe_export(image, planned, plan, info),
        )


def _describe_export(image: PlannedImage, planned: PlannedItem, plan: ExportPlan, info: FormatInfo) -> dict[str, Any]:
    """The boxes of an item as the format holds them, by which an import sees whether another tool changed them."""
    boxes = [
        {
            "xyxy": list(info.written(box, image.wh, plan.options) if info.written else box.xyxy),
            "class": class_name(box),
        }
        for box in planned.boxes
    ]
    return {"format": info.name, "boxes": boxes}


def _file_of(image: PlannedImage, plan: ExportPlan, info: FormatInfo) -> str:
    return info.export_path(image) if info.export_path and plan.options.images == "copy" else image.name


def _compare_questions(plan: ExportPlan, info: FormatInfo, loaded: LoadedSamples[LabeledSample]) -> None:
    found = {sample.id: sample for sample in loaded.samples}
    rows = plan.rows()
    for image, planned in rows:
        sample = found.get(planned.item.id)
        if sample is None:
            raise _mismatch(info, planned.item.id, "the item, got none of that id")
        meant = planned.item.sample
        for name in ("question", "choices", "answer", "category"):
            if getattr(sample, name) != getattr(meant, name):
                raise _mismatch(info, meant.id, f"the {name} {getattr(meant, name)!r}, got {getattr(sample, name)!r}")
        if sample.status != planned.item.label.status:
            raise _mismatch(info, meant.id, f"the status {planned.item.label.status}, got {sample.status}")
        if _key_of_path(sample.image, plan, info) != _key_of(image, plan, info):
            raise _mismatch(info, meant.id, f"the image {image.name}, got {Path(sample.image).name}")
        boxes = planned.item.label.boxes if info.name == "native" else planned.boxes
        _compare_boxes(meant.id, boxes, sample.boxes, image, plan, info)
    if len(found) != len(rows):
        extra = sorted(set(found) - {planned.item.id for _, planned in rows})
        raise _mismatch(info, extra[0], "no such item, got one")


def _compare_images(plan: ExportPlan, info: FormatInfo, loaded: LoadedSamples[LabeledSample]) -> None:
    """For formats without questions: all boxes of an image at once."""
    found: dict[str, list[Box]] = {}
    for sample in loaded.samples:
        found.setdefault(_key_of_path(sample.image, plan, info), []).extend(sample.boxes)
    for image in plan.images:
        item_id = image.items[0].item.sample.id
        boxes = found.pop(_key_of(image, plan, info), None)
        if boxes is None:
            raise _mismatch(info, item_id, f"the image {image.name}, got none")
        _compare_boxes(item_id, image.merged_boxes, boxes, image, plan, info)
    if found:
        raise _mismatch(info, Path(next(iter(found))).name, "no such image, got one")


def _key_of(image: PlannedImage, plan: ExportPlan, info: FormatInfo) -> str:
    """What tells an image of the plan from the others in what is read back."""
    if info.export_path is None:
        return image.file.sha256[:32]  # an image from inside a file is kept under its content's name
    if plan.options.images == "copy":
        return image.name
    return str((plan.image_root / image.name).resolve())


def _key_of_path(path: str, plan: ExportPlan, info: FormatInfo) -> str:
    if info.export_path is None:
        return Path(path).stem
    return Path(path).name if plan.options.images == "copy" else path


def _compare_boxes(
    item_id: str,
    meant: Sequence[Box],
    found: Sequence[Box],
    image: PlannedImage,
    plan: ExportPlan,
    info: FormatInfo,
) -> None:
    """Each box that was meant must have been found, and the other way round; equal ones may have become one."""
    tolerance = info.tolerance(image.wh, plan.options)
    wanted, got = [_named(box, info) for box in meant], [_named(box, info) for box in found]
    for some, others, expected in ((wanted, got, "the box"), (got, wanted, "no box")):
        missing = get_unmatched_box(some, others, tolerance)
        if missing is not None:
            edges = ", ".join(f"{edge:.6g}" for edge in missing[1])
            raise _mismatch(info, item_id, f"{expected} {missing[0]!r} [{edges}], got something else")


def _named(box: Box, info: FormatInfo) -> NamedBox:
    return (class_name(box) if "classes" in info.preserves else "", box.xyxy)


def _compare_records(plan: ExportPlan, info: FormatInfo, items: Sequence[Item]) -> None:
    found = {item.id: item for item in items}
    for _, planned in plan.rows():
        if to_record(found[planned.item.id], "") != to_record(planned.item, ""):
            raise _mismatch(info, planned.item.sample.id, "the record as it was, got another")


def _mismatch(info: FormatInfo, where: str, what: str) -> DataError:
    return DataError(
        f"{info.title}, {where}: expected {what} on reading the export back; nothing was kept, please report this"
    )


def _report(plan: ExportPlan, info: FormatInfo, folder: Path, losses: tuple[ExportLoss, ...]) -> ExportReport:
    rows: list[tuple[PlannedImage, PlannedItem]] = plan.rows()
    return ExportReport(
        format_name=info.name,
        folder=folder,
        images={split: len(plan.of_split(split)) for split in SPLITS if plan.of_split(split)},
        items=len(rows),
        boxes=sum(len(planned.boxes) for _, planned in rows),
        negatives=sum(planned.is_negative for _, planned in rows),
        losses=losses,
        excluded=dict(plan.excluded),
        notes=(*plan.notes, *_notes(plan, info)),
    )


def _notes(plan: ExportPlan, info: FormatInfo) -> list[str]:
    notes = []
    if turned := sum(image.is_rotated for image in plan.images):
        notes.append(
            f"images that EXIF turns: {turned}; boxes are of the upright image: readers must apply its orientation"
        )
    open_counts = [image.waiting for image in plan.images if image.waiting]
    if open_counts and ("questions" not in info.preserves or info.name == "coco"):
        notes.append(
            f"exported images with undecided questions, or with boxes that are not exported: {len(open_counts)} "
            f"({sum(open_counts)} questions); a detector takes their unlabeled regions as background"
        )
    if info.name == "pascal_voc":
        notes.append("coordinates count from 1, both ends inclusive, as in the original devkit")
    if info.name == "label_studio":
        root = "the folder of the export" if plan.options.images == "copy" else str(plan.image_root)
        notes.append(f"serve local files with LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT set to {root}")
    if plan.options.images == "reference":
        notes.append(f"names of images start at {plan.image_root}")
    return notes
