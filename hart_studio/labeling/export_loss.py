"""Count what an export would lose, on the labels that it would write.

Labels are streamed and only counts are kept, so the preview of a large project is fast and needs little memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from hart_studio.geometry import WH, XYXY
from hart_studio.labeling.export_plan import (
    MAY_HAVE_REGION_SQL,
    MIN_SIDE_PX,
    NO_BACKGROUND,
    ExportOptions,
    PlannedItem,
    class_of,
    clip_box,
    describe_status,
    exported_score,
    is_labeled,
    label_exclusion_reason,
    may_have_region,
)
from hart_studio.labeling.formats.table import FormatInfo, get_format
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import Item, ItemFilter, Origin, Status
from hart_studio.records import Box

NOISE_PX: Final = 1e-6
"""Smaller differences of an edge do not count as rounding, pixels."""

_MAX_CACHED_CLASSES: Final = 10_000


@dataclass(frozen=True)
class ExportLoss:
    """One kind of data that a format cannot hold.

    Attributes:
        what: Identifier of the kind.
        count: Number of lost values.
        text: Description to show.
    """

    what: str
    count: int
    text: str


class LabelKind(NamedTuple):
    """Properties of a label, apart from its boxes, that its losses depend on. Few kinds occur, however many labels."""

    status: Status
    origin: Origin
    is_scored: bool
    has_boxes: bool
    has_usable_boxes: bool
    """Whether any box is exportable."""
    has_evidence: bool
    """Whether it has evidence."""
    is_model_made: bool
    """Whether a model made it."""
    is_reviewed: bool
    """Whether it has a reviewer or a note."""
    has_history: bool


class LabelSummary(NamedTuple):
    """A label as counted."""

    kind: LabelKind
    image: str
    """SHA-256 of the image."""
    wh: WH
    """Upright (width, height) of the image, pixels."""
    score: float | None
    boxes: Sequence[Box]
    """Exportable boxes, clipped to the image."""


@dataclass(frozen=True, slots=True)
class _StoredBox:
    """A box from the database. Skips the validation of ``Box``, which ran when it was written."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float
    label: str
    score: float | None

    @property
    def width(self) -> float:
        return self.x_max - self.x_min

    @property
    def height(self) -> float:
        return self.y_max - self.y_min

    @property
    def xyxy(self) -> XYXY:
        return self.x_min, self.y_min, self.x_max, self.y_max


class ExportPreview(NamedTuple):
    """Content and losses of an export, computed from the labels; images are not opened."""

    items: int
    """Labels that match the options and that the format can hold."""
    losses: tuple[ExportLoss, ...]
    excluded: Mapping[str, int]
    """Reason -> number of excluded items, except those counted as losses."""


def export_losses(
    format_name: str,
    items: Iterable[Item],
    options: ExportOptions | None = None,
    open_questions: Mapping[str, int] | None = None,
) -> tuple[ExportLoss, ...]:
    """Count what a format cannot hold of these labels. The metadata file beside the export keeps it.

    Args:
        format_name: Key of ``FORMATS``.
        items: Items; those that the options exclude are not counted.
        options: Options of the export.
        open_questions: See ``plan_export``.

    Returns:
        One entry for each kind of data that is lost; empty for a format that holds everything.

    Raises:
        InputError: If the format does not exist, or the options do not fit it.
    """
    chosen, images = options or ExportOptions(), open_questions or {}
    return _count_losses(format_name, map(_read_item, items), chosen, images).losses


def preview_export(project: Project, format_name: str, options: ExportOptions) -> ExportPreview:
    """Preview the content and losses of an export of a project.

    Raises:
        InputError: If the format does not exist, or the options do not fit it.
        DataError: If the project cannot be read.
    """
    exclusions = read_exclusions(project, options.statuses)
    found = _count_losses(format_name, _read_project(project, options), options, exclusions.open_questions)
    excluded = Counter(found.excluded) + Counter(exclusions.reasons)
    return found._replace(excluded=dict(sorted(excluded.items())))


