"""Reward of a rollout: answer correctness, and two optional terms that are off in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hart_studio.algorithms.credit import reward_deviations
from hart_studio.algorithms.methods import Method
from hart_studio.errors import InputError
from hart_studio.geometry import area_share
from hart_studio.records import Rollout
from hart_studio.runs.config import MethodConfig


@dataclass(frozen=True)
class Reward:
    """Terms of the reward of a rollout, logged separately."""

    correct: float | None
    """r in {0, 1} of the strict extractor; None = could not be scored."""
    format: float
    """Bonus for valid boxes; 0 if off."""
    area: float
    """Penalty for the share of the image that the boxes cover, 0 or more; 0 if off."""

    @property
    def total(self) -> float | None:
        """Total reward; None = the rollout is excluded."""
        return None if self.correct is None else self.correct + self.format - self.area


def compute_reward(rollout: Rollout, image_wh: tuple[int, int], settings: MethodConfig) -> Reward:
    """Compute the reward of one rollout.

    Args:
        rollout: The rollout; its score is that of the strict extractor, 0 if there was no valid box.
        image_wh: (width, height) of the original image.
        settings: ``format_reward`` and ``area_penalty``; both are 0 without a grounding turn.
    """
    return Reward(
        correct=rollout.score.value,
        format=settings.format_reward * bool(rollout.boxes),
        area=settings.area_penalty * area_share(rollout.boxes, image_wh) if settings.area_penalty else 0.0,
    )


def check_reward_range(method: Method, settings: MethodConfig, group_size: int) -> None:
    """Refuse optional terms that could make a weight of Eq. 5 or 6 negative.

    Raises:
        InputError: If the terms are too large; checked before training.
    """
    if not (method.is_rl and method.has_preference_weights):
        return
    best, worst = 1.0 + settings.format_reward, -settings.area_penalty
    extremes: list[Sequence[float]] = [[best] + [worst] * (group_size - 1), [worst] + [best] * (group_size - 1)]
    largest = max(abs(deviation or 0.0) for rewards in extremes for deviation in reward_deviations(rewards))
    if settings.preference_scale * largest >= 1:
        raise InputError(
            f"expected preference_scale x the maximum deviation of a reward below 1, got "
            f"{settings.preference_scale:g} x {largest:g}; lower method.format_reward, method.area_penalty or "
            "method.preference_scale"
        )
