"""Table 6 and the data of Fig. 3: overlap of predicted and gold boxes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Final, NamedTuple

from hart_studio.evaluation.bootstrap import estimate_found
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.published import TABLE_6
from hart_studio.evaluation.records import SampleResult, list_area_shares
from hart_studio.evaluation.statistics import Estimate
from hart_studio.evaluation.tables.rows import NOT_PUBLISHED, front_cells, published_row, questions_cell
from hart_studio.evaluation.tables.table import Cell, Table, TableRow, percent, percent_between

IOU_THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(20))
"""Thresholds of Fig. 3, 0.00 to 0.95. At 0.00 every gold box counts."""

_TURN: Final = "grounding turn"
_FOUND: Final = "gold boxes with IoG > 0.3, %"


class Grounding(NamedTuple):
    """Grounding metrics of one evaluation."""

    questions: int
    """Number of questions with gold boxes and a grounding turn."""
    boxes: int
    """Number of gold boxes of these questions."""
    found: Estimate
    """Share of gold boxes with IoG > 0.3: the paper's metric, 833 boxes on TreeBench."""
    found_per_question: float
    """Share of found gold boxes per question, averaged over questions."""
    all_found: float
    """Share of questions with all gold boxes found."""
    iou: float
    """Mean best IoU over gold boxes."""
    iou_per_question: float
    """Mean best IoU per question, averaged over questions."""
    area_share: float | None
    """Mean share of the image covered by the predicted boxes, over questions with a valid box; None without any."""
    usable: float
    """Share of questions with a valid box."""


def measure_grounding(records: Sequence[SampleResult]) -> Grounding | None:
    """Compare predicted with gold boxes; None without gold boxes or grounding turns."""
    asked = [record for record in records if record.gold_matches]
    found = estimate_found(asked)
    if found is None:
        return None
    golds = [gold for record in asked for gold in record.gold_matches]
    areas = list_area_shares(asked)
    return Grounding(
        questions=len(asked),
        boxes=len(golds),
        found=found,
        found_per_question=fmean(record.found_share for record in asked),
        all_found=fmean(record.is_grounded for record in asked),
        iou=fmean(gold.iou for gold in golds),
        iou_per_question=fmean(record.mean_iou for record in asked),
        area_share=fmean(areas) if areas else None,
        usable=fmean(bool(record.boxes) for record in asked),
    )


def share_by_iou(records: Sequence[SampleResult]) -> list[float]:
    """Share of gold boxes with a best IoU of at least each of ``IOU_THRESHOLDS``; empty without gold boxes."""
    ious = [gold.iou for record in records for gold in record.gold_matches]
    return [fmean(iou >= threshold for iou in ious) for threshold in IOU_THRESHOLDS] if ious else []


def table_6(evaluations: Sequence[Evaluation]) -> Table:
    """Grounding.

    Args:
        evaluations: Evaluations; those with gold boxes and a grounding turn are shown.
    """
    columns = (
        *("model", "benchmark", "protocol", "date", "n", "gold boxes", _FOUND),
        *(
            "IoG > 0.3 per question, %",
            "questions with all gold boxes found, %",
            "mean IoU, %",
            "mean IoU per question, %",
        ),
        *("mean area share, %", "valid box, %", "questions"),
    )
    rows = []
    for evaluation in evaluations:
        found = measure_grounding(evaluation.records)
        if found is None:
            continue
        front = front_cells(evaluation, _TURN, found.questions)
        cells: list[Cell] = [front[0], evaluation.benchmark, *front[1:], found.boxes, percent_between(found.found)]
        shares = (found.found_per_question, found.all_found, found.iou, found.iou_per_question)
        cells += [percent(share) for share in (*shares, found.area_share, found.usable)]
        rows.append(TableRow("measured", (*cells, questions_cell(evaluation))))
    for index, (benchmark, boxes) in enumerate((("treebench", 833), ("visual_cot", 4042))):
        for method, figures in TABLE_6.items():
            values: dict[str, float | int | str] = {"benchmark": benchmark, "gold boxes": boxes, _FOUND: figures[index]}
            rows.append(published_row(columns, method, values))
    caption = (
        "A gold box is found when one predicted box alone covers more than 0.3 of it; every gold box counts, with a 95 "
        "% bootstrap interval over questions. A box over the whole image finds everything: see area share and IoU. "
        "Questions without a valid box count with nothing found, but not in the mean area share: it is over questions "
        "with a valid box. Published rows are the paper's."
    )
    return Table("table_6", "Table 6: grounding", caption, columns, tuple(rows))


def table_iou(evaluations: Sequence[Evaluation]) -> Table:
    """Data of Fig. 3; arguments as for ``table_6``."""
    columns = (
        *("model", "benchmark", "protocol", "date", "n", "gold boxes"),
        *(f"IoU ≥ {threshold:.2f}, %" for threshold in IOU_THRESHOLDS),
        "questions",
    )
    rows = []
    for evaluation in evaluations:
        shares = share_by_iou(evaluation.records)
        if not shares:
            continue
        asked = [record for record in evaluation.records if record.gold_matches]
        front = front_cells(evaluation, _TURN, len(asked))
        boxes = sum(len(record.gold_matches) for record in asked)
        cells: list[Cell] = [front[0], evaluation.benchmark, *front[1:], boxes, *(percent(share) for share in shares)]
        rows.append(TableRow("measured", (*cells, questions_cell(evaluation))))
    caption = (
        "Share of the gold boxes whose best IoU with one predicted box is at least the threshold; at 0.00 every gold "
        f"box counts. {NOT_PUBLISHED} The paper shows them as a plot only."
    )
    return Table("figure_3", "Fig. 3: gold boxes by IoU threshold", caption, columns, tuple(rows))