def fits(planned: PlannedItem, info: FormatInfo) -> bool:
    """Whether a format can hold an item."""
    return _fits(info, planned.item.label.status, bool(planned.item.label.boxes), bool(planned.boxes))


def _fits(info: FormatInfo, status: Status, has_boxes: bool, has_usable_boxes: bool) -> bool:
    if "unlabeled" in info.preserves:
        return True
    return is_labeled(status, has_boxes, has_usable_boxes) and ("negatives" in info.preserves or has_usable_boxes)


def _read_item(item: Item) -> LabelSummary:
    label, wh = item.label, (item.image.width, item.image.height)
    boxes = _clip_boxes(label.boxes, wh, label.status)
    kind = LabelKind(
        status=label.status,
        origin=label.origin,
        is_scored=label.score is not None,
        has_boxes=bool(label.boxes),
        has_usable_boxes=bool(boxes),
        has_evidence=label.check is not None,
        is_model_made=label.provenance is not None,
        is_reviewed=bool(label.reviewer or label.note),
        has_history=bool(item.history),
    )
    return LabelSummary(kind, item.image.sha256, wh, label.score, boxes)


def _read_project(project: Project, options: ExportOptions) -> Iterator[LabelSummary]:
    """Read labels as JSON without creating records: they were validated when written."""
    clause, values = ItemFilter(statuses=options.statuses).to_sql()
    query = f"""SELECT items.label, images.sha256, items.revision, images.width, images.height FROM items
        JOIN images ON images.id = items.image WHERE {clause}"""  # noqa: S608 - placeholders
    with project.database.reading() as connection:
        for text, image, revision, width, height in connection.execute(query, values):
            label: dict[str, Any] = json.loads(text)
            status, wh = label["status"], (width, height)
            stored = [
                _StoredBox(box["x_min"], box["y_min"], box["x_max"], box["y_max"], box["label"], box["score"])
                for box in label["boxes"]
            ]
            inside = all(
                box.x_min >= 0 and box.y_min >= 0 and box.x_max <= width and box.y_max <= height
                and min(box.width, box.height) >= MIN_SIDE_PX
                for box in stored
            )  # fmt: skip
            is_plain = inside and status != "rejected"
            boxes = (
                cast("list[Box]", stored)
                if is_plain
                else _clip_boxes([Box(**each) for each in label["boxes"]], wh, status)
            )
            kind = LabelKind(
                status,
                label["origin"],
                label["score"] is not None,
                bool(stored),
                bool(boxes),
                label["check"] is not None,
                label["provenance"] is not None,
                bool(label["reviewer"] or label["note"]),
                revision > 0,
            )
            yield LabelSummary(kind, image, wh, label["score"], boxes)


def _clip_boxes(boxes: Sequence[Box], wh: WH, status: Status) -> list[Box]:
    found = () if status == "rejected" else (clip_box(box, wh) for box in boxes)
    return [box for box in found if box is not None]


def _count_losses(
    format_name: str, labels: Iterable[LabelSummary], options: ExportOptions, open_questions: Mapping[str, int]
) -> ExportPreview:
    info = get_format(format_name)
    info.check_options(options)
    kinds: Counter[LabelKind] = Counter()
    boxes = _BoxCounter(info, options)
    questions: Counter[str] = Counter()
    excluded: Counter[str] = Counter()
    images = _ImageStates(open_questions)
    for kind, image, wh, score, usable in labels:
        fits_format = _fits(info, kind.status, kind.has_boxes, kind.has_usable_boxes)
        reason = label_exclusion_reason(kind.status, score, options)
        if reason or not is_labeled(kind.status, kind.has_boxes, kind.has_usable_boxes):
            images.add_open(image, kind)
        if reason:
            excluded[reason] += 1
            continue
        kinds[kind] += 1
        if fits_format:
            questions[image] += 1
            images.add_fitting(image, kind)
            for box in usable:
                boxes.add(box, kind.origin, score, wh)
    if "questions" not in info.preserves:
        for image, kind in images.list_false_background():
            kinds[kind] -= 1
            questions[image] -= 1
            excluded[NO_BACKGROUND] += 1
    counts = boxes.counts
    for kind, count in kinds.items():
        _count_kind(counts, kind, count, info)
    merged = sum(count > 1 for count in questions.values())
    losses = _describe_losses(counts, merged, boxes.furthest, info, options)
    return ExportPreview(counts["items"], tuple(loss for loss in losses if loss.count), dict(sorted(excluded.items())))


