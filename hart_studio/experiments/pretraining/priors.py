"""Priors in the initial weights of the built-in model.

Patch positions, order of numbers, patch statistics: large models learn these from data; a model this small
does not leave its plateau without them.
"""

from __future__ import annotations

import math

import torch
from transformers import Qwen3VLForConditionalGeneration


def _sine_cosine(values: torch.Tensor, width: int, longest_period: float) -> torch.Tensor:
    """Sine-cosine code of scalar values: ``[N]`` -> ``[N, width]`` in [-1, 1]."""
    frequencies = torch.exp(torch.linspace(0, -math.log(longest_period), width // 2))
    angles = values[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def set_width_scaled_weights(model: Qwen3VLForConditionalGeneration) -> None:
    """Linear layers <- normal with standard deviation 1 / sqrt(inputs), half of it in the output layer of a block.

    The default 0.02 suits widths of thousands; at 128 the output of each block is close to zero. The embedding table
    is also the output layer: scaled to its width, a unit of the last hidden state moves a logit by about one.
    """
    table = model.model.language_model.embed_tokens.weight
    torch.nn.init.normal_(table, std=1.0 / math.sqrt(table.shape[1]))
    for name, layer in model.model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            is_written = name.endswith(("attn.proj", "o_proj", "down_proj", "mlp.linear_fc2"))
            torch.nn.init.normal_(layer.weight, std=(0.5 if is_written else 1.0) / math.sqrt(layer.in_features))


def set_position_prior(model: Qwen3VLForConditionalGeneration) -> None:
    """Vision position table <- 2-D sine-cosine of row and column, half strength."""
    table = model.model.visual.pos_embed.weight.data
    side = math.isqrt(len(table))
    code = _sine_cosine(torch.arange(side, dtype=torch.float32), table.shape[1] // 2, longest_period=4.0 * side)
    rows = code[:, None].expand(side, side, -1)
    columns = code[None].expand(side, side, -1)
    table.copy_(0.5 * torch.cat([rows, columns], dim=-1).reshape(side * side, -1))


def set_number_prior(model: Qwen3VLForConditionalGeneration, number_ids: list[int]) -> None:
    """Embeddings of the number tokens <- sine-cosine of their value, at the scale of the other embeddings.

    A third of the code is that of the vision table, with thousandths mapped to table cells: a position and the
    number for it start a rotation apart. The rest is finer, so that adjacent numbers are distinguishable.
    """
    table: torch.Tensor = model.model.language_model.embed_tokens.weight.data
    spread = float(table.std())
    vision = model.model.visual.pos_embed.weight.data
    side = math.isqrt(len(vision))
    numbers = torch.arange(1001, dtype=torch.float32)
    shared = _sine_cosine(numbers * side / 1000 - 0.5, vision.shape[1] // 2, longest_period=4.0 * side)
    fine = _sine_cosine(numbers, table.shape[1] - shared.shape[1], longest_period=2000.0)
    table[number_ids] = torch.cat([shared, fine], dim=1) * spread * math.sqrt(2)


def set_patch_prior(model: Qwen3VLForConditionalGeneration, patches: torch.Tensor) -> None:
    """Patch embedding <- the whitened principal components of real patches, half strength.

    Raw patches differ mainly in mean color; with random filters, edges are negligible in comparison. After whitening,
    an edge has the same weight as a color, and shapes can be learned.

    Args:
        model: The model.
        patches: ``[N, features]`` normalized patches from the processor, N much larger than the width.
    """
    layer = model.model.visual.patch_embed.proj
    mean = patches.mean(dim=0)
    centered = (patches - mean).double()
    values, vectors = torch.linalg.eigh(centered.T @ centered / len(patches))
    kept = vectors[:, -layer.weight.shape[0] :] / (values[-layer.weight.shape[0] :] + 1e-4).sqrt()
    filters = 0.5 * kept.T.float()
    layer.weight.data.copy_(filters.view_as(layer.weight))
    layer.bias.data.copy_(-filters @ mean)
