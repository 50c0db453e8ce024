"""Rotary positions, compared with hand-written values; padding does not change them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hart_studio.models.features import rope_position_ids
from hart_studio.models.generation import LocalChatModel

GRID = torch.tensor([[1, 4, 6]])  # patches; two by three visual tokens
WIDE = torch.tensor([[1, 2, 4]])  # one by two

# text text [2 x 3] text [1 x 2] text: after an image, text continues one beyond its longest side.
BY_HAND = [
    [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 6, 8],
    [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 6, 8],
    [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8],
]


def sequence(image: int) -> list[int]:
    return [65, 66, *[image] * 6, 67, *[image] * 2, 68]


@pytest.mark.integration
@pytest.mark.parametrize("key", ["qwen2_5_vl", "qwen2_vl", "qwen3_vl"])
def test_positions_on_the_patch_grid(load_tiny: Callable[[str], LocalChatModel], key: str) -> None:
    chat = load_tiny(key)
    ids = sequence(chat.model.config.image_token_id)
    for left, right in ((0, 0), (3, 0), (0, 2)):
        padded = torch.tensor([[0] * left + ids + [0] * right, [65] * (left + len(ids) + right)])
        mask = torch.tensor([[0] * left + [1] * len(ids) + [0] * right, [1] * padded.shape[1]])
        positions = rope_position_ids(chat.model, chat.family, padded, mask, [GRID, WIDE])
        assert positions.shape == (3, 2, padded.shape[1])
        assert positions[:, 0, left : left + len(ids)].tolist() == BY_HAND
        assert positions[:, 1].tolist() == [list(range(padded.shape[1]))] * 3


@pytest.mark.integration
@pytest.mark.parametrize("key", ["internvl", "llava_onevision"])
def test_plain_positions_count_tokens(load_tiny: Callable[[str], LocalChatModel], key: str) -> None:
    chat = load_tiny(key)
    ids = torch.tensor([[0, 0, *sequence(chat.model.config.image_token_id)]])
    mask = torch.tensor([[0, 0, *[1] * 12]])
    positions = rope_position_ids(chat.model, chat.family, ids, mask, [None, None])
    assert positions.tolist() == [[0, 0, *range(12)]]