class _ImageStates:
    """Tracks images that would wrongly become background images: no box, but a question that may have a region.

    Mirrors ``exporting.fit_plan``, without opening an image.
    """

    def __init__(self, open_questions: Mapping[str, int]) -> None:
        self._open = set(open_questions)
        self._with_boxes: set[str] = set()
        self._negatives: list[tuple[str, LabelKind]] = []

    def add_open(self, image: str, kind: LabelKind) -> None:
        """Add a label that is excluded."""
        if may_have_region(kind.status, kind.has_boxes):
            self._open.add(image)

    def add_fitting(self, image: str, kind: LabelKind) -> None:
        """Add a label that the format can hold."""
        if kind.has_usable_boxes:
            self._with_boxes.add(image)
        else:
            self._negatives.append((image, kind))

    def list_false_background(self) -> list[tuple[str, LabelKind]]:
        """Labels without a box on images that would wrongly become background."""
        false_background = self._open - self._with_boxes
        return [(image, kind) for image, kind in self._negatives if image in false_background]


def _count_kind(counts: Counter[str], kind: LabelKind, count: int, info: FormatInfo) -> None:
    """Count labels of one kind."""
    if not _fits(info, kind.status, kind.has_boxes, kind.has_usable_boxes):
        counts["excluded"] += count
        return
    counts["items"] += count
    counts["scored"] += count * kind.is_scored
    counts["kept_scores"] += count * (kind.is_scored and kind.origin == "model")
    counts["rejected"] += count * (kind.status == "rejected" and kind.has_boxes)
    counts["checked"] += count * kind.has_evidence
    counts["made"] += count * kind.is_model_made
    counts["reviewed"] += count * kind.is_reviewed
    counts["histories"] += count * kind.has_history


class _BoxCounter:
    """Counts changes of boxes.

    Attributes:
        counts: ``renamed``, ``named``, ``box_scores`` and ``moved`` -> number of boxes.
        furthest: Largest shift of an edge, pixels.
    """

    def __init__(self, info: FormatInfo, options: ExportOptions) -> None:
        self.counts: Counter[str] = Counter()
        self.furthest = 0.0
        self._info, self._options = info, options
        self._renamed: dict[tuple[str, Origin], bool] = {}

    def add(self, box: Box, origin: Origin, score: float | None, wh: WH) -> None:
        """Count a box."""
        counts, written_box = self.counts, self._info.written
        key = box.label, origin
        is_renamed = self._renamed.get(key)
        if is_renamed is None:
            is_renamed = class_of(box, origin, self._options) != box.label
            if len(self._renamed) < _MAX_CACHED_CLASSES:
                self._renamed[key] = is_renamed
        counts["renamed"] += is_renamed
        counts["named"] += bool(box.label)
        if box.score is not None:
            counts["box_scores"] += box.score != exported_score(origin, score)
        if written_box is None:
            return
        new, old = written_box(box, wh, self._options), box.xyxy
        moved = max(abs(new[0] - old[0]), abs(new[1] - old[1]), abs(new[2] - old[2]), abs(new[3] - old[3]))
        if moved > NOISE_PX:
            counts["moved"] += 1
            self.furthest = max(self.furthest, moved)


