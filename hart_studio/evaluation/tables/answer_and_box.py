"""Table 1 and Proposition 1: joint counts of right answers and right boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hart_studio.evaluation.accuracy import count_accuracy
from hart_studio.evaluation.bootstrap import measure_information_gain, measure_joint
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.joint import CONTINGENCY_CELLS
from hart_studio.evaluation.published import TABLE_1
from hart_studio.evaluation.tables.rows import (
    BACK,
    FRONT,
    NOT_PUBLISHED,
    back_cells,
    each_protocol,
    front_cells,
    published_row,
    questions_cell,
)
from hart_studio.evaluation.tables.table import Cell, Table, TableRow, bits, percent_between
from hart_studio.records import PROTOCOLS

WRONG_BOX: Final = "P(wrong box | right answer), %"
"""Main column of Table 1."""


def table_1(evaluations: Sequence[Evaluation]) -> Table:
    """Joint counts of answer and box.

    Args:
        evaluations: Evaluations; those with gold boxes and a grounding turn are shown.
    """
    columns = ("model", "benchmark", *FRONT[1:], *CONTINGENCY_CELLS, WRONG_BOX, *BACK)
    rows = []
    for evaluation, protocol in each_protocol(evaluations):
        joint = measure_joint(evaluation.records, protocol)
        if joint is None:
            continue
        front = front_cells(evaluation, protocol, joint.questions)
        back = back_cells(evaluation, count_accuracy(evaluation.records, protocol))
        cells: list[Cell] = [front[0], evaluation.benchmark, *front[1:], *joint.counts]
        rows.append(TableRow("measured", (*cells, percent_between(joint.wrong_box), *back)))
    for row in TABLE_1:
        protocol_name = "crops_only" if row.is_looped else "direct (no closed loop; paper)"
        values = dict(zip(CONTINGENCY_CELLS, row.counts, strict=True))
        labels = {"benchmark": "visual_cot", "protocol": protocol_name}
        figures: dict[str, float | int | str] = {**labels, "n": sum(row.counts), WRONG_BOX: row.wrong_box, **values}
        rows.append(published_row(columns, row.model, figures))
    caption = (
        "Questions by answer and box; a box is right when every gold box of the question has IoG > 0.3. Only questions "
        "with gold boxes, a grounding turn and a scored answer are counted (n). Brackets: 95 % bootstrap interval over "
        "questions. Published rows are the paper's."
    )
    return Table("table_1", "Table 1: answer and box", caption, columns, tuple(rows))


def table_information(evaluations: Sequence[Evaluation]) -> Table:
    """Proposition 1: I(L; R) in bits, by protocol; arguments as for ``table_1``."""
    columns = (
        *("model", "benchmark", "protocols", "date", "n"),
        *(f"I(L; R), {protocol}" for protocol in PROTOCOLS),
        *("crops_only - direct", "n of the difference", "questions"),
    )
    rows = []
    for evaluation in evaluations:
        joints = [
            measure_joint(evaluation.records, protocol) if protocol in evaluation.protocols else None
            for protocol in PROTOCOLS
        ]
        count = max((joint.questions for joint in joints if joint), default=0)
        if not count:
            continue
        gain = measure_information_gain(evaluation.records)
        front = front_cells(evaluation, ", ".join(evaluation.protocols), count)
        cells: tuple[Cell, ...] = (
            *(front[0], evaluation.benchmark, *front[1:]),
            *(bits(joint.information if joint else None) for joint in joints),
            *(bits(gain.gain if gain else None, is_signed=True), gain.questions if gain else None),
            questions_cell(evaluation),
        )
        rows.append(TableRow("measured", cells))
    caption = (
        "Mutual information of box right (L) and answer right (R) in bits, plug-in estimate, with 95 % bootstrap "
        "intervals over questions. It is too high by about 1 / (2 n ln 2), alike for all protocols; the difference is "
        f"paired by question. {NOT_PUBLISHED}"
    )
    title = "Proposition 1: what the box says about the answer"
    return Table("proposition_1", title, caption, columns, tuple(rows))
