import math
import warnings
from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hart_studio.algorithms.credit import advantages, credit_group, preference_weights, reward_deviations
from hart_studio.algorithms.methods import METHODS
from hart_studio.errors import InputError
from hart_studio.records import Credit

AP_GRPO, GRPO = METHODS["ap_grpo"], METHODS["grpo"]
NOTHING = Credit(advantage=0.0, policy_weight=0.0, kl_weight=0.0)

unhurried = settings(suppress_health_check=[HealthCheck.too_slow])
binary_rewards = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=16)
some_rewards = st.lists(st.floats(0, 1) | st.none(), max_size=16)
scales = st.floats(0, 0.99)
betas = st.floats(0, 10)


def known(values: Sequence[float], rewards: Sequence[float | None]) -> list[float]:
    return [value for value, reward in zip(values, rewards, strict=True) if reward is not None]


# Eq. 1 --------------------------------------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    # mean 1/4; deviations 3/4 and -1/4; variance (9/16 + 3/16) / 3 = 1/4; standard deviation 1/2
    assert advantages([1, 0, 0, 0]) == pytest.approx([0.75 / 0.5001] + [-0.25 / 0.5001] * 3, rel=1e-15)


def test_advantages_without_scaling_are_deviations() -> None:
    assert advantages([1.0, 0.0, None, 0.0, 0.0], "none") == (0.75, -0.25, 0.0, -0.25, -0.25)
    (best, *_), (plain, *_) = (
        credit_group([1.0, 0.0], METHODS["grpo"], preference_scale=0.6, beta=0.04, scale_rewards=scaling)
        for scaling in ("none", "group")
    )
    assert best.advantage == 0.5
    assert plain.advantage == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4))


def test_an_unscored_rollout_is_left_out_of_mean_and_spread() -> None:
    # scored: 1 and 0; mean 1/2; variance (1/4 + 1/4) / 1
    right = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert advantages([1, None, 0]) == pytest.approx([right, 0, -right], rel=1e-15)
    assert reward_deviations([1, None, 0]) == (0.5, None, -0.5)


@pytest.mark.parametrize("rewards", [[], [1.0], [0, 0, 0], [1, 1], [0.1] * 3, [0.1] * 7, [None, 1, None], [None, None]])
def test_equal_rewards_have_no_advantage_at_all(rewards: list[float | None]) -> None:
    assert advantages(rewards) == (0.0,) * len(rewards)


@unhurried
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12))
def test_advantages_are_those_of_a_tensor_library(rewards: list[float]) -> None:
    values = torch.tensor(rewards, dtype=torch.float64)
    expected = (values - values.mean()) / (values.std() + 1e-4)
    assert advantages(rewards) == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_is_a_number(value: float) -> None:
    with pytest.raises(ValueError, match="expected finite rewards"):
        advantages([0.0, value])
    with pytest.raises(ValueError, match="expected finite rewards"):
        preference_weights([0.0, value], 0.6, 0.04)


# Eq. 5 and 6 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "policy", "kl_over_beta"),
    [(1, (1.45, 0.85), (0.55, 1.15)), (2, (1.30, 0.70), (0.70, 1.30)), (3, (1.15, 0.55), (0.85, 1.45))],
)
def test_weights_by_hand(right: int, policy: tuple[float, float], kl_over_beta: tuple[float, float]) -> None:
    policy_weights, kl_weights = preference_weights([1] * right + [0] * (4 - right), preference_scale=0.6, beta=0.04)
    assert policy_weights == pytest.approx([policy[0]] * right + [policy[1]] * (4 - right), rel=1e-14)
    expected = [0.04 * kl_over_beta[0]] * right + [0.04 * kl_over_beta[1]] * (4 - right)
    assert kl_weights == pytest.approx(expected, rel=1e-14)


def test_an_unscored_rollout_has_no_weight() -> None:
    policy_weights, kl_weights = preference_weights([1, None, 0], 0.6, 0.5)
    assert policy_weights == pytest.approx([1.3, 0, 0.7], rel=1e-14)
    assert kl_weights == pytest.approx([0.35, 0, 0.65], rel=1e-14)


@unhurried
@given(some_rewards, scales, betas)
def test_the_mean_weights_are_1_and_beta_and_none_is_negative(
    rewards: list[float | None], scale: float, beta: float
) -> None:
    policy_weights, kl_weights = preference_weights(rewards, scale, beta)
    policy, kl = known(policy_weights, rewards), known(kl_weights, rewards)
    if policy:
        assert math.fsum(policy) / len(policy) == pytest.approx(1, rel=1e-12)
        assert math.fsum(kl) / len(kl) == pytest.approx(beta, rel=1e-12)
    assert all(weight > 0 for weight in policy)
    assert all(weight >= 0 for weight in kl) and (beta < 1e-300 or all(weight > 0 for weight in kl))


