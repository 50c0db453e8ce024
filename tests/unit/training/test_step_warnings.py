from __future__ import annotations

import math

import pytest

from hart_studio.runs.config import RunConfig
from hart_studio.training.step_warnings import HIGH_KL, STREAK_STEPS, StepWarnings

CONFIG = RunConfig.model_validate(
    {"rollout": {"group_size": 4}, "schedule": {"rl_batch_size": 8, "rl_micro_batch_size": 8}}
)
GOOD = {"reward_correct": 0.5, "frac_reward_zero_std": 0.25, "failed_share": 0.0, "truncated_share": 0.0, "kl": 0.1}
ALL_WRONG = GOOD | {
    "reward_correct": 0.0,
    "frac_reward_zero_std": 1.0,
    "no_box_share": 0.75,
    "bad_box_share": 0.125,
    "truncated_share": 0.25,
}


def check(steps: list[dict[str, float]]) -> list[tuple[int, str]]:
    warnings = StepWarnings(CONFIG)
    return [(number, text) for number, step in enumerate(steps, start=1) for text in warnings.check(number, step)]


def test_rewards_that_are_all_zero_are_reported_once_with_the_outcomes_as_evidence() -> None:
    ((step, text),) = check([ALL_WRONG] * 35)
    assert step == STREAK_STEPS
    assert text.startswith("steps 1 to 10: none of 320 rollouts was right, so all advantages are 0")
    assert "240 without a box (no_box), 40 with an invalid box (bad_box), 80 with a turn cut off" in text
    causes = text.split("Likely causes")[1]
    assert causes.index("boxes are missing") < causes.index("turns are truncated") < causes.index("answers are wrong")


def test_a_spell_that_comes_back_is_reported_again_with_its_own_counts() -> None:
    steps = [ALL_WRONG] * 9 + [GOOD] + [ALL_WRONG] * 12 + [GOOD] + [ALL_WRONG] * 10
    assert [(number, text.split(":")[0]) for number, text in check(steps)] == [
        (20, "steps 11 to 20"),
        (33, "steps 24 to 33"),
    ]
    assert all("none of 320 rollouts" in text for _, text in check(steps))


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"frac_reward_zero_std": 1.0, "reward_correct": 1.0}, "all 320 rollouts were right"),
        ({"frac_reward_zero_std": 1.0, "reward_correct": 0.5}, "all right or all wrong (160 of 320 right)"),
        ({"frac_reward_zero_std": 1.0, "reward_correct": 0.0}, "check the answer format of your data with --preflight"),
        ({"truncated_share": 1.0}, "the token limit cut off all 320 rollouts"),
        ({"failed_share": 1.0}, "every sample failed"),
        ({"kl": HIGH_KL * 2}, "the KL to reference is above 10"),
    ],
)
def test_other_troubles_are_reported(metrics: dict[str, float], expected: str) -> None:
    ((step, text),) = check([GOOD | metrics] * 15)
    assert step == STREAK_STEPS and expected in text


def test_cut_off_rollouts_with_equal_rewards_are_reported_once() -> None:
    ((_, text),) = check([ALL_WRONG | {"truncated_share": 1.0, "no_box_share": 1.0, "bad_box_share": 0.0}] * 20)
    assert "320 with a turn cut off by the token limit" in text and "raise rollout.max_grounding_tokens" in text


def test_failed_samples_are_no_rollouts_that_were_scored() -> None:
    ((_, text),) = check([ALL_WRONG | {"failed_share": 0.5}] * 10)
    assert "none of 160 rollouts" in text and "160 failed (error)" in text and "120 without a box" in text


def test_a_training_that_learns_a_supervised_stage_and_broken_figures_say_nothing() -> None:
    assert check([GOOD] * 30) == []
    assert check([{"loss": 0.1, "failed_share": 0.0}] * 30) == []
    assert check([{"loss": math.nan, "kl": math.nan, "frac_reward_zero_std": math.nan}] * 30) == []
