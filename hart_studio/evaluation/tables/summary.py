"""Summary table: the main metrics, one row per evaluation and protocol."""

from __future__ import annotations

from collections.abc import Sequence

from hart_studio.evaluation.accuracy import count_accuracy
from hart_studio.evaluation.bootstrap import measure_joint
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.tables.benchmarks import REPEATED, accuracy_cell
from hart_studio.evaluation.tables.grounding import measure_grounding
from hart_studio.evaluation.tables.rows import BACK, FRONT, NOT_PUBLISHED, back_cells, each_protocol, front_cells
from hart_studio.evaluation.tables.table import Cell, Table, TableRow, percent


def table_summary(evaluations: Sequence[Evaluation]) -> Table:
    """Accuracy, grounding and correct answers with wrong boxes side by side.

    Args:
        evaluations: Evaluations; all are shown.
    """
    columns = (
        *("model", "benchmark", *FRONT[1:], "accuracy, %", "benchmark extractor, %", "P(wrong box | right), %"),
        *("IoG > 0.3, %", "mean IoU, %", "mean area share, %", "valid box, %", *BACK),
    )
    rows = []
    for evaluation, protocol in each_protocol(evaluations):
        found = count_accuracy(evaluation.records, protocol)
        joint = measure_joint(evaluation.records, protocol)
        boxes = measure_grounding(evaluation.records)
        front = front_cells(evaluation, protocol, found.scored)
        cells: list[Cell] = [front[0], evaluation.benchmark, *front[1:], accuracy_cell(evaluation, protocol)]
        cells.append(accuracy_cell(evaluation, protocol, "official"))
        cells.append(percent(joint.wrong_box.value) if joint and joint.wrong_box else None)
        shares = [boxes.found.value, boxes.iou, boxes.area_share, boxes.usable] if boxes else []
        cells += [percent(share) for share in shares] or [None] * 4
        rows.append(TableRow("measured", (*cells, *back_cells(evaluation, found))))
    caption = (
        "Accuracy: percent of the n scored questions ± standard error, by the strict extractor and by the "
        f"benchmark's own where it has one. {REPEATED} IoG and IoU: over all gold boxes. Area share: mean over "
        "questions with a valid box. A dash: no gold box, no grounding turn, no valid box, or no scored answer. "
        f"{NOT_PUBLISHED}"
    )
    return Table("summary", "Summary", caption, columns, tuple(rows))
