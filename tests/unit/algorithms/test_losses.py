import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from hart_studio.algorithms.credit import credit_group
from hart_studio.algorithms.losses import PolicyLoss, policy_loss, sft_loss
from hart_studio.algorithms.methods import METHODS, KlEstimator, Method
from hart_studio.algorithms.weighting import row_weights

REWARDS: tuple[float | None, ...] = (1.0, 0.0, 0.0, 1.0, 0.0, None)
COUNTS = [3, 5, 2, 4, 6, 1, 3, 0, 2, 2, 0, 0]
"""Trained tokens of two rows for each of the six rollouts; the fourth has no answer turn, the last is broken."""
ROLLOUTS = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def batch(
    *,
    method: Method = METHODS["ap_grpo"],
    scale: float = 0.6,
    beta: float = 0.04,
    is_joint: bool = False,
    rewards: Sequence[float | None] = REWARDS,
) -> dict[str, Any]:
    """Twelve rows of a group: log-probabilities in float64 with junk where the mask is off."""
    torch.manual_seed(0)
    width = max(COUNTS) + 2
    mask = torch.arange(width)[None] < torch.tensor(COUNTS)[:, None]
    logps = -torch.rand(len(COUNTS), width, dtype=torch.float64) * 3
    old = logps + 0.3 * torch.randn(logps.shape, dtype=torch.float64)
    ref = logps + 0.5 * torch.randn(logps.shape, dtype=torch.float64)
    credits = credit_group(rewards, method, preference_scale=scale, beta=beta)
    of_row = {name: [getattr(credits[i], name) for i in ROLLOUTS] for name in type(credits[0]).model_fields}
    weights = row_weights(COUNTS, ROLLOUTS, 5, "rollout" if is_joint else "turn")
    columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in of_row.items()}
    return {
        "logps": logps.masked_fill(~mask, math.nan).requires_grad_(),
        "old_logps": old.masked_fill(~mask, math.inf),
        "ref_logps": ref.masked_fill(~mask, math.nan),
        "mask": mask,
        "row_weight": torch.tensor(weights, dtype=torch.float64),
        "clip_epsilon": 0.2,
        **columns,
    }


def take(rows: dict[str, Any], order: list[int]) -> dict[str, Any]:
    """Some rows of a batch, sharing its ``logps``."""
    return {name: value[order] if isinstance(value, torch.Tensor) else value for name, value in rows.items()}


def gradient_of(loss: torch.Tensor, rows: dict[str, Any]) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss, rows["logps"])
    return gradient


def one_token(
    logp: float,
    old: float | None,
    ref: float | None,
    *,
    clip_epsilon_high: float | None = None,
    kl_estimator: KlEstimator = "k3",
    **changes: float,
) -> tuple[PolicyLoss, float]:
    """A single token and its gradient."""
    values = {"row_weight": 1.0, "advantage": 1.0, "policy_weight": 1.0, "kl_weight": 0.0, **changes}
    logps = torch.tensor([[logp]], dtype=torch.float64, requires_grad=True)
    found = policy_loss(
        logps,
        None if old is None else torch.tensor([[old]], dtype=torch.float64),
        None if ref is None else torch.tensor([[ref]], dtype=torch.float64),
        torch.tensor([[True]]),
        clip_epsilon=0.2,
        clip_epsilon_high=clip_epsilon_high,
        kl_estimator=kl_estimator,
        **{name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()},
    )
    return found, torch.autograd.grad(found.loss, logps)[0].item()


# By hand ------------------------------------------------------------------------------------------------------------


def test_policy_term_by_hand() -> None:
    # ratio 1.1, inside of the clip: loss -mu1 * 1.1 * A, and so is its gradient
    found, gradient = one_token(math.log(1.1), 0.0, None, advantage=1.5, policy_weight=1.45, row_weight=0.25)
    assert found.loss.item() == pytest.approx(-0.25 * 1.45 * 1.1 * 1.5, rel=1e-14)
    assert gradient == pytest.approx(-0.25 * 1.45 * 1.1 * 1.5, rel=1e-14)
    assert found.kl is None


def test_kl_term_by_hand() -> None:
    # reference twice as likely: k3 = 2 - ln 2 - 1, its derivative by logps 1 - 2
    found, gradient = one_token(-1.0, -1.0, -1.0 + math.log(2), advantage=0.0, kl_weight=0.022)
    assert found.loss.item() == pytest.approx(0.022 * (1 - math.log(2)), rel=1e-13)
    assert gradient == pytest.approx(-0.022, rel=1e-13)
    assert found.kl is not None and found.kl.item() == pytest.approx(1 - math.log(2), rel=1e-13)
    assert not found.kl.requires_grad


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "is_clipped"),
    [(1.5, 2.0, 1.2 * 2, 1), (0.5, -2.0, 0.8 * -2, 1), (1.5, -2.0, 1.5 * -2, 0), (0.5, 2.0, 0.5 * 2, 0)],
)
def test_the_clip_stops_only_what_has_gone_far_enough(
    ratio: float, advantage: float, gain: float, is_clipped: int
) -> None:
    found, gradient = one_token(math.log(ratio), 0.0, None, advantage=advantage)
    assert found.loss.item() == pytest.approx(-gain, rel=1e-14)
    assert gradient == pytest.approx(0.0 if is_clipped else -ratio * advantage, rel=1e-14)


