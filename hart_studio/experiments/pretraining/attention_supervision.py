"""Attention supervision: train attention to the target object directly.

Localizing an object by its name is learned late from answers only: a right coordinate is a weak signal about which of
fifty visual tokens is relevant. With supervision, the first half of the heads of one layer learn it early. No weights
are added to the model.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

from hart_studio.experiments.pretraining.packing import Batch

SUPERVISED_LAYER: Final = 2
"""Supervised decoder layer: the two layers before it encode the question, the one after it predicts."""


class AttentionSupervision:
    """Capture one attention layer in a forward pass and compute the loss of its first heads.

    Use as a context manager around one forward pass, then call ``loss``.
    """

    def __init__(self, model: Qwen3VLForConditionalGeneration) -> None:
        self._attention: Any = model.model.language_model.layers[SUPERVISED_LAYER].self_attn
        self._captured: dict[str, Any] = {}
        self._hook: Any = None

    def __enter__(self) -> AttentionSupervision:
        self._hook = self._attention.register_forward_pre_hook(self._capture_inputs, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _capture_inputs(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._captured = kwargs | ({"hidden_states": args[0]} if args else {})

    def loss(self, batch: Batch, mask: torch.Tensor) -> torch.Tensor:
        """Mean negative log of the attention to the target object.

        Args:
            batch: Its ``attention_*`` arrays define the targets.
            mask: ``[B, 1, S, S]`` bool attention mask.

        Returns:
            Scalar with gradient; 0 without targets.
        """
        if not len(batch.attention_rows):
            return torch.zeros(())
        rows, positions = torch.from_numpy(batch.attention_rows), torch.from_numpy(batch.attention_positions)
        query, key = self._queries_and_keys()
        heads = query.shape[1] // 2
        asked = query[rows, :heads, positions]  # [N, heads, width]
        logits = (asked[:, :, None] * key[rows, :heads]).sum(-1).float() * self._attention.scaling  # [N, heads, S]
        logits = logits.masked_fill(~mask[rows, 0, positions][:, None], -torch.inf)
        on_object = logits.masked_fill(~torch.from_numpy(batch.attention_targets)[:, None], -torch.inf)
        loss: torch.Tensor = logits.logsumexp(-1) - on_object.logsumexp(-1)
        return loss.mean()

    def _queries_and_keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``[B, heads, S, width]`` each, as computed by the layer."""
        attention, hidden = self._attention, self._captured["hidden_states"]
        shape = (*hidden.shape[:-1], -1, attention.head_dim)
        query = attention.q_norm(attention.q_proj(hidden).view(shape)).transpose(1, 2)
        key = attention.k_norm(attention.k_proj(hidden).view(shape)).transpose(1, 2)
        rotated: tuple[torch.Tensor, torch.Tensor] = apply_rotary_pos_emb(
            query, key, *self._captured["position_embeddings"]
        )
        return rotated
