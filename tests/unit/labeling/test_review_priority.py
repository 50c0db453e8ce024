from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hart_studio.labeling.records import Label
from hart_studio.labeling.review_priority import compute_review_priority, get_review_reason
from tests.unit.labeling.conftest import make_check


def label(status: str = "proposed", score: float | None = 0.5, **check: object) -> Label:
    return Label(
        revision=1, status=status, origin="model", score=score, at=datetime.now(UTC),  # type: ignore[arg-type]
        check=make_check(**check) if check else None,
    )  # fmt: skip


def test_reasons() -> None:
    assert get_review_reason(label(crops_right=False, full_right=True), 0.5, 0.1) == "disagreement"
    assert get_review_reason(label(crops_right=True, full_right=True, sufficiency=0.25), 0.5, 0.1) == "low_agreement"
    assert get_review_reason(label(sufficiency=1.0, consensus=0.2), 0.5, 0.1) == "low_agreement"
    assert get_review_reason(label(sufficiency=1.0, cautions=("covers_half",)), 0.5, 0.1) == "caution"
    assert get_review_reason(label(sufficiency=1.0, consensus=0.0, cautions=("no_box",)), 0.5, 0.1) == "no_box"
    assert get_review_reason(label(sufficiency=1.0), 0.5, 0.1) == "unsure"
    assert get_review_reason(label(), 0.5, 0.1) == "unsure"


@pytest.mark.parametrize("status", ["new", "failed", "accepted", "edited", "rejected", "bad_question"])
def test_labels_that_need_no_review(status: str) -> None:
    assert get_review_reason(label(status), 0.0, 1.0) is None
    assert compute_review_priority(label(status), 0.0, 1.0) is None


def test_only_who_draws_low_is_audited() -> None:
    assert get_review_reason(label("auto_accepted"), 0.09, 0.1) == "audit"
    assert get_review_reason(label("auto_accepted"), 0.1, 0.1) is None
    assert get_review_reason(label("auto_accepted"), 0.0, 0.0) is None


def test_without_a_score_the_evidence_orders_the_queue() -> None:
    evidence = [(0.625, 0.5, 0.5), (0.75, 0.6, 0.5), (1.0, 0.6, 0.5), (1.0, 1.0, 1.0)]
    order = [
        label(score=None, sufficiency=share, consensus=consensus, support=support)
        for share, consensus, support in evidence
    ]
    needs = [compute_review_priority(each, 0.5, 0.1) for each in order]
    assert needs == sorted(needs, reverse=True)  # type: ignore[type-var]
    assert len(set(needs)) == len(needs)


def test_disagreement_first_and_the_audit_last() -> None:
    order = [
        label(crops_right=False, full_right=True, sufficiency=1.0),
        label(sufficiency=0.25),
        label(sufficiency=1.0, cautions=("touches_border",)),
        label(sufficiency=1.0, score=0.1),
        label(sufficiency=1.0, score=0.9),
        label("auto_accepted", score=0.99),
    ]
    needs = [compute_review_priority(each, 0.05, 0.1) for each in order]
    assert needs == sorted(needs, reverse=True)  # type: ignore[type-var]
    assert len(set(needs)) == len(needs)