@pytest.mark.parametrize(("ratio", "gain", "clipped"), [(1.25, 1.25, 0), (1.5, 1.28, 1), (0.5, 0.5, 0)])
def test_the_upper_clip_may_be_wider(ratio: float, gain: float, clipped: int) -> None:
    found, gradient = one_token(math.log(ratio), 0.0, None, clip_epsilon_high=0.28)
    assert found.loss.item() == pytest.approx(-gain, rel=1e-14)
    assert int(found.clipped) == clipped
    assert gradient == pytest.approx(0.0 if clipped else -ratio, rel=1e-14)


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    # d = logps - ref = -ln 2: k1 = d, k2 = d^2 / 2, k3 = e^-d + d - 1; their derivatives 1, d, 1 - e^-d
    [("k1", -math.log(2), 1.0), ("k2", math.log(2) ** 2 / 2, -math.log(2)), ("k3", 1 - math.log(2), -1.0)],
)
def test_kl_estimators_by_hand(estimator: KlEstimator, value: float, slope: float) -> None:
    found, gradient = one_token(-1.0, -1.0, -1.0 + math.log(2), advantage=0.0, kl_weight=0.5, kl_estimator=estimator)
    assert found.kl is not None and found.kl.item() == pytest.approx(value, rel=1e-13)
    assert found.loss.item() == pytest.approx(0.5 * value, rel=1e-13)
    assert gradient == pytest.approx(0.5 * slope, rel=1e-13)


def test_without_old_log_probabilities_the_policy_is_its_own_sampler() -> None:
    found, gradient = one_token(-2.0, None, None, advantage=0.7, policy_weight=1.3)
    assert (found.loss.item(), gradient) == pytest.approx((-0.91, -0.91), rel=1e-14)


# Eq. 4 against a formula of its own ---------------------------------------------------------------------------------


def expected_loss_and_gradient(rows: dict[str, Any], is_joint: bool) -> tuple[float, torch.Tensor]:
    """Eq. 4, 5 and 6 written out in plain numbers: rewards in, derivative by derivative out."""
    k, beta, clip, steps = 0.6, 0.04, 0.2, 5
    scored = [reward for reward in REWARDS if reward is not None]
    mean = sum(scored) / 5
    std = (sum((reward - mean) ** 2 for reward in scored) / 4) ** 0.5
    total, gradient = 0.0, torch.zeros(rows["logps"].shape, dtype=torch.float64)
    for row, (count, rollout) in enumerate(zip(COUNTS, ROLLOUTS, strict=True)):
        reward = REWARDS[rollout]
        if reward is None:
            continue
        a = (reward - mean) / (std + 1e-4)
        mu1, mu2 = 1 + k * (reward - mean), beta * (1 - k * (reward - mean))
        turns = [c for c, r in zip(COUNTS, ROLLOUTS, strict=True) if r == rollout and c]
        weight = 1 / (steps * sum(turns)) if is_joint else 1 / (steps * len(turns) * max(1, count))
        for t in range(count):
            pi, old, ref = (rows[name][row, t].item() for name in ("logps", "old_logps", "ref_logps"))
            ratio = math.exp(pi - old)
            stopped = ratio > 1 + clip if a > 0 else ratio < 1 - clip
            surrogate = (1 + clip if a > 0 else 1 - clip) * a if stopped else ratio * a
            kl = math.exp(ref - pi) - (ref - pi) - 1
            total += weight * (-mu1 * surrogate + mu2 * kl)
            gradient[row, t] = weight * ((0 if stopped else -mu1 * ratio * a) + mu2 * (1 - math.exp(ref - pi)))
    return total, gradient


@pytest.mark.parametrize("is_joint", [False, True])
def test_loss_and_gradient_are_those_of_the_formula(is_joint: bool) -> None:
    rows = batch(is_joint=is_joint)
    found = policy_loss(**rows)
    loss, gradient = expected_loss_and_gradient(rows, is_joint)
    assert found.loss.item() == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(gradient_of(found.loss, rows), gradient, rtol=1e-12, atol=1e-15)
    is_far = (rows["logps"] - rows["old_logps"]).abs()[rows["mask"]] > math.log(1 / 0.8)
    assert is_far.any() and not is_far.all(), "the batch has clipped tokens and others"


def test_the_gradient_is_that_of_finite_differences() -> None:
    rows = batch()
    inside = torch.where(rows["mask"], rows.pop("logps").detach(), 0.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda logps: policy_loss(logps=logps, **rows).loss, (inside,))


# Invariants ---------------------------------------------------------------------------------------------------------


