"""Summary of an evaluation as text, printed at the end of the command."""

from __future__ import annotations

from collections import Counter
from typing import Final

from hart_studio.evaluation.accuracy import count_accuracy
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.job import DatasetInfo
from hart_studio.evaluation.statistics import Estimate, wilson
from hart_studio.evaluation.tables.grounding import measure_grounding
from hart_studio.formatting import format_percent, list_reasons
from hart_studio.progress import shorten_to_line

MAX_REASONS: Final = 5
"""Number of reasons listed, most frequent first. Project default."""


def summarize_evaluation(evaluation: Evaluation, asked: DatasetInfo) -> list[str]:
    """Summarize questions, accuracy per protocol, grounding, failures and invalid rows.

    Args:
        evaluation: Evaluation, complete or partial.
        asked: Data set information with the invalid rows.

    Returns:
        Lines for a terminal.
    """
    records = evaluation.records
    reasons = Counter(record.error for record in records if record.error)
    lines = [
        f"questions: {len(records):,} of {evaluation.total:,} measured, {reasons.total():,} failed, "
        f"{asked.invalid_count:,} invalid rows left out"
    ]
    for protocol in evaluation.protocols:
        found = count_accuracy(records, protocol)
        text = show_interval(wilson(round(found.right), found.scored)) if found.scored else "not known"
        extra = [f"{found.unscored:,} unscored"] if found.unscored else []
        extra += [f"{found.fallbacks:,} answered from the full image"] if found.fallbacks else []
        lines.append(", ".join([f"accuracy, {protocol}: {text}", f"n = {found.scored:,}", *extra]))
    boxes = measure_grounding(records)
    if boxes is not None:
        lines.append(
            f"boxes: IoG > 0.3 {show_interval(boxes.found)}, n = {boxes.boxes:,} gold boxes; mean IoU "
            f"{format_percent(boxes.iou)}, mean area share {format_percent(boxes.area_share)}, valid boxes "
            f"{format_percent(boxes.usable)} of {boxes.questions:,} questions"
        )
    rows = Counter(reason for _, reason in asked.invalid_rows)
    failed = list_reasons(reasons, MAX_REASONS, lambda reason, count: f"{count:,} failed: {shorten_to_line(reason)}")
    left_out = list_reasons(rows, MAX_REASONS, lambda reason, count: f"{count:,} left out: {shorten_to_line(reason)}")
    return lines + [f"  {line}" for line in (*failed, *left_out)]


def show_interval(found: Estimate) -> str:
    """``57.0 % [50.1, 63.7]``: a share with its 95 % interval."""
    return f"{format_percent(found.value)} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
