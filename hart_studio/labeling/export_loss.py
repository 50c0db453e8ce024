"""Count what an export would lose, on the labels that it would write, and what it excludes.

A preview streams the labels of a project, image by image, and keeps only counts, so that of a large project is fast and
needs little memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import compress, groupby
from typing import Any, Final, NamedTuple

from hart_studio.geometry import WH, XYXY
from hart_studio.labeling.export_plan import (
    MAY_HAVE_REGION_SQL,
    MIN_SIDE_PX,
    UNFIT,
    ExportOptions,
    ExportPlan,
    LabelState,
    PlannedItem,
    class_of,
    clip_box,
    describe_status,
    exclusion_reason,
    exported_score,
)
from hart_studio.labeling.formats.table import FormatInfo, get_format
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import ItemFilter, Origin, Status
from hart_studio.records import Box

NOISE_PX: Final = 1e-6
"""Smaller differences of an edge do not count as rounding, pixels."""

_MAX_CACHED_CLASSES: Final = 10_000

CountedBox = tuple[XYXY, str, float | None]
"""Edges, label and score of a box, clipped to the image."""


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


class CountedLabel(NamedTuple):
    """A label to export, with what its losses depend on."""

    state: LabelState
    origin: Origin
    score: float | None
    boxes: Sequence[CountedBox]
    """Boxes that can be exported."""
    has_evidence: bool
    has_provenance: bool
    is_reviewed: bool
    """Whether it has a reviewer or a note."""
    has_history: bool


_LabelOfImage = tuple[tuple[str, WH], CountedLabel]


class ExportPreview(NamedTuple):
    """Content and losses of an export, computed from the labels; images are not opened."""

    items: int
    """Labels that match the options and that the format can hold."""
    losses: tuple[ExportLoss, ...]
    excluded: Mapping[str, int]
    """Reason -> number of excluded items, except those counted as losses."""


def count_losses(plan: ExportPlan, info: FormatInfo) -> tuple[ExportLoss, ...]:
    """Count what a format cannot hold of the labels of a plan. The metadata file beside the export keeps it.

    Args:
        plan: Plan from ``info.fit_plan``.
        info: The format.

    Returns:
        One entry for each kind of data that is lost; empty for a format that holds everything.
    """
    counter = _LossCounter(info, plan.options)
    counter.counts["excluded"] = plan.excluded.get(UNFIT, 0)
    for image in plan.images:
        counter.add_image(image.wh, [_read_item(planned, image.wh) for planned in image.items])
    return counter.list_losses()


def preview_export(project: Project, format_name: str, options: ExportOptions) -> ExportPreview:
    """Preview the content and losses of an export of a project.

    Raises:
        InputError: If the format does not exist, or the options do not fit it.
        DataError: If the project cannot be read.
    """
    info = get_format(format_name)
    info.check_options(options)
    exclusions = read_exclusions(project, options.statuses)
    excluded, counter = Counter(exclusions.reasons), _LossCounter(info, options)
    with closing(_read_project(project, options)) as rows:
        for (sha256, wh), group in groupby(rows, key=lambda row: row[0]):
            chosen, waiting = [], exclusions.undecided_questions.get(sha256, 0)
            for _, label in group:
                if reason := exclusion_reason(label.state.status, label.score, options):
                    excluded[reason] += 1
                    waiting += label.state.may_have_region
                else:
                    chosen.append(label)
            fitted = info.fit_labels([label.state for label in chosen], waiting)
            kept = list(compress(chosen, fitted.is_kept))
            counter.counts["excluded"] += len(chosen) - len(kept)
            if fitted.reason:
                excluded[fitted.reason] += len(kept)
            else:
                counter.add_image(wh, kept)
    counts = {reason: count for reason, count in sorted(excluded.items()) if count}
    return ExportPreview(counter.counts["items"], counter.list_losses(), counts)


def _read_item(planned: PlannedItem, wh: WH) -> CountedLabel:
    label = planned.item.label
    return CountedLabel(
        planned.state,
        label.origin,
        label.score,
        _clip_boxes(label.boxes, wh) if planned.boxes else (),
        has_evidence=label.check is not None,
        has_provenance=label.provenance is not None,
        is_reviewed=bool(label.reviewer or label.note),
        has_history=bool(planned.item.history),
    )


def _read_project(project: Project, options: ExportOptions) -> Generator[_LabelOfImage, None, None]:
    """Read labels in the order of their images, as JSON without creating records: they were validated when written.

    Yields:
        SHA-256 and size of an image, and one of its labels.
    """
    clause, values = ItemFilter(statuses=options.statuses).to_sql()
    # The index provides the order, so that nothing is sorted.
    query = f"""SELECT items.label, images.sha256, items.revision, images.width, images.height
        FROM items INDEXED BY items_by_image JOIN images ON images.id = items.image WHERE {clause}
        ORDER BY items.image"""  # noqa: S608 - placeholders
    with project.database.reading() as connection:
        for text, sha256, revision, width, height in connection.execute(query, values):
            label: dict[str, Any] = json.loads(text)
            boxes = [
                ((box["x_min"], box["y_min"], box["x_max"], box["y_max"]), box["label"], box["score"])
                for box in label["boxes"]
            ]
            usable: Sequence[CountedBox] = boxes
            if label["status"] == "rejected":
                usable = ()
            elif not all(_is_inside(edges, width, height) for edges, _, _ in boxes):
                usable = _clip_boxes([Box(**each) for each in label["boxes"]], (width, height))
            yield (
                (sha256, (width, height)),
                CountedLabel(
                    LabelState(label["status"], bool(boxes), bool(usable)),
                    label["origin"],
                    label["score"],
                    usable,
                    label["check"] is not None,
                    label["provenance"] is not None,
                    bool(label["reviewer"] or label["note"]),
                    revision > 0,
                ),
            )


def _is_inside(edges: XYXY, width: int, height: int) -> bool:
    """Whether ``clip_box`` keeps a box as it is."""
    x_min, y_min, x_max, y_max = edges
    is_inside = x_min >= 0 and y_min >= 0 and x_max <= width and y_max <= height
    return is_inside and x_max - x_min >= MIN_SIDE_PX and y_max - y_min >= MIN_SIDE_PX


def _clip_boxes(boxes: Iterable[Box], wh: WH) -> list[CountedBox]:
    clipped = (clip_box(box, wh) for box in boxes)
    return [(box.xyxy, box.label, box.score) for box in clipped if box is not None]


class _LossCounter:
    """Counts what a format cannot hold.

    Attributes:
        counts: Kind of label, box or image -> number.
    """

    def __init__(self, info: FormatInfo, options: ExportOptions) -> None:
        self.counts: Counter[str] = Counter()
        self._info, self._options = info, options
        self._furthest = 0.0  # largest shift of an edge, pixels
        self._renamed: dict[tuple[str, Origin], bool] = {}

    def add_image(self, wh: WH, labels: Sequence[CountedLabel]) -> None:
        """Count the exported labels of an image."""
        counts = self.counts
        counts["merged"] += len(labels) > 1
        for label in labels:
            counts["items"] += 1
            if label.score is not None:
                counts["scored"] += 1
                counts["kept_scores"] += label.origin == "model"
            counts["rejected"] += label.state.has_boxes and label.state.status == "rejected"
            counts["checked"] += label.has_evidence
            counts["made"] += label.has_provenance
            counts["reviewed"] += label.is_reviewed
            counts["histories"] += label.has_history
            for box in label.boxes:
                self._add_box(box, label, wh)

    def _add_box(self, box: CountedBox, label: CountedLabel, wh: WH) -> None:
        edges, text, score = box
        counts, key = self.counts, (text, label.origin)
        is_renamed = self._renamed.get(key)
        if is_renamed is None:
            is_renamed = class_of(text, label.origin, self._options) != text
            if len(self._renamed) < _MAX_CACHED_CLASSES:
                self._renamed[key] = is_renamed
        counts["renamed"] += is_renamed
        counts["named"] += bool(text)
        if score is not None:
            counts["box_scores"] += score != exported_score(label.origin, label.score)
        if self._info.written is not None:
            new = self._info.written(edges, wh, self._options)
            moved = max(abs(new[0] - edges[0]), abs(new[1] - edges[1]), abs(new[2] - edges[2]), abs(new[3] - edges[3]))
            if moved > NOISE_PX:
                counts["moved"] += 1
                self._furthest = max(self._furthest, moved)

    def list_losses(self) -> tuple[ExportLoss, ...]:
        """Everything that is lost, one entry for each kind of data."""
        losses = _describe_losses(self.counts, self._furthest, self._info, self._options)
        return tuple(loss for loss in losses if loss.count)


def _describe_losses(
    counts: Counter[str], furthest: float, info: FormatInfo, options: ExportOptions
) -> list[ExportLoss]:
    keeps, items = info.preserves, counts["items"]
    losses = [
        ExportLoss("excluded", counts["excluded"], f"{_count(counts['excluded'], 'item')} that the format cannot hold")
    ]
    if "questions" not in keeps:
        losses.append(ExportLoss("questions", items, f"question and answer of {_count(items, 'item')}"))
        losses.append(
            ExportLoss(
                "merged", counts["merged"], f"{_count(counts['merged'], 'image')} with several questions (boxes merged)"
            )
        )
    if "records" in keeps:
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
        ExportLoss(
            "rejected", rejected, f"boxes of {_count(rejected, 'rejected label')}, exported as images without boxes"
        ),
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
    undecided_questions: Mapping[str, int]
    """SHA-256 of an image -> number of excluded questions that may have a region, see ``LabelState``."""

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> number of items, as shown in an export."""
        return {describe_status(status): count for status, count in self.statuses.items()}


NOTHING_EXCLUDED: Final = Exclusions({}, {})
"""No item is excluded."""


def read_exclusions(project: Project, statuses: tuple[Status, ...]) -> Exclusions:
    """Count the items that an export excludes by status, without reading the labels.

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
