"""Tables of boxes: Table 1, Proposition 1, Table 6, and the data of Fig. 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hart_studio.evaluation.accuracy import count_accuracy
from hart_studio.evaluation.grounding_metrics import IOU_THRESHOLDS, measure_grounding, share_by_iou
from hart_studio.evaluation.joint import CONTINGENCY_CELLS, measure_information_difference, measure_joint
from hart_studio.evaluation.published import TABLE_1, TABLE_6
from hart_studio.evaluation.records import Evaluation
from hart_studio.evaluation.tables.table import (
    BACK,
    FRONT,
    NOT_PUBLISHED,
    Table,
    bits,
    each_protocol,
    measured_row,
    percent,
    percent_between,
    published_row,
    questions_cell,
)
from hart_studio.records import PROTOCOLS

WRONG_BOX: Final = "P(wrong box | correct answer), %"
"""Main column of Table 1."""

_TURN: Final = "grounding turn"
_FOUND: Final = "gold boxes with IoG > 0.3, %"


def table_1(evaluations: Sequence[Evaluation]) -> Table:
    """Joint counts of answer and box, of evaluations with gold boxes and a grounding turn."""
    columns = (*FRONT, *CONTINGENCY_CELLS, WRONG_BOX, *BACK)
    rows = []
    for evaluation, protocol in each_protocol(evaluations):
        joint = measure_joint(evaluation.records, protocol)
        if joint is not None:
            answers = count_accuracy(evaluation.records, protocol)
            back = (questions_cell(evaluation), answers.unscored, answers.fallbacks)
            cells = (*joint.counts, percent_between(joint.wrong_box), *back)
            rows.append(measured_row(evaluation, protocol, joint.questions, *cells))
    for row in TABLE_1:
        protocol_name = "crops_only" if row.is_looped else "direct (no closed loop; paper)"
        figures: dict[str, float | int | str] = {"benchmark": "visual_cot", "protocol": protocol_name}
        figures |= {"n": sum(row.counts), WRONG_BOX: row.wrong_box}
        figures |= dict(zip(CONTINGENCY_CELLS, row.counts, strict=True))
        rows.append(published_row(columns, row.model, figures))
    caption = (
        "Questions by answer and box; a box is right when every gold box of the question has IoG > 0.3. Only questions "
        "with gold boxes, a grounding turn and a scored answer are counted (n). Brackets: 95 % bootstrap interval over "
        "questions. Published rows are the paper's."
    )
    return Table("table_1", "Table 1: answer and box", caption, columns, tuple(rows))


def table_information(evaluations: Sequence[Evaluation]) -> Table:
    """Proposition 1: I(L; R) in bits, by protocol."""
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
        gain = measure_information_difference(evaluation.records)
        cells = (
            *(bits(joint.information if joint else None) for joint in joints),
            *(bits(gain.gain if gain else None, is_signed=True), gain.questions if gain else None),
            questions_cell(evaluation),
        )
        rows.append(measured_row(evaluation, ", ".join(evaluation.protocols), count, *cells))
    caption = (
        "Mutual information of box right (L) and answer right (R) in bits, plug-in estimate, with 95 % bootstrap "
        "intervals over questions. It is too high by about 1 / (2 n ln 2), alike for all protocols; the difference is "
        f"paired by question. {NOT_PUBLISHED}"
    )
    title = "Proposition 1: mutual information of box and answer"
    return Table("proposition_1", title, caption, columns, tuple(rows))


def table_6(evaluations: Sequence[Evaluation]) -> Table:
    """Grounding."""
    columns = (
        *(*FRONT, "gold boxes", _FOUND, "IoG > 0.3 per question, %", "questions with all gold boxes found, %"),
        *("mean IoU, %", "mean IoU per question, %", "mean area share, %", "valid box, %", "questions"),
    )
    rows = []
    for evaluation in evaluations:
        found = measure_grounding(evaluation.records)
        if found is not None:
            shares = (found.found_per_question, found.all_found, found.iou, found.iou_per_question)
            cells = (percent_between(found.found), *map(percent, (*shares, found.area_share, found.usable)))
            back = questions_cell(evaluation)
            rows.append(measured_row(evaluation, _TURN, found.questions, found.boxes, *cells, back))
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
    """Data of Fig. 3."""
    columns = (*FRONT, "gold boxes", *(f"IoU ≥ {threshold:.2f}, %" for threshold in IOU_THRESHOLDS), "questions")
    rows = []
    for evaluation in evaluations:
        shares = share_by_iou(evaluation.records)
        if shares:
            counts = [len(record.gold_matches) for record in evaluation.records if record.gold_matches]
            cells = (sum(counts), *map(percent, shares), questions_cell(evaluation))
            rows.append(measured_row(evaluation, _TURN, len(counts), *cells))
    caption = (
        "Share of the gold boxes whose best IoU with one predicted box is at least the threshold; at 0.00 every gold "
        f"box counts. {NOT_PUBLISHED} The paper shows them as a plot only."
    )
    return Table("figure_3", "Fig. 3: gold boxes by IoU threshold", caption, columns, tuple(rows))
