"""Evidence of a label as the review uses it: order of the queue, and answers that may be guesses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean
from typing import Final, Literal, NamedTuple

from hart_studio.labeling.records import BoxCheck, Label
from hart_studio.pipeline.verification import HIGH_GUESS_PROBABILITY, guess_probability

LOW_AGREEMENT: Final = 0.5
"""Below this sufficiency or consensus, the rollouts do not agree. Project default."""

Reason = Literal["disagreement", "no_box", "low_agreement", "caution", "unsure", "audit"]
"""Why an item needs review, highest priority first. ``disagreement``: the crop gives a wrong answer, the full image the
right one. ``low_agreement``: see ``LOW_AGREEMENT``. ``unsure``: not auto-accepted, without another reason."""

_RANKS: Final[dict[Reason, int]] = {
    "disagreement": 4, "no_box": 3, "low_agreement": 3, "caution": 2, "unsure": 1, "audit": 0,
}  # fmt: skip

SIGNIFICANCE: Final = 0.05
"""If guessing reaches a result with a greater probability, it counts as not above chance."""


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
    return check.crops_correct is False and check.full_correct is True


class ChanceLevelNotes(NamedTuple):
    """Notes on weak evidence of a label."""

    texts: tuple[str, ...]
    """One sentence per note."""
    is_weak: bool
    """Whether the answers may be guesses, or do not depend on the boxes."""


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """Return the probability of at least that many successes in independent trials.

    Args:
        successes: k, 0 to ``trials``.
        trials: n.
        probability: Of a success in one trial.
    """
    failure = 1.0 - probability
    terms: Iterator[float] = (
        math.comb(trials, count) * math.pow(probability, count) * math.pow(failure, trials - count)
        for count in range(successes, trials + 1)
    )
    return min(1.0, math.fsum(terms))


def majority_tail(votes: int, trials: int, options: int) -> float:
    """Return the probability that some option gets at least that many votes when each trial picks one at random.

    Args:
        votes: Of the option with the most votes, at least 1.
        trials: n.
        options: Options of equal probability.
    """
    # Number of ways to distribute n trials with fewer than `votes` for each option: n! times the coefficient of x^n in
    # (sum over i < votes of x^i / i!)^options, in whole numbers.
    ways = [1] + [0] * trials
    for _ in range(options):
        ways = [
            sum(math.comb(total, count) * ways[total - count] for count in range(min(votes - 1, total) + 1))
            for total in range(trials + 1)
        ]
    return 1.0 - ways[trials] / int(options**trials)


def describe_chance_level(check: BoxCheck, options: int) -> ChanceLevelNotes:
    """Describe whether the answers of a check could be guesses.

    Args:
        check: Evidence of the label.
        options: Number of options; 0 for a free-text answer, whose chance level is unknown.
    """
    texts, is_weak = [], False
    is_known = check.kind == "known_answer"
    chance = guess_probability(options)
    if options >= 2 and check.crops_correct and chance is not None and chance >= HIGH_GUESS_PROBABILITY:
        texts.append(f"Chance level with {options} options: {_percent(chance)}.")
    if options >= 2 and check.rollouts >= 2 and check.sufficiency:
        count = round(check.sufficiency * check.rollouts)
        if is_known:
            tail = binomial_tail(count, check.rollouts, 1 / options)
        else:
            tail = majority_tail(count, check.rollouts, options)
        if tail > SIGNIFICANCE:
            verb = "correct" if is_known else "in agreement"
            texts.append(
                f"Rollouts {verb}: {count} of {check.rollouts}, not above chance (p = {tail:.2f} for random guessing)."
            )
            is_weak = True
    if check.crops_correct and check.full_correct and check.necessity is False:
        texts.append("The full image gives the same answer with the boxes masked: the region is not necessary.")
        is_weak = True
    return ChanceLevelNotes(tuple(texts), is_weak)


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
