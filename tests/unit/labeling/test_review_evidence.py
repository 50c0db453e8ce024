from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest

from hart_studio.labeling.records import Label
from hart_studio.labeling.review_evidence import (
    binomial_tail,
    compute_review_priority,
    describe_chance_level,
    get_review_reason,
    majority_tail,
)
from tests.unit.labeling.conftest import make_check


def label(status: str = "proposed", score: float | None = 0.5, **check: object) -> Label:
    return Label(
        revision=1, status=status, origin="model", score=score, at=datetime.now(UTC),  # type: ignore[arg-type]
        check=make_check(**check) if check else None,
    )  # fmt: skip


def test_reasons() -> None:
    assert get_review_reason(label(crops_correct=False, full_correct=True), 0.5, 0.1) == "disagreement"
    assert (
        get_review_reason(label(crops_correct=True, full_correct=True, sufficiency=0.25), 0.5, 0.1) == "low_agreement"
    )
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
        label(crops_correct=False, full_correct=True, sufficiency=1.0),
        label(sufficiency=0.25),
        label(sufficiency=1.0, cautions=("touches_border",)),
        label(sufficiency=1.0, score=0.1),
        label(sufficiency=1.0, score=0.9),
        label("auto_accepted", score=0.99),
    ]
    needs = [compute_review_priority(each, 0.05, 0.1) for each in order]
    assert needs == sorted(needs, reverse=True)  # type: ignore[type-var]
    assert len(set(needs)) == len(needs)


@pytest.mark.parametrize(("successes", "trials", "options"), [(0, 4, 3), (1, 4, 3), (3, 5, 2), (5, 5, 4), (2, 2, 2)])
def test_the_tail_is_the_share_of_all_guesses(successes: int, trials: int, options: int) -> None:
    guesses = list(product(range(options), repeat=trials))
    share = sum(guess.count(0) >= successes for guess in guesses) / len(guesses)
    assert binomial_tail(successes, trials, 1 / options) == pytest.approx(share)


@pytest.mark.parametrize(("votes", "trials", "options"), [(1, 3, 4), (2, 4, 3), (3, 4, 2), (4, 4, 4), (3, 6, 3)])
def test_a_majority_of_guesses(votes: int, trials: int, options: int) -> None:
    guesses = list(product(range(options), repeat=trials))
    share = sum(max(guess.count(option) for option in range(options)) >= votes for guess in guesses) / len(guesses)
    assert majority_tail(votes, trials, options) == pytest.approx(share)


def test_two_of_eight_right_is_no_better_than_chance() -> None:
    notes = describe_chance_level(make_check(rollouts=8, sufficiency=0.25, crops_correct=True), 4)
    assert notes.is_weak
    assert notes.texts == (
        "Chance level with 4 options: 25 %.",
        "Rollouts correct: 2 of 8, not above chance (p = 0.63 for random guessing).",
    )


def test_seven_of_eight_right_is_better_than_chance() -> None:
    notes = describe_chance_level(make_check(rollouts=8, sufficiency=7 / 8, crops_correct=True), 4)
    assert (notes.texts, notes.is_weak) == (("Chance level with 4 options: 25 %.",), False)
    assert describe_chance_level(make_check(rollouts=8, sufficiency=1.0, crops_correct=True), 25) == ((), False)


def test_agreement_is_compared_with_that_of_guesses() -> None:
    # Of 4 guesses among 2 options 3 or more agree with a probability of 10 in 16.
    notes = describe_chance_level(make_check(kind="agreement", rollouts=4, sufficiency=0.75, crops_correct=True), 2)
    assert notes.is_weak
    assert notes.texts[0] == "Chance level with 2 options: 50 %."
    assert "Rollouts in agreement: 3 of 4, not above chance (p = 0.62 " in notes.texts[1]


def test_an_answer_that_needs_no_region_is_said() -> None:
    check = make_check(rollouts=0, crops_correct=True, full_correct=True, necessity=False)
    notes = describe_chance_level(check, 0)
    assert notes.is_weak and "the region is not necessary" in notes.texts[0]
    assert describe_chance_level(check.model_copy(update={"necessity": True}), 0) == ((), False)


def test_free_answers_and_wrong_ones_have_no_chance_level() -> None:
    assert describe_chance_level(make_check(rollouts=8, sufficiency=0.5, crops_correct=True), 0) == ((), False)
    assert describe_chance_level(make_check(rollouts=8, sufficiency=0.0, crops_correct=False), 4) == ((), False)
    assert describe_chance_level(make_check(rollouts=0), 4) == ((), False)