def test_ap_grpo_without_preference_is_grpo_bit_for_bit() -> None:
    own, reference = batch(scale=0.0), batch(method=METHODS["grpo"])
    loss, expected = policy_loss(**own).loss, policy_loss(**reference).loss
    assert torch.equal(loss, expected)
    assert torch.equal(gradient_of(loss, own), gradient_of(expected, reference))
    assert not torch.equal(loss, policy_loss(**batch()).loss), "preference does something"


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_an_all_equal_group_leaves_the_kl_term_alone(reward: float) -> None:
    rows = batch(rewards=[reward] * 6)
    found = policy_loss(**rows)
    assert found.kl is not None
    assert found.loss.item() == pytest.approx(0.04 * found.kl.item(), rel=1e-12)
    pull = rows["row_weight"][:, None] * 0.04 * (1 - (rows["ref_logps"] - rows["logps"]).exp())
    expected = torch.where(rows["mask"], pull, 0.0).detach()
    torch.testing.assert_close(gradient_of(found.loss, rows), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("parts", [[12], [5, 7], [1] * 12])
def test_rows_count_the_same_however_they_are_shuffled_and_split(parts: list[int]) -> None:
    rows = batch()
    whole = policy_loss(**rows)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3)).tolist()
    pieces = [policy_loss(**take(rows, part)) for part in torch.tensor(order).split(parts) for part in [part.tolist()]]
    loss = torch.stack([piece.loss for piece in pieces]).sum()
    torch.testing.assert_close(loss, whole.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_of(loss, rows), gradient_of(whole.loss, rows), rtol=1e-12, atol=1e-15)
    kls = [piece.kl.item() for piece in pieces if piece.kl is not None]
    assert whole.kl is not None and sum(kls) == pytest.approx(whole.kl.item(), rel=1e-12)


def test_a_broken_rollout_moves_nothing_even_when_its_rows_are_trained() -> None:
    rows = batch()
    rows["mask"][10:, 0] = True
    rows["row_weight"][10:] = 1.0
    rows["logps"] = rows["logps"].detach().nan_to_num(nan=-1.0).requires_grad_()
    rows["old_logps"], rows["ref_logps"] = rows["logps"].detach() - 0.1, rows["logps"].detach() + 0.1
    assert gradient_of(policy_loss(**rows).loss, rows)[10:].eq(0).all()


def test_what_is_not_trained_is_never_read() -> None:
    rows = batch()
    found = policy_loss(**rows)
    assert rows["logps"].isnan().any() and found.loss.isfinite()
    assert gradient_of(found.loss, rows)[~rows["mask"]].eq(0).all()


def test_a_micro_batch_with_nothing_to_train_has_a_loss_of_zero_with_a_gradient() -> None:
    rows = take(batch(), [7, 10, 11])
    loss = policy_loss(**rows).loss
    assert loss.item() == 0.0
    assert gradient_of(loss, rows).eq(0).all()


# Refusals -----------------------------------------------------------------------------------------------------------


def test_a_kl_weight_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="kl_weight above 0 needs ref_logps"):
        policy_loss(**{**batch(), "ref_logps": None})
    without = {**batch(method=METHODS["grpo"], beta=0.0), "ref_logps": None}
    assert policy_loss(**without).kl is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [("old_logps", (12, 1)), ("mask", (12,)), ("ref_logps", (8,)), ("advantage", (12, 1)), ("kl_weight", (1,))],
)
def test_nothing_is_broadcast(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"expected {name} of shape .* beside logps \[12, 8\], got \["):
        policy_loss(**{**batch(), name: torch.ones(shape, dtype=torch.float64)})


# Eq. 8 --------------------------------------------------------------------------------------------------------------


def test_sft_by_hand() -> None:
    logps = torch.tensor([[-1.0, -2.0, math.nan], [-4.0, -0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, True, True]])
    weights = row_weights([2, 2], [0, 1], 2, "turn")
    loss = sft_loss(logps, mask, row_weight=torch.tensor(weights, dtype=torch.float64))
    assert loss.item() == pytest.approx((1.5 + 0.5) / 2)
    (gradient,) = torch.autograd.grad(loss, logps)
    assert gradient.tolist() == [[-0.25, -0.25, 0], [0, -0.25, -0.25]]


def test_sft_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 6, 0, 3, 3])
    logps = logits.log_softmax(-1).gather(-1, labels[:, None]).T
    loss = sft_loss(logps, torch.ones(1, 5, dtype=torch.bool), row_weight=torch.tensor([1 / 5], dtype=torch.float64))
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(loss, expected)
    (own,), (reference,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(own, reference)


def test_sft_refuses_what_would_be_broadcast() -> None:
    logps, mask = torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"expected row_weight of shape \[2\]"):
        sft_loss(logps, mask, row_weight=torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"expected mask of shape \[2, 2\]"):
        sft_loss(logps, mask[:1], row_weight=torch.ones(2))