def _describe_losses(
    counts: Counter[str], merged: int, furthest: float, info: FormatInfo, options: ExportOptions
) -> list[ExportLoss]:
    keeps, items = info.preserves, counts["items"]
    losses = [
        ExportLoss("excluded", counts["excluded"], f"{_count(counts['excluded'], 'item')} that the format cannot hold")
    ]
    if "questions" not in keeps:
        losses.append(ExportLoss("questions", items, f"question and answer of {_count(items, 'item')}"))
        losses.append(ExportLoss("merged", merged, f"{_count(merged, 'image')} with several questions (boxes merged)"))
    if info.name == "native":
        return losses
    renamed, named, moved = counts["renamed"], counts["named"], counts["moved"]
    manner = f"{options.box_class!r}" if options.box_class else "project classes"
    losses.append(ExportLoss("labels", renamed, f"class names of {_count(renamed, 'box')} (replaced by {manner})"))
    if "classes" not in keeps:
        losses.append(
            ExportLoss(
                "classes",
                named,
                f"class names of {_count(named, 'box')}, if the model family's text format has no field for them",
            )
        )
    losses.append(
        ExportLoss("rounded", moved, f"coordinates of {_count(moved, 'box')} (rounded, up to {furthest:.2g} px)")
    )
    losses.append(ExportLoss("box_scores", counts["box_scores"], f"box scores ({counts['box_scores']})"))
    has_all = counts["kept_scores"] == items
    kept = counts["kept_scores"] if "scores" in keeps or ("scores_if_all_known" in keeps and has_all) else 0
    lost = counts["scored"] - kept
    losses.append(ExportLoss("scores", lost, f"label scores ({lost})"))
    if "statuses" not in keeps:
        losses.append(ExportLoss("statuses", items, f"status of {_count(items, 'label')}"))
    rejected, checked, made = counts["rejected"], counts["checked"], counts["made"]
    return [
        *losses,
        ExportLoss("rejected", rejected, f"boxes of {_count(rejected, 'rejected label')}, exported as negatives"),
        ExportLoss("evidence", checked, f"evidence of {_count(checked, 'label')}, except the answer from the crops"),
        ExportLoss("provenance", made, f"model and settings of {_count(made, 'label')}"),
        ExportLoss("reviews", counts["reviewed"], f"reviewer and note of {_count(counts['reviewed'], 'label')}"),
        ExportLoss("history", counts["histories"], f"review history of {_count(counts['histories'], 'item')}"),
    ]


def _count(number: int, noun: str) -> str:
    ending = "" if number == 1 else "es" if noun.endswith("x") else "s"
    return f"{number} {noun}{ending}"


class Exclusions(NamedTuple):
    """Counts of excluded items."""

    statuses: Mapping[Status, int]
    """Status -> number of items."""
    open_questions: Mapping[str, int]
    """SHA-256 of an image -> number of excluded questions that may have a region, see ``may_have_region``."""

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> number of items, as shown in an export."""
        return {describe_status(status): count for status, count in self.statuses.items()}


NOTHING_EXCLUDED: Final = Exclusions({}, {})
"""No item is excluded."""


def read_exclusions(project: Project, statuses: tuple[Status, ...]) -> Exclusions:
    """Count the items that an export excludes by status, without reading the labels.

    Args:
        project: The project.
        statuses: Statuses to export.

    Raises:
        DataError: If the project cannot be read.
    """
    chosen = json.dumps(statuses)
    with project.database.reading() as connection:
        counts = connection.execute(
            """SELECT status, COUNT(*) FROM items WHERE status NOT IN (SELECT value FROM json_each(?))
            GROUP BY 1 ORDER BY 1""",
            (chosen,),
        ).fetchall()
        images = connection.execute(
            f"""SELECT images.sha256, COUNT(*) FROM items JOIN images ON images.id = items.image
            WHERE {MAY_HAVE_REGION_SQL} AND items.status NOT IN (SELECT value FROM json_each(?))
            GROUP BY items.image""",  # noqa: S608 - a constant and a placeholder
            (chosen,),
        ).fetchall()
    return Exclusions({row[0]: int(row[1]) for row in counts}, {str(row[0]): int(row[1]) for row in images})