@unhurried
@given(some_rewards, betas)
def test_without_preference_the_weights_are_exact(rewards: list[float | None], beta: float) -> None:
    policy_weights, kl_weights = preference_weights(rewards, 0.0, beta)
    assert known(policy_weights, rewards) == [1.0] * len(known(policy_weights, rewards))
    assert known(kl_weights, rewards) == [beta] * len(known(kl_weights, rewards))


@pytest.mark.parametrize("scale", [-0.01, 1.0, 1.5, math.nan])
def test_the_preference_scale_is_at_least_0_and_below_1(scale: float) -> None:
    with pytest.raises(InputError, match="0 <= preference_scale < 1"):
        preference_weights([0, 1], scale, 0.04)


@pytest.mark.parametrize("beta", [-0.01, math.nan, math.inf])
def test_beta_is_at_least_0(beta: float) -> None:
    with pytest.raises(InputError, match="expected beta of at least 0"):
        preference_weights([0, 1], 0.6, beta)


def test_rewards_too_far_apart_for_the_scale_are_refused() -> None:
    preference_weights([0, 3], 0.6, 0.04)  # 0.6 * 1.5 = 0.9
    with pytest.raises(InputError, match="got a deviation of 2 from the group mean"):
        preference_weights([0, 4], 0.6, 0.04)
    assert preference_weights([0, 4], 0.0, 0.04)[0] == (1.0, 1.0)


# Credit -------------------------------------------------------------------------------------------------------------


def test_credit_by_hand() -> None:
    # mean 1/2; deviations +-1/2; variance 4/4 / 3 = 1/3
    right, wrong, broken, _, _ = credit_group([1, 0, None, 1, 0], AP_GRPO, preference_scale=0.6, beta=0.04)
    advantage = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    expected = [(advantage, 1.3, 0.028), (-advantage, 0.7, 0.052), (0, 0, 0)]
    for credit, values in zip([right, wrong, broken], expected, strict=True):
        assert list(credit.model_dump().values()) == pytest.approx(values, rel=1e-14)
    assert broken == NOTHING


@unhurried
@given(some_rewards, betas.filter(bool))
def test_ap_grpo_without_preference_is_grpo_bit_for_bit(rewards: list[float | None], beta: float) -> None:
    without = credit_group(rewards, AP_GRPO, preference_scale=0.0, beta=beta)
    assert without == credit_group(rewards, GRPO, preference_scale=0.6, beta=beta)
    assert without == credit_group(rewards, METHODS["mgpo"], preference_scale=0.6, beta=beta)


@unhurried
@given(binary_rewards, st.integers(0, 16), scales)
def test_a_broken_rollout_changes_no_other(rewards: list[float], place: int, scale: float) -> None:
    alone = credit_group(rewards, AP_GRPO, preference_scale=scale, beta=0.04)
    broken: list[float | None] = [*rewards[:place], None, *rewards[place:]]
    credits = credit_group(broken, AP_GRPO, preference_scale=scale, beta=0.04)
    place = min(place, len(rewards))
    assert credits[place] == NOTHING
    assert credits[:place] + credits[place + 1 :] == alone


@unhurried
@given(st.permutations(range(6)), st.lists(st.floats(0, 1), min_size=6, max_size=6), scales)
def test_credit_follows_the_rollout(order: list[int], rewards: list[float], scale: float) -> None:
    credits = credit_group(rewards, AP_GRPO, preference_scale=scale, beta=0.04)
    shuffled = credit_group([rewards[index] for index in order], AP_GRPO, preference_scale=scale, beta=0.04)
    assert shuffled == tuple(credits[index] for index in order)


@unhurried
@given(binary_rewards, st.floats(0.01, 0.99))
def test_right_rollouts_weigh_more_in_the_policy_term_and_less_in_the_kl_term(
    rewards: list[float], scale: float
) -> None:
    credits = credit_group(rewards, AP_GRPO, preference_scale=scale, beta=0.04)
    for reward, credit in zip(rewards, credits, strict=True):
        if len(set(rewards)) == 1:
            assert credit == Credit(advantage=0.0, policy_weight=1.0, kl_weight=0.04)
        elif reward:
            assert credit.advantage > 0 and credit.policy_weight > 1 and credit.kl_weight < 0.04
        else:
            assert credit.advantage < 0 and credit.policy_weight < 1 and credit.kl_weight > 0.04


def test_only_ap_grpo_without_a_kl_term_warns() -> None:
    with pytest.warns(UserWarning, match="AP-GRPO with beta = 0 has no KL term"):
        credits = credit_group([0, 1], AP_GRPO, preference_scale=0.6, beta=0.0)
    assert [credit.kl_weight for credit in credits] == [0.0, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        credit_group([0, 1], GRPO, preference_scale=0.6, beta=0.0)
        credit_group([0, 1], AP_GRPO, preference_scale=0.6, beta=0.01)


def test_sft_has_no_credit() -> None:
    with pytest.raises(ValueError, match="learns from rewards, got SFT"):
        credit_group([0, 1], METHODS["sft"], preference_scale=0.6, beta=0.04)
