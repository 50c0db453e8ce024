"""Warnings about training without progress, from step metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from hart_studio.runs.config import RunConfig

STREAK_STEPS: Final = 10
"""Number of consecutive steps with a problem before a warning, once per streak. Project default."""
HIGH_KL: Final = 10.0
"""Mean KL to reference, in nats per token, above which a warning is given. Project default."""

Metrics = Mapping[str, float]


@dataclass
class _Streak:
    """A problem in consecutive steps.

    Attributes:
        is_problem: Whether the metrics of a step have the problem.
        describe: Formats the warning, from the first and last step of the streak and its outcome counts.
    """

    is_problem: Callable[[Metrics], bool]
    describe: Callable[[int, int, _OutcomeCounts], str]
    first_step: int | None = None
    is_reported: bool = False

    def check(self, step: int, metrics: Metrics, counts: _OutcomeCounts) -> str | None:
        """Add a step; return the warning if one is due."""
        if not self.is_problem(metrics):
            self.first_step, self.is_reported = None, False
            return None
        if self.first_step is None:
            self.first_step = step
            counts.clear()
        counts.add(metrics)
        if self.is_reported or step - self.first_step + 1 < STREAK_STEPS:
            return None
        self.is_reported = True
        return self.describe(self.first_step, step, counts)


class _OutcomeCounts:
    """Rollout counts of a streak by outcome."""

    NAMES: Final = ("failed_share", "no_box_share", "bad_box_share", "truncated_share", "reward_correct")

    def __init__(self, rollouts_per_step: int) -> None:
        self._per_step = rollouts_per_step
        self.clear()

    def clear(self) -> None:
        self.rollouts = 0
        self._found = dict.fromkeys(self.NAMES, 0)

    def add(self, metrics: Metrics) -> None:
        """Add the rollouts of a step; shares other than of failures are relative to rollouts without failure."""
        failed = round(self._per_step * metrics.get("failed_share", 0.0))
        self.rollouts += self._per_step
        self._found["failed_share"] += failed
        for name in self.NAMES[1:]:
            self._found[name] += round((self._per_step - failed) * metrics.get(name, 0.0))

    def __getitem__(self, name: str) -> int:
        return self._found[name]

    def __str__(self) -> str:
        return (
            f"{self['no_box_share']} without a box (no_box), {self['bad_box_share']} with an invalid box (bad_box), "
            f"{self['truncated_share']} with a turn cut off by the token limit, {self['failed_share']} failed (error)"
        )


class StepWarnings:
    """Detect streaks of steps without learning: equal rewards, failures, truncated turns, a high KL."""

    def __init__(self, config: RunConfig) -> None:
        """Create the detector.

        Args:
            config: Settings of the run.
        """
        per_step = config.schedule.rl_batch_size * config.rollout.group_size
        self._equal = _Streak(_has_equal_rewards, _describe_equal_rewards)
        self._streaks = (
            self._equal,
            _Streak(lambda metrics: metrics.get("failed_share") == 1, _describe_failures),
            _Streak(self._is_only_truncated, _describe_truncation),
            _Streak(lambda metrics: metrics.get("kl", 0.0) > HIGH_KL, _describe_kl),
        )
        self._counts = tuple(_OutcomeCounts(per_step) for _ in self._streaks)

    def check(self, step: int, metrics: Metrics) -> list[str]:
        """Add the metrics of a step.

        Args:
            step: Number of the step, counted across all stages.
            metrics: Name -> value.

        Returns:
            Warnings that are due.
        """
        if "failed_share" not in metrics:  # another update on the rollouts of an earlier step
            return []
        pairs = zip(self._streaks, self._counts, strict=True)
        found = [streak.check(step, metrics, counts) for streak, counts in pairs]
        return [text for text in found if text is not None]

    def _is_only_truncated(self, metrics: Metrics) -> bool:
        """The warning about equal rewards includes truncated turns, so it is not repeated."""
        return metrics.get("truncated_share") == 1 and not _has_equal_rewards(metrics)


def _has_equal_rewards(metrics: Metrics) -> bool:
    return metrics.get("frac_reward_zero_std") == 1


def _describe_equal_rewards(first: int, last: int, counts: _OutcomeCounts) -> str:
    scored = counts.rollouts - counts["failed_share"]
    right = counts["reward_correct"]
    if right == 0:
        what = f"none of {scored} rollouts was right"
    elif right == scored:
        what = f"all {scored} rollouts were right"
    else:
        what = f"the rollouts of every question were all right or all wrong ({right} of {scored} right)"
    return (
        f"steps {first} to {last}: {what}, so all advantages are 0 and the reward gives no gradient. Outcomes: "
        f"{counts}. {_advise(scored, right, counts)}"
    )


def _advise(scored: int, right: int, counts: _OutcomeCounts) -> str:
    if right == scored:
        return "The questions are too easy for this model. Use harder ones, or stop."
    causes = [
        (
            counts["truncated_share"],
            "turns are truncated: raise rollout.max_grounding_tokens and rollout.max_answer_tokens",
        ),
        (
            counts["no_box_share"] + counts["bad_box_share"],
            "boxes are missing or invalid: the model may not be trained to write boxes, choose another model.id",
        ),
        (
            scored - counts["no_box_share"] - counts["bad_box_share"] - right,
            "answers are wrong or unreadable: check the answer format of your data with --preflight, use easier "
            "questions, or raise rollout.group_size or rollout.temperature",
        ),
    ]
    likely = [text for count, text in sorted(causes, key=lambda cause: -cause[0]) if count > 0.1 * scored]
    return f"Likely causes, the most frequent first: {'; '.join(likely)}." if likely else ""


def _describe_failures(first: int, last: int, counts: _OutcomeCounts) -> str:
    return (
        f"steps {first} to {last}: every sample failed, so nothing is learned. Check that the images can be opened "
        "and fit the model (--preflight); the Watch tab shows the errors of recorded rollouts."
    )


def _describe_truncation(first: int, last: int, counts: _OutcomeCounts) -> str:
    return (
        f"steps {first} to {last}: the token limit cut off all {counts['truncated_share']} rollouts. Raise "
        "rollout.max_grounding_tokens and rollout.max_answer_tokens."
    )


def _describe_kl(first: int, last: int, counts: _OutcomeCounts) -> str:
    return (
        f"steps {first} to {last}: the KL to reference is above {HIGH_KL:g} nats per token, so the policy is far from "
        "its reference. Lower optim.learning_rate or raise method.beta in a new run, and compare the held-out metrics."
    )
