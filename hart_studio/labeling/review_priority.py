"""Order of the review queue: contradicting evidence first, a random audit last."""

from __future__ import annotations

from statistics import fmean
from typing import Final, Literal

from hart_studio.labeling.records import BoxCheck, Label

LOW_AGREEMENT: Final = 0.5
"""Below this sufficiency or consensus, the rollouts do not agree. Project default."""

Reason = Literal["disagreement", "no_box", "low_agreement", "caution", "unsure", "audit"]
"""Why an item needs review, highest priority first."""

_RANKS: Final[dict[Reason, int]] = {
    "disagreement": 4, "no_box": 3, "low_agreement": 3, "caution": 2, "unsure": 1, "audit": 0,
}  # fmt: skip


def get_review_reason(label: Label, audit_hash: float, audit_share: float) -> Reason | None:
    """Return why an item needs review; None if it does not.

    Args:
        label: Newest label of the item.
        audit_hash: Audit hash of the item, in [0, 1).
        audit_share: Auto-accepted labels with a lower audit hash are audited.
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
    return "caution" if check.cautions else "unsure"


def compute_review_priority(label: Label, audit_hash: float, audit_share: float) -> float | None:
    """Return the review priority of an item (higher first); None if it needs no review."""
    reason = get_review_reason(label, audit_hash, audit_share)
    if reason is None:
        return None
    # Audited items come in the order of their hashes, which is random.
    within = 1.0 - audit_hash if reason == "audit" else 1.0 - _rank_evidence(label)
    return _RANKS[reason] + 0.999 * within


def _rank_evidence(label: Label) -> float:
    """Strength of the evidence for a label, in [0, 1]: its score, or, if uncalibrated, the mean of the measurements.

    Only for sorting: the mean is no probability and is not shown.
    """
    if label.score is not None or label.check is None:
        return label.score or 0.0
    check = label.check
    measured = [value for value in (check.sufficiency, check.consensus, check.support) if value is not None]
    return fmean(measured) if measured else 0.0


def disagrees(check: BoxCheck) -> bool:
    """Whether crops and full image give different answers, and the full image gives the better one."""
    return check.crops_right is False and check.full_right is True
