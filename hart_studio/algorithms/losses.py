"""The two losses: one for all methods that learn from rewards (paper, Eq. 2 and 4), one for SFT (Eq. 8).

Eq. 2 is Eq. 4 with policy weights of 1 and KL weights of beta, so GRPO, MGPO and AP-GRPO share one function and differ
only in their credits. Rows have precomputed weights (``algorithms.weighting``): the losses add up over
micro-batches and processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hart_studio.algorithms.methods import KlEstimator


@dataclass(frozen=True)
class PolicyLoss:
    """Contribution of one micro-batch to its optimizer step. Values are weighted by row: sum them, never average."""

    loss: torch.Tensor
    """Scalar with gradient, to be minimized."""
    kl: torch.Tensor | None
    """Scalar without gradient: KL to reference policy per token, before ``kl_weight``; None without a reference."""
    clipped: torch.Tensor
    """Scalar: number of trained tokens whose ratio is clipped, so that they have no policy gradient."""


def policy_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor | None,
    ref_logps: torch.Tensor | None,
    mask: torch.Tensor,
    *,
    row_weight: torch.Tensor,
    advantage: torch.Tensor,
    policy_weight: torch.Tensor,
    kl_weight: torch.Tensor,
    clip_epsilon: float,
    clip_epsilon_high: float | None = None,
    kl_estimator: KlEstimator = "k3",
) -> PolicyLoss:
    r"""Eq. 4, and with ``policy_weight`` 1 and ``kl_weight`` beta Eq. 2, as a loss (the negative of J).

    Per token, with ``ratio = exp(logps - old_logps)``:

        -policy_weight * min(ratio * A, clip(ratio, 1 - clip_epsilon, 1 + clip_epsilon_high) * A) + kl_weight * KL

    The objective in the paper has no clip; PPO clipping as in TRL is a project default. With ``d = logps - ref`` the
    estimators of KL are ``k1 = d``, which may be negative and whose expected gradient is zero; ``k2 = d^2 / 2``; and
    ``k3 = exp(-d) + d - 1``, which is never negative. TRL's correction of the gradient of k3 is not applied.

    Args:
        logps: ``[B, T]`` log-probabilities of the row's tokens under the policy, float32 or float64, with gradient.
        old_logps: ``[B, T]`` the same under the policy that sampled them; None = the same policy, so every
            ratio is 1 and its gradient that of ``logps``.
        ref_logps: ``[B, T]`` the same under the reference policy; None if every ``kl_weight`` is 0.
        mask: ``[B, T]`` bool, True = trained. Other values are ignored, even NaN.
        row_weight: ``[B]`` from ``weighting.row_weights``.
        advantage: ``[B]`` A_i of the row's rollout (Eq. 1).
        policy_weight: ``[B]`` mu1 of the row's rollout (Eq. 5).
        kl_weight: ``[B]`` mu2 of the row's rollout (Eq. 6).
        clip_epsilon: Distance of the lower clip from 1, 0 or more.
        clip_epsilon_high: Distance of the upper clip from 1 (DAPO's clip-higher); None = ``clip_epsilon``.
        kl_estimator: Estimator of KL.

    Raises:
        ValueError: If a shape is wrong, or if a KL weight needs a missing reference.
    """
    _check_shapes(logps, {"old_logps": old_logps, "ref_logps": ref_logps, "mask": mask}, logps.shape)
    weights = {"row_weight": row_weight, "advantage": advantage, "policy_weight": policy_weight, "kl_weight": kl_weight}
    _check_shapes(logps, weights, logps.shape[:1])
    if ref_logps is None and bool(kl_weight.any()):
        raise ValueError("kl_weight above 0 needs ref_logps; score the rows with the reference policy")

    token_weight = row_weight[:, None] * mask
    row_advantage = advantage[:, None]
    ratio = _log_ratio(logps, logps.detach() if old_logps is None else old_logps, mask).exp()
    high = clip_epsilon if clip_epsilon_high is None else clip_epsilon_high
    clipped_ratio = ratio.clamp(1 - clip_epsilon, 1 + high)
    gain = torch.minimum(ratio * row_advantage, clipped_ratio * row_advantage)
    is_clipped = mask & (clipped_ratio * row_advantage < ratio * row_advantage)
    token_loss = -policy_weight[:, None] * gain
    kl = None
    if ref_logps is not None:
        token_kl = _token_kl(_log_ratio(logps, ref_logps, mask), kl_estimator)
        token_loss = token_loss + kl_weight[:, None] * token_kl
        kl = (token_weight * token_kl.detach()).sum()
    return PolicyLoss((token_weight * token_loss).sum(), kl, is_clipped.sum())


def sft_loss(logps: torch.Tensor, mask: torch.Tensor, *, row_weight: torch.Tensor) -> torch.Tensor:
    """Eq. 8: cross-entropy of the answer tokens, with the full image visible.

    Eq. 8 sums over the tokens of an answer. Project default: with ``weighting.row_weights``, each answer is averaged
    over its tokens, so that long answers do not outweigh short ones; weights of ``1 / samples`` are Eq. 8 as written.

    Args:
        logps: ``[B, T]`` log-probabilities of the tokens under the model, with gradient.
        mask: ``[B, T]`` bool, True = a token of the answer. Other values are ignored.
        row_weight: ``[B]`` from ``weighting.row_weights``, each sample is a separate rollout.

    Returns:
        Scalar with gradient; losses of micro-batches add up.

    Raises:
        ValueError: If a shape is wrong.
    """
    _check_shapes(logps, {"mask": mask}, logps.shape)
    _check_shapes(logps, {"row_weight": row_weight}, logps.shape[:1])
    return -(row_weight[:, None] * logps.masked_fill(~mask, 0)).sum()


def _token_kl(log_ratio: torch.Tensor, estimator: KlEstimator) -> torch.Tensor:
    """KL per token from ``logps - ref_logps``."""
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    return (-log_ratio).exp() + log_ratio - 1


def _log_ratio(above: torch.Tensor, below: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``above - below`` where trained, 0 elsewhere: padding may contain NaN, and NaN times 0 is NaN."""
    return (above - below).masked_fill(~mask, 0)


def _check_shapes(logps: torch.Tensor, tensors: Mapping[str, torch.Tensor | None], shape: torch.Size) -> None:
    """Refuse shapes that torch would silently broadcast."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"expected {name} of shape {list(shape)} beside logps {list(logps.shape)}, got {list(tensor.shape)}"
            )
