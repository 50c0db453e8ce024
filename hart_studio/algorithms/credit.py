"""Credit assignment: advantages and weights from the rewards of a group (paper, Eq. 1, 5, 6). No torch.

A reward of None belongs to a rollout that could not be scored, for example because its image cannot be opened. It is
excluded from the mean and standard deviation of the group, and its credit is zero, so it does not affect training.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Final, Literal

from hart_studio.algorithms.methods import Method
from hart_studio.errors import InputError
from hart_studio.records import Credit

RewardScaling = Literal["group", "none"]
"""What the deviations of a group's rewards are divided by: their standard deviation (Eq. 1), or nothing."""

STD_EPSILON: Final = 1e-4
"""Added to the standard deviation in Eq. 1. The paper does not state it; the value is that of TRL."""


def reward_deviations(rewards: Sequence[float | None]) -> tuple[float | None, ...]:
    """``r_i - mean r`` of a group, the raw deviation of Eq. 1, 5 and 6.

    Args:
        rewards: One per rollout; None = could not be scored.

    Returns:
        One per rollout: all exactly 0.0 if all scored rewards are equal, None where the reward is None.

    Raises:
        ValueError: If a reward is not finite.
    """
    scored = [reward for reward in rewards if reward is not None]
    if not all(math.isfinite(reward) for reward in scored):
        raise ValueError(f"expected finite rewards, got {list(rewards)}; use None for rollouts without a score")
    if len(set(scored)) <= 1:  # the mean of equal numbers can differ from them by a rounding error
        return tuple(None if reward is None else 0.0 for reward in rewards)
    mean = math.fsum(scored) / len(scored)
    return tuple(None if reward is None else reward - mean for reward in rewards)


def advantages(rewards: Sequence[float | None], scale_rewards: RewardScaling = "group") -> tuple[float, ...]:
    """Eq. 1: ``A_i = (r_i - mean r) / std r``.

    As in TRL, the standard deviation divides by ``count - 1`` (Bessel), and 1e-4 is added to it. Project default.

    Args:
        rewards: One per rollout; None = could not be scored.
        scale_rewards: ``group`` = divide as in Eq. 1; ``none`` = ``r_i - mean r`` (Dr. GRPO).

    Returns:
        One per rollout; all 0.0 if all scored rewards are equal, 0.0 where the reward is None.

    Raises:
        ValueError: If a reward is not finite.
    """
    deviations = reward_deviations(rewards)
    if scale_rewards == "none":
        return tuple(deviation or 0.0 for deviation in deviations)
    known = [deviation for deviation in deviations if deviation is not None]
    variance = math.fsum(deviation**2 for deviation in known) / max(1, len(known) - 1)
    spread = math.sqrt(variance) + STD_EPSILON
    return tuple(0.0 if deviation is None else deviation / spread for deviation in deviations)


def preference_weights(
    rewards: Sequence[float | None], preference_scale: float, beta: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Eq. 5 and 6: ``mu1_i = 1 + k (r_i - mean r)`` and ``mu2_i = beta (1 - k (r_i - mean r))``.

    The deviation is the raw one, not the standardized advantage. Over the scored rollouts of a group the mean of mu1 is
    1 and the mean of mu2 is beta.

    Args:
        rewards: One per rollout; None = could not be scored.
        preference_scale: k, in [0, 1). At 0 every mu1 is exactly 1.0 and every mu2 exactly ``beta``.
        beta: Weight of the KL term, 0 or more.

    Returns:
        ``(policy_weights, kl_weights)``, one each per rollout; both 0.0 where the reward is None.

    Raises:
        InputError: If k or beta is out of range, or if the rewards differ so much that a weight would not be
            positive, which is impossible for rewards in [0, 1].
        ValueError: If a reward is not finite.
    """
    _check_preference_scale(preference_scale)
    _check_beta(beta)
    deviations = reward_deviations(rewards)
    largest = max((abs(deviation) for deviation in deviations if deviation is not None), default=0.0)
    if preference_scale * largest >= 1:
        raise InputError(
            f"expected rewards that keep the weights positive, got a deviation of {largest:g} from the group mean with "
            f"preference_scale {preference_scale:g}; scale the rewards into [0, 1] or lower preference_scale"
        )
    policy_weights = tuple(0.0 if each is None else 1.0 + preference_scale * each for each in deviations)
    kl_weights = tuple(0.0 if each is None else beta * (1.0 - preference_scale * each) for each in deviations)
    return policy_weights, kl_weights


def credit_group(
    rewards: Sequence[float | None],
    method: Method,
    *,
    preference_scale: float,
    beta: float,
    scale_rewards: RewardScaling = "group",
) -> tuple[Credit, ...]:
    """Credit of every rollout of one group.

    Args:
        rewards: One per rollout of one question; None = could not be scored.
        method: A method that learns from rewards.
        preference_scale: k of Eq. 5 and 6; ignored by GRPO and MGPO.
        beta: Weight of the KL term, 0 or more.
        scale_rewards: As in ``advantages``.

    Returns:
        One credit per rollout, in order; all zeros where the reward is None.

    Raises:
        InputError: If k or beta is out of range, or if the rewards differ too much for k.
        ValueError: If the method does not learn from rewards, or if a reward is not finite.

    Warns:
        UserWarning: If the method has preference weights and beta is 0: Eq. 6 then has no effect.
    """
    if not method.is_rl:
        raise ValueError(f"expected a method that learns from rewards, got {method.label}; it has no credit")
    if method.has_preference_weights and beta == 0:
        warnings.warn(
            f"{method.label} with beta = 0 has no KL term, so its KL weights (Eq. 6) have no effect; set beta above 0",
            stacklevel=2,
        )
    # Without preference the weights are those of k = 0, which are 1.0 and beta exactly.
    scale = preference_scale if method.has_preference_weights else 0.0
    policy_weights, kl_weights = preference_weights(rewards, scale, beta)
    values = advantages(rewards, scale_rewards)
    return tuple(
        Credit(advantage=advantage, policy_weight=policy_weight, kl_weight=kl_weight)
        for advantage, policy_weight, kl_weight in zip(values, policy_weights, kl_weights, strict=True)
    )


def _check_preference_scale(preference_scale: float) -> None:
    if not 0 <= preference_scale < 1:
        raise InputError(
            f"expected 0 <= preference_scale < 1, which keeps both weights positive, got {preference_scale:g}; "
            "the paper uses 0.15, 0.3 and 0.6"
        )


def _check_beta(beta: float) -> None:
    if not (beta >= 0 and math.isfinite(beta)):
        raise InputError(f"expected beta of at least 0, got {beta:g}; 0 disables the KL term")
