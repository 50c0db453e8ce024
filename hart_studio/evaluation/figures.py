"""Figures of evaluations as SVG: boxes by IoU (Fig. 3), correct answers with wrong boxes, and area shares of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from matplotlib.figure import Figure

from hart_studio.evaluation.bootstrap import measure_joint
from hart_studio.evaluation.charts import (
    SERIES_STYLES,
    Bar,
    IntervalBar,
    Limits,
    Series,
    draw_bars,
    draw_intervals,
    draw_lines,
)
from hart_studio.evaluation.evaluations import Evaluation
from hart_studio.evaluation.records import list_area_shares
from hart_studio.evaluation.tables.grounding import IOU_THRESHOLDS, share_by_iou
from hart_studio.evaluation.tables.rows import each_protocol, file_stem, label_of, name_of, unique
from hart_studio.formatting import shorten

AREA_EDGES: Final = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Bins of the histogram of area shares; most boxes are small, so the bins are narrow."""

_MAX_SERIES: Final = len(SERIES_STYLES)


class ReportFigure(NamedTuple):
    """A figure of a report."""

    name: str
    """File name without suffix."""
    caption: str
    """What is drawn, in sentences; says n."""
    chart: Figure
    """The drawing."""


def make_figures(evaluations: Sequence[Evaluation]) -> list[ReportFigure]:
    """The figures that some evaluations can fill; none without gold boxes and grounding turns.

    Args:
        evaluations: Evaluations of any benchmarks.
    """
    found = []
    for benchmark in unique([evaluation.benchmark for evaluation in evaluations]):
        same = [evaluation for evaluation in evaluations if evaluation.benchmark == benchmark]
        found += [draw_iou_curves(same, benchmark), draw_wrong_boxes(same, benchmark)]
        found += [draw_area_shares(evaluation) for evaluation in same]
    return [figure for figure in found if figure is not None]


def draw_iou_curves(evaluations: Sequence[Evaluation], benchmark: str) -> ReportFigure | None:
    """Fig. 3: share of the gold boxes by IoU threshold, a line for each model; None without gold boxes.

    Args:
        evaluations: Evaluations of one benchmark; the first six with gold boxes are drawn.
        benchmark: Name of the benchmark.
    """
    lines = []
    for evaluation in evaluations:
        shares = share_by_iou(evaluation.records)
        if shares:
            boxes = sum(len(record.gold_matches) for record in evaluation.records)
            points = [(at, share, share, share) for at, share in zip(IOU_THRESHOLDS, shares, strict=True)]
            lines.append(Series(f"{shorten(label_of(evaluation, evaluations), 17)}, n = {boxes}", points))
    if not lines:
        return None
    caption = (
        "Fig. 3: share of the gold boxes whose best IoU is at least the threshold; n is the number of gold boxes. All "
        f"lines are measured.{_describe_omitted(len(lines))}"
    )
    title = f"Grounding on {benchmark}"
    chart = draw_lines(title, "IoU threshold", "share of gold boxes", lines[:_MAX_SERIES], Limits(0, 1), Limits(0, 1))
    return _figure(f"figure_3_{benchmark}", caption, chart)


def draw_wrong_boxes(evaluations: Sequence[Evaluation], benchmark: str) -> ReportFigure | None:
    """P(wrong box | right answer) by model and protocol; None without right answers and gold boxes.

    Args:
        evaluations: Evaluations of one benchmark.
        benchmark: Name of the benchmark.
    """
    names = [label_of(evaluation, evaluations) for evaluation in evaluations]
    bars = []
    for evaluation, protocol in each_protocol(evaluations):
        joint = measure_joint(evaluation.records, protocol)
        if joint is None or joint.wrong_box is None:
            continue
        value, low, high = (100 * each for each in joint.wrong_box)
        note = f"{value:.1f} %, n = {joint.counts[0] + joint.counts[1]}"
        name = label_of(evaluation, evaluations)
        bars.append(IntervalBar(f"{shorten(name, 22)}, {protocol}", value, low, high, note, names.index(name)))
    if not bars:
        return None
    caption = (
        "Share of the right answers whose box is wrong (Table 1), with 95 % bootstrap intervals over questions; n is "
        "the number of right answers. All bars are measured."
    )
    title = f"Correct answers with wrong boxes, {benchmark}"
    chart = draw_intervals(title, "P(wrong box | right answer), %", bars, Limits(0, 100))
    return _figure(f"wrong_boxes_{benchmark}", caption, chart)


def draw_area_shares(evaluation: Evaluation) -> ReportFigure | None:
    """How much of the image the predicted boxes cover together; None without a valid box."""
    shares = list_area_shares(evaluation.records)
    if not shares:
        return None
    counts = [sum(low < share <= high for share in shares) for low, high in pairwise(AREA_EDGES)]
    bars = [
        Bar(f"{100 * low:g}-{100 * high:g} %", count)
        for (low, high), count in zip(pairwise(AREA_EDGES), counts, strict=True)
    ]
    name = f"{name_of(evaluation)}, {evaluation.benchmark}"
    chart = draw_bars(f"Box area: {shorten(name, 40)}", "share of the image", "questions", bars)
    caption = (
        f"{name}: share of the image that the predicted boxes of a question cover together; "
        f"n = {len(shares)} questions with a valid box. Measured."
    )
    return _figure(f"area_{evaluation.benchmark}_{evaluation.run_id}", caption, chart)


def _figure(name: str, caption: str, chart: Figure) -> ReportFigure:
    return ReportFigure(file_stem(name), caption, chart)


def _describe_omitted(lines: int) -> str:
    return f" {lines - _MAX_SERIES} more are in the table." if lines > _MAX_SERIES else ""
