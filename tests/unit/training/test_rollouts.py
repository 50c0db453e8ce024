from __future__ import annotations

import pytest

from hart_studio.algorithms.methods import METHODS
from hart_studio.errors import InputError
from hart_studio.records import Box, Rollout, Score
from hart_studio.runs.config import MethodConfig
from hart_studio.training.rollouts import check_reward_range, compute_reward


def rollout(value: float | None, *boxes: tuple[float, float, float, float]) -> Rollout:
    return Rollout(
        sample_id="s",
        protocol="crops_only",
        boxes=tuple(Box.from_xyxy(box) for box in boxes),
        outcome="ok" if boxes else "no_box",
        score=Score(value=value, extracted=None, expected="A", rule="none"),
    )


def test_the_papers_reward_is_the_answer_alone() -> None:
    for value in (0.0, 1.0, None):
        reward = compute_reward(rollout(value, (0, 0, 50, 50)), (100, 100), MethodConfig())
        assert (reward.total, reward.format, reward.area) == (value, 0.0, 0.0)


def test_optional_terms_add_up_and_are_distinguished() -> None:
    settings = MethodConfig(format_reward_weight=0.2, area_penalty_weight=0.4)
    reward = compute_reward(rollout(1.0, (0, 0, 50, 50), (0, 0, 50, 50)), (100, 100), settings)
    assert (reward.correct, reward.format, reward.area) == (1.0, 0.2, pytest.approx(0.1))
    assert reward.total == pytest.approx(1.1)
    assert compute_reward(rollout(0.0), (100, 100), settings).total == 0.0
    assert compute_reward(rollout(None, (0, 0, 50, 50)), (100, 100), settings).total is None


def test_terms_that_could_turn_a_weight_negative_are_refused() -> None:
    method = METHODS["ap_grpo"]
    check_reward_range(method, MethodConfig(), 256)
    # G = 4: a lone reward of 1.6 lies 1.6 x 3/4 = 1.2 above its mean, and 0.6 x 1.2 = 0.72.
    check_reward_range(method, MethodConfig(format_reward_weight=0.6), 4)
    with pytest.raises(InputError, match=r"0\.9 x 1\.2; lower method\.format_reward_weight"):
        check_reward_range(method, MethodConfig(format_reward_weight=0.6, preference_scale=0.9), 4)
    check_reward_range(METHODS["grpo"], MethodConfig(format_reward_weight=0.6, preference_scale=0.9), 4)
