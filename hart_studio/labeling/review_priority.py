"""In which order items need a person: what the evidence disagrees about first, then a random audit."""

from __future__ import annotations

from statistics import fmean
from typing import Final, Literal

from hart_studio.labeling.records import BoxCheck, Label

LOW_AGREEMENT: Final = 0.5
"""Sufficiency, or consensus of the regions, under which the rollouts do not agree (project default)."""

Reason = Literal["disagreement", "no_box", "low_agreement", "odd_size", "unsure", "audit"]
"""Why an item waits for a person, most needed first."""

_RANKS: Final[dict[Reason, int]] = {
    "disagreement": 4, "no_box": 3, "low_agreement": 3, "odd_size": 2, "unsure": 1, "audit": 0,
}  # fmt: skip


def get_review_reason(label: Label, audit_hash: float, audit_share: float) -> Reason | None:
    """Why an item waits for a person; None when it does not.

    Args:
        label: Its newest label.
        audit_hash: Its audit hash in [0, 1).
        audit_share: Auto-accepted labels with a smaller audit hash are audited.
    """
    if label.status == "auto_accepted":
        return "audit" if audit_hash < audit_share else None
    if label.status != "proposed":
        return None
    check = label.check
    if check is None:
        return "unsure"
    if disagrees(check):
        return "disagreement"
    if "no_box" in check.cautions:
        return "no_box"
    measured = [value for value in (check.sufficiency, check.consensus) if value is not None]
    if measured and min(measured) < LOW_AGREEMENT:
        return "low_agreement"
    return "odd_size" if check.cautions else "unsure"


def compute_review_priority(label: Label, audit_hash: float, audit_share: float) -> float | None:
    """How much an item needs a person: the greater the sooner; None when it does not wait for one."""
    reason = get_review_reason(label, audit_hash, audit_share)
    if reason is None:
        return None
    # Audited items come in the order of their hashes, which says nothing about them.
    within = 1.0 - audit_hash if reason == "audit" else 1.0 - _rank_evidence(label)
    return _RANKS[reason] + 0.999 * within


def _rank_evidence(label: Label) -> float:
    """How much the evidence speaks for a label, in [0, 1]: its score, or, uncalibrated, the mean of what was measured.

    Orders the queue alone: the mean is no probability, and no one is shown it.
    """
    if label.score is not None or label.check is None:
        return label.score or 0.0
    check = label.check
    measured = [value for value in (check.sufficiency, check.consensus, check.support) if value is not None]
    return fmean(measured) if measured else 0.0


def disagrees(check: BoxCheck) -> bool:
    """Whether the crops and the full image tell different stories, and the full image has the better one."""
    return check.crops_right is False and check.full_right is True
