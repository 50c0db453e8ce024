"""Memory-efficient log-probabilities of labels from logits.

A float32 copy of the logits of 500 tokens with a vocabulary of 152,000 is 300 MB, and the plain formula keeps several.
Here a few rows at a time are in float32, forward and backward; only the original logits and two numbers per row are
kept.
"""

from __future__ import annotations

from typing import Any

import torch

ROWS = 128
"""Number of rows in float32 at a time, 78 MB with Qwen's vocabulary. Project default."""


def label_logps(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """``log softmax(logits / temperature)`` at the labels, with gradient.

    Args:
        logits: ``[N, vocabulary]``, any floating type.
        labels: ``[N]`` token ids.
        temperature: Divides the logits, as sampling did.

    Returns:
        ``[N]`` in float32, or in float64 for float64 logits.
    """
    logps: torch.Tensor = _LabelLogps.apply(logits, labels, temperature)
    return logps


@torch.no_grad()
def entropies(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Entropy of ``softmax(logits / temperature)`` in nats, without gradient.

    Args:
        logits: ``[N, vocabulary]``; -inf is a probability of zero.
        temperature: Divides the logits.

    Returns:
        ``[N]`` in float32, or in float64 for float64 logits.
    """
    parts = [torch.special.entr(_scale(part, temperature).softmax(-1)).sum(-1) for part in torch.split(logits, ROWS)]
    return torch.cat(parts)


def _scale(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature


class _LabelLogps(torch.autograd.Function):
    """d log p(label) / d logits = (one_hot(label) - softmax(logits / T)) / T, a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
        chosen, norms = [], []
        for part, wanted in zip(torch.split(logits, ROWS), torch.split(labels, ROWS), strict=True):
            scaled = _scale(part, temperature)
            norms.append(scaled.logsumexp(-1))
            chosen.append(scaled.gather(-1, wanted[:, None]).squeeze(-1))
        norm = torch.cat(norms)
        ctx.save_for_backward(logits, labels, norm)
        ctx.temperature = temperature
        return torch.cat(chosen) - norm

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits, labels, norm = ctx.saved_tensors
        slopes = grads[0][:, None] / ctx.temperature
        result = torch.empty_like(logits)
        for start in range(0, len(logits), ROWS):
            rows = slice(start, start + ROWS)
            probabilities = (_scale(logits[rows], ctx.temperature) - norm[rows, None]).exp_()
            part = probabilities.mul_(-slopes[rows]).scatter_add_(1, labels[rows, None], slopes[rows])
            result[rows] = part
        return result, None, None
