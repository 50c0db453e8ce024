"""Log-probabilities of labels, computed by the output head in place of logits.

The logits of one token of Qwen2.5-VL take 304 KB in bfloat16, and 608 KB as float32 copies that distributed wrappers
make of a model's outputs. So the head itself turns hidden states into log-probabilities, a chunk at a time, and the
backward pass recomputes the logits of a chunk. This happens inside the forward call of the model, where wrappers have
gathered the head's weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

HEAD_ROWS = 1024
"""Number of positions projected to the vocabulary at a time: 311 MB in bfloat16 with Qwen's. Project default."""
ROWS = 128
"""Number of rows of logits in float32 at a time, 78 MB with Qwen's vocabulary. Project default."""


class LabelHead:
    """Output head that returns log-probabilities of labels while it is installed."""

    def __init__(self, labels: torch.Tensor, temperature: float, *, with_entropies: bool = False) -> None:
        """Set the labels of the next forward call.

        Args:
            labels: ``[N]`` token ids of the positions that ``logits_to_keep`` selects, in their order.
            temperature: Divides the logits, as sampling did.
            with_entropies: Whether to compute entropies too.
        """
        self._labels = labels
        self._temperature = temperature
        self._with_entropies = with_entropies
        self._entropies: dict[int, torch.Tensor] = {}

    @property
    def entropies(self) -> torch.Tensor | None:
        """``[N]`` entropies in nats of the labels' distributions, after the forward call; None if not requested."""
        return torch.cat(list(self._entropies.values())) if self._with_entropies else None

    @contextmanager
    def installed(self, model: PreTrainedModel) -> Iterator[None]:
        """Replace the head's forward inside the block: ``[N, hidden]`` to ``[N]`` in float32 (or float64).

        Hooks of wrappers on the head still run. The backward pass may take place after the block.

        Args:
            model: The model itself, without wrappers.
        """
        head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        project, is_own = head.forward, "forward" in vars(head)

        def forward(hidden: torch.Tensor) -> torch.Tensor:
            return self._compute(project, hidden)

        head.forward = forward
        try:
            yield
        finally:
            if is_own:
                head.forward = project
            else:
                del head.forward

    def _compute(self, project: Any, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[:-1] != self._labels.shape:
            raise ValueError(f"expected hidden states of {len(self._labels)} labels, got {list(hidden.shape)}")
        parts = []
        chunks = zip(torch.split(hidden, HEAD_ROWS), torch.split(self._labels, HEAD_ROWS), strict=True)
        for number, (states, labels) in enumerate(chunks):
            arguments = (project, number, states, labels)
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._chunk, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._chunk(*arguments))
        return torch.cat(parts)

    def _chunk(self, project: Any, number: int, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = project(states)
        if self._with_entropies and number not in self._entropies:  # once, not when recomputed
            self._entropies[number] = entropies(logits, self._temperature)
        return label_logps(logits, labels, self._temperature)


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
