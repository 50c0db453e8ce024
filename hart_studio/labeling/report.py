"""Label quality report of a project: a self-contained HTML file with figures, and text."""

from __future__ import annotations

import html
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hart_studio.evaluation.charts import Bar, draw_bars, to_svg
from hart_studio.evaluation.html_page import GENERATOR, write_page, write_table
from hart_studio.evaluation.statistics import Estimate
from hart_studio.files import write_atomically
from hart_studio.formatting import format_percent
from hart_studio.labeling.calibration import Calibration
from hart_studio.labeling.project import Project
from hart_studio.labeling.quality import (
    AREA_EDGES,
    SCORE_BINS,
    GoldMetrics,
    GoldReport,
    Quality,
    measure_against_gold,
    measure_quality,
)
from hart_studio.labeling.records import EvidenceKind
from hart_studio.outputs import check_output

KIND_TITLES: Final[dict[EvidenceKind, str]] = {"known_answer": "Known answers", "agreement": "Agreement"}
"""Kind of evidence -> title."""

_BEGINNING: Final = "Label quality"


def write_report(project: Project, path: Path, calibration: Calibration | None = None) -> None:
    """Measure a project and write the report.

    Args:
        project: The project.
        path: HTML file to write.
        calibration: Adds reliability diagrams.

    Raises:
        InputError: If the path exists and is no earlier report.
        DataError: If the project cannot be read.
        OSError: If the file cannot be written.
    """
    check_output(path, "a quality report", lambda head: GENERATOR.encode() in head and _BEGINNING.encode() in head)
    quality, gold = measure_quality(project), measure_against_gold(project)
    now = datetime.now(UTC)
    parts = [
        f"<h1>{html.escape(project.name)}</h1>",
        f'<p class="quiet">{_BEGINNING}, {now:%Y-%m-%d %H:%M} UTC. Intervals are 95 % Wilson intervals. '
        "Known answers and agreement are different evidence and are reported separately.</p>",
        "<h2>Items</h2>",
        write_table(["Status", "Items"], [[name, f"{count:,}"] for name, count in quality.statuses.items()]),
        *_write_evidence(quality),
        *_write_audit(quality),
        *_write_gold(gold),
        *_write_figures(quality),
        *(_write_calibration(calibration, quality) if calibration else []),
        *_write_reviewers(quality),
    ]
    write_atomically(path, write_page(project.name, parts))


def draw_figures(quality: Quality) -> dict[str, str]:
    """Histograms of scores and of area shares: name -> SVG document."""
    found = {}
    for kind, counts in quality.scores.items():
        bars = [Bar(f"{index / SCORE_BINS:.1f}", count) for index, count in enumerate(counts)]
        title = f"Scores, {KIND_TITLES[kind].lower()}"
        found[f"scores_{kind}"] = to_svg(draw_bars(title, "score from", "labels", bars))
    if any(quality.areas):
        bars = [Bar(f"{100 * low:g} %", count) for low, count in zip(AREA_EDGES[:-1], quality.areas, strict=True)]
        found["areas"] = to_svg(draw_bars("Area of the labels", "share of the image (lower bound)", "labels", bars))
    return found


def draw_reliability(calibration: Calibration, kind: EvidenceKind) -> str:
    """The reliability diagram of one kind of evidence: bars are the share of right labels, lines the mean score."""
    bars = reliability_bars(calibration, kind)
    title = f"Reliability, {KIND_TITLES[kind].lower()}, calibration data"
    return to_svg(draw_bars(title, "score (lower bound; line: mean score)", "share of correct labels", bars, top=1.0))


def reliability_bars(calibration: Calibration, kind: EvidenceKind) -> list[Bar]:
    """One bar per bin of the score: height = share of right labels, mark = mean score."""
    return [Bar(f"{each.low:.1f}", each.right or 0.0, each.score) for each in calibration.curves[kind].bins]


def draw_calibration(calibration: Calibration, quality: Quality) -> tuple[dict[str, str], str]:
    """Reliability diagrams of a project, and why a kind of evidence has none.

    Returns:
        Name -> SVG document, and a sentence about missing diagrams; empty if all are shown.
    """
    found = {
        f"reliability_{kind}": draw_reliability(calibration, kind)
        for kind in calibration.curves
        if kind in quality.scores
    }
    missing = [KIND_TITLES[kind].lower() for kind in calibration.curves if kind not in quality.scores]
    message = (
        f"No label of this project has a score from {' or '.join(missing)}, so that reliability diagram is missing."
    )
    return found, message if missing else ""


def format_estimate(found: Estimate | None) -> str:
    """Format a share with its interval; a dash for None."""
    return (
        "–"
        if found is None
        else f"{format_percent(found.value)} ({format_percent(found.low)} – {format_percent(found.high)})"
    )


