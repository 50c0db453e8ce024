"""Probability that an answer is right by chance, shown to reviewers beside the evidence of a label."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from hart_studio.labeling.records import BoxCheck
from hart_studio.pipeline.verification import HIGH_GUESS_PROBABILITY, guess_probability

SIGNIFICANCE: Final = 0.05
"""If guessing reaches a result with a greater probability, it counts as not above chance."""


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
    if options >= 2 and check.crops_right and chance is not None and chance >= HIGH_GUESS_PROBABILITY:
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
    if check.crops_right and check.full_right and check.necessity is False:
        texts.append("The full image gives the same answer with the boxes masked: the region is not necessary.")
        is_weak = True
    return ChanceLevelNotes(tuple(texts), is_weak)


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
