"""Rotary position ids, shared by sampling and scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from hart_studio.models.families import Family


def rope_position_ids(
    model: PreTrainedModel, family: Family, ids: torch.Tensor, mask: torch.Tensor, grids: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """Compute position ids of padded sequences.

    Args:
        model: The model itself, without wrappers; no weights are used.
        family: Its family.
        ids: ``[rows, length]`` token ids, padded on either side.
        mask: ``[rows, length]``, 1 for tokens and 0 for padding.
        grids: ``[1, 3]`` patch grid of each image in the order of the placeholders, row by row; ignored for
            families without grid positions.

    Returns:
        ``[3, rows, length]`` on the images' patch grids, or ``[rows, length]`` for families without grid positions.
    """
    if not family.uses_mrope:
        return (mask.cumsum(-1) - 1).clamp(min=0)
    core: Any = model.model
    config: Any = model.config
    positions: torch.Tensor = core.get_rope_index(
        ids,
        mm_token_type_ids=(ids == config.image_token_id).int(),
        image_grid_thw=torch.cat([grid for grid in grids if grid is not None]) if grids else None,
        attention_mask=mask,
    )[0]
    return positions
