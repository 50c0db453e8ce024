"""What an export would lose, counted on the very labels that it would write.

Labels are read one after another and only counts are kept, so the preview of a large project is quick and small.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from hart_studio.geometry import WH
from hart_studio.labeling.export_plan import (
    ExportOptions,
    PlannedItem,
    class_of,
    cut_box,
    exported_score,
    is_labeled,
    reason_against_label,
)
from hart_studio.labeling.filters import ItemFilter
from hart_studio.labeling.formats.table import FormatInfo, find_format
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import Item, Origin, Status
from hart_studio.records import Box

NOISE_PX: Final = 1e-6
"""An edge that moves less than this has not been rounded."""


@dataclass(frozen=True)
class Loss:
    """One thing that does not come through.

    Attributes:
        what: Short name.
        count: How many.
        text: For people.
    """

    what: str
    count: int
    text: str


class LabelFacts(NamedTuple):
    """What the losses of one label depend on."""

    picture: str | int
    """The same for the same picture."""
    wh: WH
    """Upright (width, height) of the picture, pixels."""
    status: Status
    origin: Origin
    score: float | None
    boxes: Sequence[Box]
    is_checked: bool
    """Whether there is evidence."""
    is_made: bool
    """Whether a model is behind it."""
    is_reviewed: bool
    """Whether it has a reviewer or a note."""
    has_history: bool


class ExportPreview(NamedTuple):
    """What an export would hold and lose, as far as the labels tell; images are not opened."""

    items: int
    """Labels that the options choose and the format has a form for."""
    losses: tuple[Loss, ...]


def lossiness(format_name: str, items: Iterable[Item], options: ExportOptions | None = None) -> tuple[Loss, ...]:
    """What of these labels a format cannot hold. The records beside the export still have it.

    Args:
        format_name: Key of ``FORMATS``.
        items: Any items; those that the options do not choose do not count.
        options: What would be exported.

    Returns:
        One loss for each thing that is really lost, none for a format that holds everything.

    Raises:
        InputError: If there is no such format, or the options do not fit it.
    """
    return _count_losses(format_name, map(_read_item, items), options or ExportOptions()).losses


def preview_export(project: Project, format_name: str, options: ExportOptions) -> ExportPreview:
    """What an export of a project would hold and lose.

    Raises:
        InputError: If there is no such format, or the options do not fit it.
        DataError: If the project cannot be read.
    """
    return _count_losses(format_name, _read_project(project, options), options)


def fits(planned: PlannedItem, info: FormatInfo) -> bool:
    """Whether a format has a form for an item at all."""
    return _fits(info, planned.item.label.status, bool(planned.item.label.boxes), bool(planned.boxes))


def _fits(info: FormatInfo, status: Status, has_boxes: bool, has_usable_boxes: bool) -> bool:
    if "unlabeled" in info.keeps:
        return True
    return is_labeled(status, has_boxes, has_usable_boxes) and ("negatives" in info.keeps or has_usable_boxes)


def _read_item(item: Item) -> LabelFacts:
    label = item.label
    return LabelFacts(
        picture=item.picture.sha256,
        wh=(item.picture.width, item.picture.height),
        status=label.status,
        origin=label.origin,
        score=label.score,
        boxes=label.boxes,
        is_checked=label.check is not None,
        is_made=label.maker is not None,
        is_reviewed=bool(label.reviewer or label.note),
        has_history=bool(item.history),
    )


def _read_project(project: Project, options: ExportOptions) -> Iterator[LabelFacts]:
    """Labels as they lie in the database, which has checked them when they were written: no record is made of them."""
    clause, values = ItemFilter(statuses=options.statuses).to_sql()
    query = f"""SELECT items.label, items.picture, items.revision, pictures.width, pictures.height FROM items
        JOIN pictures ON pictures.id = items.picture WHERE {clause} ORDER BY items.number"""  # noqa: S608 - placeholders
    for text, picture, revision, width, height in project.database.reading().execute(query, values):
        label: dict[str, Any] = json.loads(text)
        yield LabelFacts(
            picture=picture,
            wh=(width, height),
            status=label["status"],
            origin=label["origin"],
            score=label["score"],
            boxes=[Box.model_construct(**box) for box in label["boxes"]],
            is_checked=label["check"] is not None,
            is_made=label["maker"] is not None,
            is_reviewed=bool(label["reviewer"] or label["note"]),
            has_history=revision > 0,
        )


def _count_losses(format_name: str, labels: Iterable[LabelFacts], options: ExportOptions) -> ExportPreview:
    info = find_format(format_name)
    info.check_options(options)
    counts: Counter[str] = Counter()
    questions: Counter[str | int] = Counter()
    furthest = 0.0
    for label in labels:
        if reason_against_label(label.status, label.score, options):
            continue
        found = () if label.status == "rejected" else (cut_box(box, label.wh) for box in label.boxes)
        usable = [box for box in found if box is not None]
        if not _fits(info, label.status, bool(label.boxes), bool(usable)):
            counts["left_out"] += 1
            continue
        _count_label(counts, label)
        questions[label.picture] += 1
        furthest = max(furthest, _count_boxes(counts, usable, label, info, options))
    merged = sum(count > 1 for count in questions.values())
    losses = _tell_losses(counts, merged, furthest, info, options)
    return ExportPreview(counts["items"], tuple(loss for loss in losses if loss.count))


def _count_label(counts: Counter[str], label: LabelFacts) -> None:
    counts["items"] += 1
    counts["scored"] += label.score is not None
    counts["kept_scores"] += exported_score(label.origin, label.score) is not None
    counts["rejected"] += label.status == "rejected" and bool(label.boxes)
    counts["checked"] += label.is_checked
    counts["made"] += label.is_made
    counts["reviewed"] += label.is_reviewed
    counts["histories"] += label.has_history


def _count_boxes(
    counts: Counter[str], boxes: Sequence[Box], label: LabelFacts, info: FormatInfo, options: ExportOptions
) -> float:
    """Count what becomes of the boxes; returns how far an edge moves at most, pixels."""
    furthest = 0.0
    for box in boxes:
        counts["renamed"] += class_of(box, label.origin, options) != box.label
        counts["named"] += bool(box.label)
        counts["box_scores"] += box.score not in (None, exported_score(label.origin, label.score))
        if info.written is not None:
            written = info.written(box, label.wh, options)
            moved = max(abs(new - old) for new, old in zip(written, box.xyxy, strict=True))
            counts["moved"] += moved > NOISE_PX
            furthest = max(furthest, moved)
    return furthest


def _tell_losses(
    counts: Counter[str], merged: int, furthest: float, info: FormatInfo, options: ExportOptions
) -> list[Loss]:
    keeps, items = info.keeps, counts["items"]
    losses = [Loss("left_out", counts["left_out"], f"{_count(counts['left_out'], 'item')} that it has no form for")]
    if "questions" not in keeps:
        losses.append(Loss("questions", items, f"question and answer of {_count(items, 'item')}"))
        losses.append(
            Loss("merged", merged, f"{_count(merged, 'picture')} with several questions, whose boxes are merged")
        )
    if info.name == "native":
        return losses
    renamed, named, moved = counts["renamed"], counts["named"], counts["moved"]
    manner = f"all as {options.box_class!r}" if options.box_class else "written as classes of the project"
    losses.append(Loss("labels", renamed, f"labels of {_count(renamed, 'box')}, {manner}"))
    if "classes" not in keeps:
        losses.append(
            Loss("classes", named, f"labels of {_count(named, 'box')}, as far as the family's text has no place")
        )
    losses.append(Loss("rounded", moved, f"{_count(moved, 'box')} rounded, by up to {furthest:.2g} px"))
    losses.append(Loss("box_scores", counts["box_scores"], f"{_count(counts['box_scores'], 'score')} of boxes"))
    has_all = counts["kept_scores"] == items
    kept = counts["kept_scores"] if "scores" in keeps or ("scores_if_all_known" in keeps and has_all) else 0
    lost = counts["scored"] - kept
    losses.append(Loss("scores", lost, f"{_count(lost, 'score')} of labels"))
    if "statuses" not in keeps:
        losses.append(Loss("statuses", items, f"status of {_count(items, 'label')}"))
    rejected, checked, made = counts["rejected"], counts["checked"], counts["made"]
    return [
        *losses,
        Loss("rejected", rejected, f"boxes of {_count(rejected, 'rejected label')}, written as nothing here"),
        Loss("evidence", checked, f"evidence of {_count(checked, 'label')}, but for the answer from the crops"),
        Loss("makers", made, f"model and settings behind {_count(made, 'label')}"),
        Loss("reviews", counts["reviewed"], f"reviewer and note of {_count(counts['reviewed'], 'label')}"),
        Loss("history", counts["histories"], f"review history of {_count(counts['histories'], 'item')}"),
    ]


def _count(number: int, noun: str) -> str:
    ending = "" if number == 1 else "es" if noun.endswith("x") else "s"
    return f"{number} {noun}{ending}"
