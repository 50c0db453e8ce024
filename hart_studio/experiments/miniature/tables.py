"""Tables 1, 6, 7 and 8 and Proposition 1 of the paper from the results of the study, with the published results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final

from numpy.typing import NDArray

from hart_studio.evaluation import published
from hart_studio.evaluation.grounding_metrics import list_area_shares
from hart_studio.evaluation.joint import (
    CONTINGENCY_CELLS,
    count_joint,
    estimate_information,
    estimate_information_difference,
    estimate_wrong_box,
    wrong_box_share,
)
from hart_studio.evaluation.statistics import Estimate, FloatArray, estimate_difference, estimate_mean, spread
from hart_studio.evaluation.tables.writers import NONE, format_rows
from hart_studio.experiments.miniature.study_folder import PHASES, StudyResults, VariantResults, find_cost
from hart_studio.experiments.miniature.variants import StudyVariant
from hart_studio.records import Protocol

PUBLISHED_WRONG_BOX: Final = {
    ("base", "crops_only" if row.is_looped else "direct"): row.wrong_box
    for row in published.TABLE_1
    if row.model == published.MODEL
}
"""Table 1: P(wrong box | correct answer) on Visual-CoT, by variant and protocol."""

PUBLISHED_GROUNDING: Final = {
    "base": published.TABLE_6[published.MODEL],
    "grpo": published.TABLE_6["GRPO"],
    "mgpo": published.TABLE_6["MGPO"],
    "ap_grpo_060": published.TABLE_6["AP-GRPO"],
}
"""Table 6: TreeBench and Visual-CoT, IoG > 0.3."""

PUBLISHED_BENCHMARKS: Final = (
    "MME-RealWorld-Lite, perception / reasoning (Table 7)",
    "TreeBench, perception / reasoning (Table 7)",
    "MME-RealWorld-Lite, overall (Table 2)",
)
"""Columns of ``PUBLISHED_ACCURACY``."""

PUBLISHED_COST: Final = {
    "grpo": published.TABLE_8["GRPO"],
    "mgpo": published.TABLE_8["MGPO"],
    "ap_grpo_060": published.TABLE_8["HART"],
}
"""Table 8: seconds per step and MiB of GPU memory."""

_ROWS: Final = {
    # Variant -> its row of Table 7 and of Table 2.
    "base": (published.MODEL, published.MODEL),
    "sft": ("", "SFT"),
    "grpo": ("GRPO", "GRPO"),
    "grpo_sft": ("", "GRPO + SFT"),
    "mgpo": ("MGPO", "MGPO"),
    "mgpo_sft": ("", "MGPO + SFT"),
    "ap_grpo_015": ("AP-GRPO, k 0.15", ""),
    "ap_grpo_015_sft": ("AP-GRPO + SFT, k 0.15", ""),
    "ap_grpo_030": ("AP-GRPO, k 0.30", ""),
    "ap_grpo_030_sft": ("AP-GRPO + SFT, k 0.30", ""),
    "ap_grpo_060": ("AP-GRPO, k 0.60", ""),
    "sft_ap_grpo_060": ("SFT + AP-GRPO, k 0.60", ""),
    "ap_grpo_060_sft": ("AP-GRPO + SFT, k 0.60", published.HART),
}


def _show_row(levels: str, overall: str) -> tuple[str, str, str]:
    both = next((row for row in published.TABLE_7 if row.method == levels), None)
    whole = next((row for row in published.TABLE_2 if row.method == overall), None)
    shown = ["–", "–"] if both is None else [f"{a} / {b}" for a, b in (both.mme_realworld_lite, both.treebench)]
    return shown[0], shown[1], "–" if whole is None else f"{whole.overall}"


PUBLISHED_ACCURACY: Final = {variant: _show_row(*rows) for variant, rows in _ROWS.items()}
"""Accuracy by variant. The SFT, GRPO and MGPO rows of Table 2 are from the MGPO paper, with full fine-tuning."""


NOT_RUN: Final = "not run"
PROTOCOLS: Final[tuple[Protocol, ...]] = ("direct", "crops_only", "full_and_crops")
KINDS: Final = ("detail", "gist")

Row = Sequence[str]


def table_1(results: StudyResults, protocol: Protocol | None) -> str:
    """Joint counts of answer and box.

    Args:
        results: The study.
        protocol: Protocol of the answers; None = the protocol of each model.
    """
    rows = []
    for variant in results.variants:
        chosen = protocol or variant.protocol
        reference = PUBLISHED_WRONG_BOX.get((variant.name, chosen))
        rows.append(
            [variant.title, chosen, *_joint_columns(results, variant, chosen), f"{reference}" if reference else NONE]
        )
    for row in published.TABLE_1 if protocol is None else ():
        if row.model == published.MODEL:
            name = "in the loop, crops only" if row.is_looped else "without the loop"
            counts = [f"{count}" for count in row.counts]
            rows.append([f"*published: {row.model}, {name}*", NONE, *counts, NONE, f"{row.wrong_box}"])
    shares = ["P(wrong box | correct answer), %", f"published: {published.MODEL} on Visual-CoT"]
    return format_rows(["model", "protocol", *CONTINGENCY_CELLS, *shares], rows)


def table_6(results: StudyResults) -> str:
    """Grounding: IoG with IoU and area share."""
    header = ["model", "IoG > 0.3, %", "vs. base, points", "detail questions, %", "mean IoU, %"]
    header += ["mean area share, %", "valid box, %", "published: TreeBench", "published: Visual-CoT"]
    base = results.records.get("base")
    rows = []
    for variant in results.variants:
        reference = [f"{value}" for value in PUBLISHED_GROUNDING.get(variant.name, ())] or [NONE, NONE]
        found = results.records.get(variant.name)
        if found is None:
            rows.append([variant.title, NOT_RUN, *[NONE] * 5, *reference])
            continue
        shares = found.values(lambda record: record.found_share)
        gain = NONE
        if base is not None and base is not found:
            before = base.values(lambda record: record.found_share)
            gain = show_gain(estimate_difference(shares, before, results.resamples))
        by_seed = [list_area_shares(records) for records in found.by_seed.values()]
        figures = [
            show_percent(shares, results.resamples),
            gain,
            show_percent(shares[:, results.of_kind("detail")]),
            show_percent(found.values(lambda record: record.mean_iou), results.resamples),
            show_spread([100 * fmean(areas) for areas in by_seed], 1) if all(by_seed) else NONE,
            show_percent(found.values(lambda record: float(bool(record.boxes)))),
        ]
        rows.append([variant.title, *figures, *reference])
    return format_rows(header, rows)


def table_7(results: StudyResults, kind: str | None = None) -> str:
    """Accuracy under all three protocols.

    Args:
        results: The study.
        kind: Category of questions, without the published columns; None = all.
    """
    header = ["model", *(f"{protocol}, %" for protocol in PROTOCOLS)]
    if kind is None:
        header += [f"published: {name}" for name in PUBLISHED_BENCHMARKS]
    rows = []
    for variant in results.variants:
        found = results.records.get(variant.name)
        figures = [NOT_RUN, NONE, NONE]
        if found is not None and kind is None:
            figures = [show_percent(found.answers(protocol), results.resamples) for protocol in PROTOCOLS]
        elif found is not None:
            asked = results.of_kind(str(kind))
            figures = [show_percent(found.answers(protocol)[:, asked]) for protocol in PROTOCOLS]
        reference = PUBLISHED_ACCURACY.get(variant.name, (NONE,) * len(PUBLISHED_BENCHMARKS))
        rows.append([variant.title, *figures, *(reference if kind is None else ())])
    return format_rows(header, rows)


def table_8(results: StudyResults) -> str:
    """Cost of a training step by method."""
    header = ["trained stage", "seconds per step", *PHASES, "peak memory, MiB"]
    header += ["published: s per step", "published: MiB of GPU memory"]
    rows = []
    for variant in results.variants:
        if variant.parent != "base":
            continue
        reference = [f"{value}" for value in PUBLISHED_COST.get(variant.name, ())] or [NONE, NONE]
        costs = [
            cost for events in results.runs.get(variant.name, {}).values() if (cost := find_cost(events)) is not None
        ]
        if not costs:
            rows.append([variant.title, NOT_RUN, *[NONE] * 4, *reference])
            continue
        parts = [f"{spread([cost.seconds[phase] for cost in costs]).mean:.2f}" for phase in PHASES]
        memory = f"{max(cost.memory_mib for cost in costs):.0f}"
        rows.append([variant.title, show_spread([cost.total for cost in costs], 2), *parts, memory, *reference])
    return format_rows(header, rows)


def table_information(results: StudyResults) -> str:
    """Proposition 1: mutual information of box and answer, in bits."""
    header = ["model", *(f"I(L; R), {protocol}" for protocol in PROTOCOLS)]
    header += ["crops_only - direct", "crops_only - full_and_crops"]
    rows = []
    for variant in results.variants:
        found = results.records.get(variant.name)
        if found is None:
            rows.append([variant.title, NOT_RUN, *[NONE] * 4])
            continue
        grounded, draws = found.is_grounded, results.resamples
        bits = [estimate_information(found.answers(protocol), grounded, draws) for protocol in PROTOCOLS]
        gains = [
            estimate_information_difference(found.answers("crops_only"), found.answers(other), grounded, draws)
            for other in PROTOCOLS
            if other != "crops_only"
        ]
        rows.append([variant.title, *(_show_bits(value) for value in bits), *(_show_bits(gain, "+") for gain in gains)])
    return format_rows(header, rows)


def show_percent(values: NDArray[Any], resamples: FloatArray | None = None) -> str:
    """Format a share ``[S, n]`` as ``56.2 ± 1.3 [52.0, 60.4]``: mean, deviation over seeds, interval over questions."""
    if not values.shape[-1]:
        return NONE
    shown = show_spread([100 * float(row.mean()) for row in values], 1)
    if resamples is None:
        return shown
    interval = estimate_mean(values, resamples)
    return f"{shown} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def show_spread(values: Sequence[float], digits: int) -> str:
    """Format a value over seeds: ``56.2 ± 1.3``, or ``56.2`` for one seed."""
    found = spread(values)
    return f"{found.mean:.{digits}f}" + (f" ± {found.deviation:.{digits}f}" if found.deviation is not None else "")


def show_gain(gain: Estimate) -> str:
    """Format a difference of shares in points: ``+12.4 [8.0, 16.9]``."""
    return f"{100 * gain.value:+.1f} [{100 * gain.low:.1f}, {100 * gain.high:.1f}]"


def _joint_columns(results: StudyResults, variant: StudyVariant, protocol: Protocol) -> list[str]:
    found: VariantResults | None = results.records.get(variant.name)
    if found is None:
        return [NOT_RUN, NONE, NONE, NONE, NONE]
    answers, grounded = found.answers(protocol), found.is_grounded
    joint = count_joint(answers, grounded)
    counts = [
        show_spread(joint[:, index].tolist(), 1 if len(joint) > 1 else 0) for index in range(len(CONTINGENCY_CELLS))
    ]
    interval = estimate_wrong_box(answers, grounded, results.resamples)
    if interval is None:
        return [*counts, NONE]
    shares = [100 * float(share) for share in wrong_box_share(joint) if not math.isnan(share)]
    return [*counts, f"{show_spread(shares, 1)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"]


def _show_bits(bits: Estimate, sign: str = "") -> str:
    return f"{bits.value:{sign}.3f} [{bits.low:.3f}, {bits.high:.3f}]"
