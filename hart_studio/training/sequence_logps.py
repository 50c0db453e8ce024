"""Exact log-probabilities of sequences under a model, in one model call.

The outermost wrapper of the model is called, so data parallel, sharding, LoRA, gradient checkpointing and
autocast work as in any training step. Inputs are token ids, positions, a mask of shape [B, 1, S, S]
that transformers passes on unchanged, image features, and the positions to project to the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from hart_studio.models.families import Family
from hart_studio.models.features import rope_position_ids
from hart_studio.models.loading import get_family, unwrap_model
from hart_studio.training.label_head import LabelHead
from hart_studio.training.packing import PackedBatch, pack, tree_mask
from hart_studio.training.sequences import IGNORED, TrainingSequence
from hart_studio.training.trainable_model import DeferredVisionTower

TREE_ATTENTION: Final = ("sdpa", "eager")
"""Attention implementations that accept any mask."""


@dataclass(frozen=True, eq=False)
class SequenceLogps:
    """Log-probabilities of sequences under a model, one entry per sequence, in order.

    Attributes:
        logps: ``[trained tokens]`` log-probability of each trained token; empty for a sequence without one.
        entropies: ``[trained tokens]`` entropy in nats of the distribution that each token was drawn from, without
            gradient; None if not requested.
        prefix_sharing_blocker: Reason why prefix sharing was not used; None if it was. For the log.
    """

    logps: list[torch.Tensor]
    entropies: list[torch.Tensor] | None
    prefix_sharing_blocker: str | None


def compute_logps(
    model: torch.nn.Module,
    sequences: Sequence[TrainingSequence],
    *,
    temperature: float = 1.0,
    share: bool = True,
    with_entropies: bool = False,
) -> SequenceLogps:
    """Log-probabilities of the trained tokens of all sequences, with gradients if enabled.

    Args:
        model: The model, wrapped or not, on one device; it is called once.
        sequences: At least one; prompts and completions of any kind and length. ``packing.split_by_tokens`` makes
            batches.
        temperature: Divides the logits, as sampling did.
        share: Whether sequences of a group share their prompt. If the model does not support it,
            ``prefix_sharing_blocker`` gives the reason.
        with_entropies: Whether to compute entropies too.

    Returns:
        One entry per sequence. Without trained tokens they are empty but still part of the autograd graph.

    Raises:
        ModelError: If the model family is not supported.
        ValueError: If there are no sequences, or the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"expected a temperature above 0, got {temperature:g}; greedy text is scored at 1")
    inner = unwrap_model(model)
    family = get_family(inner)
    blocker = prefix_sharing_blocker(inner) if share else "prefix sharing is disabled"
    layout = pack(sequences, lambda group: sequence_positions(inner, family, group), share=blocker is None)
    device = inner.device
    is_label = layout.labels != IGNORED
    labels = layout.labels[is_label].to(device)
    seen = {"mm_encoder_outputs": {"image": DeferredVisionTower(inner, family, layout.images)}} if layout.images else {}
    head = LabelHead(labels, temperature, with_entropies=with_entropies)
    with head.installed(inner):
        output: Any = model(
            input_ids=layout.input_ids.to(device),
            attention_mask=attention_mask(inner, layout, device),
            position_ids=(layout.positions if family.uses_mrope else layout.positions[0]).to(device),
            use_cache=False,
            logits_to_keep=is_label.to(device),
            **seen,
        )
    return SequenceLogps(
        logps=layout.split(output.logits, len(sequences)),
        entropies=None if head.entropies is None else layout.split(head.entropies, len(sequences)),
        prefix_sharing_blocker=blocker,
    )


def prefix_sharing_blocker(model: PreTrainedModel) -> str | None:
    """Reason why a model does not support prefix sharing; None if it does.

    Args:
        model: The model itself, without wrappers.
    """
    text: Any = model.config.get_text_config()
    if text._attn_implementation not in TREE_ATTENTION:
        return (
            f"attention {text._attn_implementation!r} does not accept custom masks; {' and '.join(TREE_ATTENTION)} do"
        )
    others = sorted(set(getattr(text, "layer_types", None) or ()) - {"full_attention"})
    if others:
        return f"layers of type {', '.join(others)} need their own mask"
    core: Any = model.model
    dropped = any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in core.language_model.modules())
    if model.training and (dropped or getattr(text, "attention_dropout", 0.0) > 0):
        return "dropout would affect all completions of a group equally"
    return None


def sequence_positions(
    model: PreTrainedModel, family: Family, sequences: Sequence[TrainingSequence]
) -> list[torch.Tensor]:
    """Rotary positions of the unshared sequences, on the CPU.

    Args:
        model: The model itself, without wrappers.
        family: Its family.
        sequences: At least one.

    Returns:
        ``[axes, length]`` per sequence: three axes for families with grid positions, otherwise one.
    """
    lengths = [len(sequence.ids) for sequence in sequences]
    ids, mask = (torch.zeros(len(sequences), max(lengths), dtype=torch.long) for _ in range(2))
    for row, sequence in enumerate(sequences):
        ids[row, : lengths[row]] = torch.tensor(sequence.ids)
        mask[row, : lengths[row]] = 1
    grids = [
        None if (grid := image.grid_thw) is None else grid.cpu() for sequence in sequences for image in sequence.images
    ]
    positions = rope_position_ids(model, family, ids, mask, grids)
    positions = positions if family.uses_mrope else positions[None]
    return [positions[:, row, :length] for row, length in enumerate(lengths)]


def attention_mask(model: PreTrainedModel, layout: PackedBatch, device: torch.device) -> torch.Tensor:
    """Attention mask of a packed batch, in the format of the attention implementation.

    Args:
        model: The model itself, without wrappers.
        layout: Packed sequences.
        device: Device of the mask.

    Returns:
        Plain rows: ``[B, S]``, 1 for tokens. Shared rows: ``[B, 1, S, S]``, bool for sdpa; for eager, which would add
        True as 1, float with the minimum value at masked positions.
    """
    tree = layout.tree.to(device)
    if not layout.is_shared:
        return (tree >= 0).long()
    is_visible = tree_mask(tree, layout.branch.to(device))
    text: Any = model.config.get_text_config()
    if text._attn_implementation == "sdpa":
        return is_visible
    return torch.zeros(is_visible.shape, device=device).masked_fill(~is_visible, torch.finfo(torch.float32).min)
