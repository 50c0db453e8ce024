"""Compare labels with gold boxes, where a source has some. Only for reports on finished labels.

This is the only module that reads the table of gold boxes. Labeling runs and the review cannot reach it: they do not
import it, and a test sees to that.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

from hart_studio.evaluation.grounding_metrics import best_iog, best_iou, is_found
from hart_studio.evaluation.statistics import Estimate, wilson
from hart_studio.geometry import area_share
from hart_studio.labeling.importing import BOXES
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import USABLE_STATUSES, EvidenceKind, Label
from hart_studio.records import Box


class GoldMetrics(NamedTuple):
    """Metrics of labels against the gold boxes of their questions."""

    labels: int
    """Number of labels."""
    found: Estimate
    """Share of labels that find all gold boxes, IoG > 0.3 (paper, Sec. 4.1)."""
    iog: float
    """Best IoG per gold box, averaged per question, then over questions."""
    iou: float
    """Best IoU per gold box, averaged per question, then over questions."""
    area_share: float | None
    """Mean share of the image covered by the boxes of a label; None if no label has a box."""


class GoldReport(NamedTuple):
    """Gold metrics of one kind of evidence."""

    all: GoldMetrics
    """All proposed labels."""
    usable: GoldMetrics | None
    """Exportable labels: auto-accepted or reviewed."""
    auto_accepted: GoldMetrics | None
    """Auto-accepted labels before any review; ``found`` is the precision."""
    recall: Estimate | None
    """Share of right proposals that were auto-accepted."""


def measure_against_gold(project: Project) -> dict[EvidenceKind, GoldReport]:
    """Compare the labels of all items that have gold boxes; one report per kind of evidence."""
    with project.database.reading() as connection:
        rows = connection.execute("SELECT item, boxes FROM gold_boxes").fetchall()
    groups: dict[EvidenceKind, list[_Compared]] = {}
    for row in rows:
        item = project.item(row["item"], with_history=True)
        proposal = next((each for each in reversed((*item.history, item.label)) if not each.reviewer), None)
        if item.label.status == "new" or proposal is None or item.label.status == "bad_question":
            continue
        kind: EvidenceKind = "agreement" if item.sample.answer is None else "known_answer"
        gold = BOXES.validate_json(row["boxes"])
        wh = (item.image.width, item.image.height)
        groups.setdefault(kind, []).append(_Compared(item.label, proposal, gold, wh))
    return {kind: _report(found) for kind, found in sorted(groups.items())}


class _Compared(NamedTuple):
    label: Label
    proposal: Label
    gold: tuple[Box, ...]
    wh: tuple[int, int]


def _report(found: list[_Compared]) -> GoldReport:
    auto_accepted = [each._replace(label=each.proposal) for each in found if each.proposal.status == "auto_accepted"]
    right = [each for each in found if _is_right(each.proposal, each)]
    accepted = sum(each.proposal.status == "auto_accepted" for each in right)
    everything = _summarize(found)
    if everything is None:
        raise ValueError("expected at least one label")
    return GoldReport(
        all=everything,
        usable=_summarize(each for each in found if each.label.status in USABLE_STATUSES),
        auto_accepted=_summarize(auto_accepted),
        recall=wilson(accepted, len(right)) if right else None,
    )


def _is_right(label: Label, compared: _Compared) -> bool:
    return all(is_found(box, label.boxes) for box in compared.gold)


def _summarize(compared: Iterable[_Compared]) -> GoldMetrics | None:
    found = list(compared)
    if not found:
        return None
    areas = [area_share(each.label.boxes, each.wh) for each in found if each.label.boxes]
    return GoldMetrics(
        labels=len(found),
        found=wilson(sum(_is_right(each.label, each) for each in found), len(found)),
        iog=fmean(fmean(best_iog(box, each.label.boxes) for box in each.gold) for each in found),
        iou=fmean(fmean(best_iou(box, each.label.boxes) for box in each.gold) for each in found),
        area_share=fmean(areas) if areas else None,
    )
