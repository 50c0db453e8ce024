"""Proposition 2 (Eq. 7) on a toy policy with enumerable outcomes, so that expectations are exact.

One step: the policy picks an outcome, a region and an answer together. L = 1 when the region is the right one; r = 1
when the answer counts as right. With the image in view (baselines) a correct answer counts whatever the region. With
the image withheld it counts without the right region only if luck has it, with probability 1 - alpha.

Eq. 7 is a statement on the gradient of the expected reward. The estimator over groups (Eq. 1, 4, 5) is this gradient
times a factor that depends on the group size, on k and on the share of correct answers, but not on L. So the identity
holds for it once each side is divided by its own factor, and the weights of Eq. 5 cannot be what makes alpha: the
withheld image is. The last test says so.
"""

from __future__ import annotations

import itertools
from math import comb

import pytest
import torch

from hart_studio.algorithms.credit import credit_group
from hart_studio.algorithms.losses import policy_loss
from hart_studio.algorithms.methods import METHODS

THETA = [0.3, -0.2, 0.5, 0.1, -0.4, 0.2]
LOCALISED = [True, True, False, False, False, False]
ANSWERED = [True, False, True, False, True, False]
"""Six outcomes: one right region and two wrong ones, each with a right and a wrong answer."""

Event = tuple[int, float, float]
"""An outcome, its reward, and the probability of this reward given the outcome."""


def baseline_events() -> list[Event]:
    return [(outcome, float(right), 1.0) for outcome, right in enumerate(ANSWERED)]


def withheld_events(alpha: float) -> list[Event]:
    events: list[Event] = []
    for outcome, (localised, right) in enumerate(zip(LOCALISED, ANSWERED, strict=True)):
        if right and not localised:
            events += [(outcome, 1.0, 1 - alpha), (outcome, 0.0, alpha)]
        else:
            events.append((outcome, float(right), 1.0))
    return events


def gradient(outcomes: list[int], row_weight: list[float], advantage: list[float], weight: list[float]) -> torch.Tensor:
    """Gradient of the objective by the policy's parameters, through the loss that training uses; no KL term."""
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    logps = theta.log_softmax(-1)[outcomes][:, None]
    columns = {
        "row_weight": row_weight,
        "advantage": advantage,
        "policy_weight": weight,
        "kl_weight": [0.0] * len(weight),
    }
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
    found = policy_loss(logps, None, None, torch.ones_like(logps, dtype=torch.bool), clip_epsilon=0.2, **tensors)
    (of_loss,) = torch.autograd.grad(found.loss, theta)
    return -of_loss


def probabilities() -> list[float]:
    values: list[float] = torch.tensor(THETA, dtype=torch.float64).softmax(-1).tolist()
    return values


def expected_reward_gradient(events: list[Event]) -> torch.Tensor:
    """E[r grad log pi], every outcome weighing its probability."""
    pi = probabilities()
    outcomes = [outcome for outcome, _, _ in events]
    weights = [pi[outcome] * chance for outcome, _, chance in events]
    return gradient(outcomes, weights, [reward for _, reward, _ in events], [1.0] * len(events))


def group_gradient(events: list[Event], method: str, k: float, size: int) -> torch.Tensor:
    """Expectation of the group estimator: every possible group, weighing its probability."""
    pi = probabilities()
    outcomes, weights, advantages, policy_weights = [], [], [], []
    for group in itertools.product(events, repeat=size):
        chance = 1.0
        for outcome, _, given in group:
            chance *= pi[outcome] * given
        credits = credit_group([reward for _, reward, _ in group], METHODS[method], preference_scale=k, beta=0.04)
        for (outcome, _, _), credit in zip(group, credits, strict=True):
            outcomes.append(outcome)
            weights.append(chance / size)
            advantages.append(credit.advantage)
            policy_weights.append(credit.policy_weight)
    return gradient(outcomes, weights, advantages, policy_weights)


def share_right(events: list[Event]) -> float:
    pi = probabilities()
    return sum(pi[outcome] * reward * given for outcome, reward, given in events)


def factor(events: list[Event], k: float, size: int) -> float:
    """By how much the group estimator scales E[r grad log pi].

    As E[grad log pi] = 0, it is the mean of mu1 A of a right rollout minus that of a wrong one, over what the other
    ``size - 1`` rollouts may be: Eq. 1 and 5 written out.
    """
    p = share_right(events)
    total = 0.0
    for others in range(size):
        chance = comb(size - 1, others) * p**others * (1 - p) ** (size - 1 - others)
        for own, sign in ((1, 1.0), (0, -1.0)):
            mean = (others + own) / size
            std = (size * mean * (1 - mean) / (size - 1)) ** 0.5
            total += sign * chance * (1 + k * (own - mean)) * (own - mean) / (std + 1e-4)
    return total


def lucky_term() -> torch.Tensor:
    """P(L=0, r=1) E[grad log pi | L=0, r=1] of the baseline, from the softmax's own derivative."""
    pi = torch.tensor(probabilities(), dtype=torch.float64)
    total = torch.zeros_like(pi)
    for outcome, (localised, right) in enumerate(zip(LOCALISED, ANSWERED, strict=True)):
        if right and not localised:
            score = -pi.clone()
            score[outcome] += 1
            total += pi[outcome] * score
    return total


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.8, 1.0])
def test_the_identity_holds_for_the_expected_reward(alpha: float) -> None:
    withheld = expected_reward_gradient(withheld_events(alpha))
    baseline = expected_reward_gradient(baseline_events())
    torch.testing.assert_close(withheld, baseline - alpha * lucky_term(), rtol=1e-12, atol=1e-15)
    assert lucky_term().norm() > 0.01


@pytest.mark.parametrize(("alpha", "k", "size"), [(0.8, 0.6, 3), (0.25, 0.6, 2), (1.0, 0.15, 3), (0.5, 0.0, 3)])
def test_the_identity_holds_for_groups_up_to_their_factor(alpha: float, k: float, size: int) -> None:
    withheld, baseline = withheld_events(alpha), baseline_events()
    own = group_gradient(withheld, "ap_grpo", k, size) / factor(withheld, k, size)
    theirs = group_gradient(baseline, "mgpo", k, size) / factor(baseline, 0.0, size)
    torch.testing.assert_close(own, theirs - alpha * lucky_term(), rtol=1e-11, atol=1e-14)


def test_the_factor_of_a_pair_by_hand() -> None:
    # size 2: A = +-(1/2) / (sqrt(1/2) + 1e-4), mu1 = 1 +- k/2, so the factor is A (1 + k/2 (1 - 2p))
    events = baseline_events()
    p = share_right(events)
    assert factor(events, 0.6, 2) == pytest.approx(0.5 / (0.5**0.5 + 1e-4) * (1 + 0.3 * (1 - 2 * p)), rel=1e-12)


def test_the_weights_alone_do_not_distinguish_a_lucky_answer_from_a_grounded_one() -> None:
    events = baseline_events()
    weighted, plain = group_gradient(events, "ap_grpo", 0.6, 3), group_gradient(events, "grpo", 0.6, 3)
    scale = factor(events, 0.6, 3) / factor(events, 0.0, 3)
    assert abs(scale - 1) > 0.01
    torch.testing.assert_close(weighted, scale * plain, rtol=1e-11, atol=1e-14)