def _write_evidence(quality: Quality) -> list[str]:
    rows = [
        [
            KIND_TITLES[kind],
            f"{found.labels:,}",
            f"{found.uncalibrated:,}",
            format_estimate(found.verified),
            format_estimate(found.full_image),
            f"{100 * found.accuracy_gain:+.1f} points",
            format_estimate(found.needed),
        ]
        for kind, found in quality.evidence.items()
    ]
    return [
        "<h2>Self-check</h2>",
        "<p>Crop accuracy: share of labels whose crops alone give the known answer, or the majority answer of the "
        "rollouts.</p>",
        *(
            ["<p>Uncalibrated: no calibration of the model is valid for these labels, so they have no score.</p>"]
            if any(found.uncalibrated for found in quality.evidence.values())
            else []
        ),
        write_table(
            [
                "Evidence",
                "Labels",
                "Uncalibrated",
                "Crop accuracy",
                "Full image",
                "Crops - full image",
                "Region necessary (masking test)",
            ],
            rows,
        ),
    ]


def _write_audit(quality: Quality) -> list[str]:
    message = (
        f"<p>{quality.audited:,} auto-accepted labels were reviewed individually: "
        f"<strong>{format_estimate(quality.audit)}</strong> were confirmed.</p>"
        if quality.audit
        else "<p>No auto-accepted label has been audited yet, so the error rate is unknown.</p>"
    )
    return ["<h2>Audit</h2>", message]


def _write_gold(gold: dict[EvidenceKind, GoldReport]) -> list[str]:
    if not gold:
        return []
    rows = []
    for kind, report in gold.items():
        found = {
            "all": report.all,
            "auto-accepted, accepted or edited": report.usable,
            "auto-accepted": report.auto_accepted,
        }
        for name, figures in found.items():
            if figures:
                rows.append([f"{KIND_TITLES[kind]}: {name}", *_format_metrics(figures)])
        rows.append([f"{KIND_TITLES[kind]}: auto-accept recall", "", format_estimate(report.recall)])
    return [
        "<h2>Comparison with gold boxes</h2>",
        "<p>Gold boxes are used only in this table. A box over the whole image has an IoG of 1: compare the area.</p>",
        write_table(["Labels", "Count", "IoG > 0.3", "Mean IoG", "Mean IoU", "Area"], rows),
    ]


def _format_metrics(figures: GoldMetrics) -> list[str]:
    return [
        f"{figures.labels:,}",
        format_estimate(figures.found),
        f"{figures.iog:.3f}",
        f"{figures.iou:.3f}",
        format_percent(figures.area_share, 2),
    ]


def _write_figures(quality: Quality) -> list[str]:
    figures = [f"<figure>{svg}</figure>" for svg in draw_figures(quality).values()]
    return ["<h2>Distributions</h2>", *(figures or ["<p>No label has a box yet.</p>"])]


def _write_calibration(calibration: Calibration, quality: Quality) -> list[str]:
    rows = [
        [
            KIND_TITLES[kind],
            f"{curve.tested_on:,}",
            format_estimate(curve.right_estimate),
            "–" if curve.threshold is None else f"{curve.threshold:.3f}",
            format_estimate(curve.precision_estimate),
            format_estimate(curve.recall_estimate),
            f"{curve.brier:.3f}",
            f"{curve.calibration_error:.3f}",
        ]
        for kind, curve in calibration.curves.items()
    ]
    figures, missing = draw_calibration(calibration, quality)
    heads = ["Evidence", "Tested", "Correct", "Threshold", "Precision", "Recall", "Brier", "Calibration error"]
    return [
        "<h2>Calibration of the score</h2>",
        f"<p>Model {html.escape(calibration.model)}, {html.escape(calibration.data)}, K {calibration.rollouts}, "
        f"temperature {calibration.temperature:g}. Valid for {html.escape(calibration.domain.describe())}.</p>",
        write_table(heads, rows),
        *(f"<figure>{svg}</figure>" for svg in figures.values()),
        *([f'<p class="quiet">{html.escape(missing)}</p>'] if missing else []),
    ]


def _write_reviewers(quality: Quality) -> list[str]:
    if not quality.reviewers:
        return []
    rows = [
        [
            found.reviewer,
            ", ".join(f"{count} {kind}" for kind, count in sorted(found.decisions.items())),
            "–" if found.seconds is None else f"{found.seconds:.1f} s",
        ]
        for found in quality.reviewers
    ]
    pair = quality.agreement
    message = (
        f"<p>{pair.items} items were reviewed by two people: mean IoU {_number(pair.iou)}, "
        f"Cohen's kappa {_number(pair.kappa)}.</p>"
        if pair.items
        else ""
    )
    return ["<h2>Reviewers</h2>", write_table(["Reviewer", "Actions", "Median time"], rows), message]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
