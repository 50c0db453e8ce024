"""Claims of the paper compared with the study; verdicts are computed from confidence intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from hart_studio.evaluation import published
from hart_studio.evaluation.joint import count_joint, estimate_information_difference, wrong_box_share
from hart_studio.evaluation.records import SampleResult
from hart_studio.evaluation.statistics import Estimate, estimate, estimate_difference
from hart_studio.evaluation.tables.writers import NONE, format_rows
from hart_studio.experiments.miniature.study_folder import StudyResults
from hart_studio.experiments.miniature.tables import NOT_RUN, PUBLISHED_GROUNDING
from hart_studio.records import Protocol

HART: Final = "ap_grpo_060"
"""Variant of the paper's method with its default k."""

_ANSWERS: Final[tuple[Protocol, ...]] = ("direct", "crops_only")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper that a difference is above 0.

    Attributes:
        text: The claim and its source in the paper.
        published: Difference in the paper.
        compare: Computes the difference in the study; None if a variant was not run.
        unit: ``points`` for differences of shares, or ``bits``.
    """

    text: str
    published: str
    compare: Callable[[StudyResults], Estimate | None]
    unit: str = "points"


def compare_variants(
    first: str, second: str, read: Callable[[SampleResult], float]
) -> Callable[[StudyResults], Estimate | None]:
    """Difference of a metric between two variants, paired by question.

    Args:
        first: Name of a variant.
        second: Name of the other variant.
        read: Reads the metric of a question.
    """

    def compare(results: StudyResults) -> Estimate | None:
        found = [results.records.get(name) for name in (first, second)]
        if found[0] is None or found[1] is None:
            return None
        return estimate_difference(found[0].values(read), found[1].values(read), results.resamples)

    return compare


def compare_wrong_boxes(variant: str) -> Callable[[StudyResults], Estimate | None]:
    """Reduction of wrong boxes among correct answers if the image is withheld, for one model."""

    def compare(results: StudyResults) -> Estimate | None:
        found = results.records.get(variant)
        if found is None:
            return None
        shares, draws = [], []
        for protocol in _ANSWERS:
            answers = found.answers(protocol)
            shares.append(wrong_box_share(count_joint(answers, found.is_grounded)).mean())
            draws.append(wrong_box_share(count_joint(answers, found.is_grounded, results.resamples)).mean(axis=0))
        value = float(shares[0] - shares[1])
        return None if np.isnan(value) else estimate(value, draws[0] - draws[1])

    return compare


def compare_information(variant: str, other: Protocol) -> Callable[[StudyResults], Estimate | None]:
    """Gain in mutual information of box and answer of crops-only over another protocol (Proposition 1)."""

    def compare(results: StudyResults) -> Estimate | None:
        found = results.records.get(variant)
        if found is None:
            return None
        answers = found.answers("crops_only"), found.answers(other)
        return estimate_information_difference(*answers, found.is_grounded, results.resamples)

    return compare


def verdict(gain: Estimate | None) -> str:
    """Verdict on the claim that a difference is above 0."""
    if gain is None:
        return NOT_RUN
    if gain.is_positive:
        return "supported"
    return "contradicted" if gain.is_negative else "inconclusive (interval includes 0)"


def claims_table(results: StudyResults) -> str:
    """Table of claims with published and measured differences."""
    rows = []
    for claim in CLAIMS:
        gain = claim.compare(results)
        shown = NONE
        if gain is not None:
            scale, digits = (100, 1) if claim.unit == "points" else (1, 3)
            low, high = (f"{scale * end:.{digits}f}" for end in (gain.low, gain.high))
            shown = f"{scale * gain.value:+.{digits}f} {claim.unit} [{low}, {high}]"
        rows.append([claim.text, claim.published, shown, verdict(gain)])
    return format_rows(["claim of the paper", f"published, {published.MODEL}", "here", "verdict"], rows)


def _read_found(record: SampleResult) -> float:
    return record.found_share


def _read_iou(record: SampleResult) -> float:
    return record.mean_iou


def _read_answer(protocol: Protocol) -> Callable[[SampleResult], float]:
    return lambda record: record.value(protocol)


def _describe_gain(better: str, worse: str) -> str:
    names = ("TreeBench", "Visual-CoT")
    pairs = zip(names, PUBLISHED_GROUNDING[better], PUBLISHED_GROUNDING[worse], strict=True)
    return ", ".join(f"{first - second:+.1f} ({name})" for name, first, second in pairs)


CLAIMS: Final = (
    *(
        Claim(
            f"AP-GRPO grounds better than {title} (Table 6)",
            _describe_gain(HART, name),
            compare_variants(HART, name, _read_found),
        )
        for name, title in (("base", "the base model"), ("grpo", "GRPO"), ("mgpo", "MGPO"))
    ),
    Claim(
        "a higher mean IoU than the base model; larger boxes do not raise it (not a claim of the paper)",
        NONE,
        compare_variants(HART, "base", _read_iou),
    ),
    Claim(
        "the base model's correct answers sit on a wrong box less often when the image is withheld (Table 1)",
        "+15.0 (Visual-CoT)",
        compare_wrong_boxes("base"),
    ),
    Claim(
        "the box is more informative about a crops-only answer than about a direct one, base model (Prop. 1)",
        NONE,
        compare_information("base", "direct"),
        "bits",
    ),
    Claim(
        "and more than about an answer from image and crops, base model (Prop. 1)",
        NONE,
        compare_information("base", "full_and_crops"),
        "bits",
    ),
    *(
        Claim(
            f"AP-GRPO + SFT answers better than {title}, {protocol.replace('_', ' ')}",
            gain,
            compare_variants(f"{HART}_sft", name, _read_answer(protocol)),
        )
        for name, title, gain in (
            (HART, "AP-GRPO (Table 7)", "+11.6 / +10.5 (MME-RealWorld-Lite, perception / reasoning)"),
            ("sft_ap_grpo_060", "SFT + AP-GRPO (Table 7)", "+13.2 / +10.4 (the same)"),
            ("sft", "SFT (Table 2)", "+8.4 (MME-RealWorld-Lite, overall)"),
            ("grpo_sft", "GRPO + SFT (Table 2)", "+4.3 (the same)"),
            ("mgpo_sft", "MGPO + SFT (Table 2)", "+1.9 (the same)"),
        )
        for protocol in _ANSWERS
    ),
)
"""Claims that the study can test."""
