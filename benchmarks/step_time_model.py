"""Shared setup of ``benchmarks.step_time``: a random model, an image, completions of fixed length with boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from hart_studio.experiments.pretraining.tiny_model import build_tokenizer
from hart_studio.models.chat import ChatRequest, Completion, SamplingParams
from hart_studio.prompts import GROUNDING_INSTRUCTION
from hart_studio.training.trainable_model import TrainableModel

TOKEN_SIDE = 28
"""Side of one visual token of Qwen2.5-VL, pixels."""
QUESTION, CHOICES = "Which character is on the red star?", ("A", "K", "2", "7")


@dataclass(frozen=True)
class Sizes:
    """Sizes of the setup.

    Attributes:
        overview_side: Visual tokens along each side of the overview.
        zoom: Side of the original over the side of the overview.
        crop_tokens: Minimum and maximum number of visual tokens of a crop.
        group_size: Completions per prompt, G.
        turn_tokens: Tokens per completion of a turn.
        text: Configuration of the language model.
        vision: Configuration of the vision tower.
    """

    overview_side: int
    zoom: int
    crop_tokens: tuple[int, int]
    group_size: int
    turn_tokens: int
    text: dict[str, Any]
    vision: dict[str, Any]

    @property
    def overview_max_pixels(self) -> int:
        """Area of the overview, pixels."""
        return (self.overview_side * TOKEN_SIDE) ** 2

    @property
    def crop_grids(self) -> list[tuple[int, int]]:
        """(columns, rows) of visual tokens of the crops, with aspect ratios up to 2, by area."""
        least, most = self.crop_tokens
        sides = range(1, self.overview_side + 1)
        grids = [(c, r) for c in sides for r in sides if least <= c * r <= most and max(c, r) <= 2 * min(c, r)]
        return sorted(grids, key=lambda grid: (grid[0] * grid[1], grid))


FULL = Sizes(
    overview_side=30,
    zoom=4,
    crop_tokens=(160, 256),
    group_size=8,
    turn_tokens=32,
    text={
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 2048,
        "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6},
    },
    vision={
        "depth": 8,
        "hidden_size": 320,
        "num_heads": 8,
        "intermediate_size": 1280,
        "out_hidden_size": 512,
        "fullatt_block_indexes": [3, 7],
    },
)
"""About 50 million weights. Per visual token the tower costs 1.85 times the language model's work; in Qwen2.5-VL-7B it
is 0.39 times. A heavier tower favors the trainers of HART Studio, which run it less often: see ``LIGHT``."""
LIGHT = replace(
    FULL,
    vision={
        **FULL.vision,
        "depth": 5,
        "hidden_size": 192,
        "num_heads": 4,
        "intermediate_size": 512,
        "fullatt_block_indexes": [4],
    },
)
"""The same language model with a tower that costs 0.35 times its work per visual token, near the 7B model's 0.39."""
SMALL = Sizes(
    overview_side=8,
    zoom=4,
    crop_tokens=(8, 12),
    group_size=4,
    turn_tokens=48,
    text={
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e6},
    },
    vision={
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 4,
        "intermediate_size": 64,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    },
)


@dataclass(frozen=True)
class Setup:
    """Setup of a trainer.

    Attributes:
        sizes: Sizes.
        model: Folder of the model.
        image: The original.
        vanilla_rows: Rows of a micro-batch of TRL's own trainer.
    """

    sizes: Sizes
    model: Path
    image: Path
    vanilla_rows: int


def make_setup(sizes: Sizes, folder: Path, vanilla_rows: int = 0) -> Setup:
    """Write model and image into a folder.

    Args:
        sizes: Sizes.
        folder: Created if missing.
        vanilla_rows: See ``Setup``; 0 = the whole group, as in the preset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return Setup(
        sizes, save_model(sizes, folder / "model"), save_image(sizes, folder), vanilla_rows or sizes.group_size
    )


def save_model(sizes: Sizes, folder: Path) -> Path:
    """Save a Qwen2.5-VL of random weights with its processor; each word of the prompts is one token."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
            ("image_token_id", "<|image_pad|>"),
            ("video_token_id", "<|video_pad|>"),
        )
    }
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    text = {**sizes.text, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 8192}
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=sizes.vision, **ids))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    budget = {"shortest_edge": 4 * TOKEN_SIDE**2, "longest_edge": sizes.overview_max_pixels}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=budget),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_image(sizes: Sizes, folder: Path) -> Path:
    """Draw the original as a JPEG; its file size is similar to a photograph."""
    side = sizes.overview_side * TOKEN_SIDE * sizes.zoom
    coarse = np.random.default_rng(0).integers(0, 256, (side // 14, side // 14, 3), dtype=np.uint8)
    path = folder / "original.jpg"
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


class ScriptedModel(TrainableModel):
    """A policy of random weights with fixed-length completions, scripted boxes, and correct answers half of the time.

    Sampling runs to the token limit. Afterwards the completion of a grounding turn is replaced by a box and padding
    of exactly as many tokens, text and token ids alike, because the prompt of the answer turn of MGPO contains that
    text. Of an answer turn only the text for scoring is replaced: training scores the sampled tokens.
    """

    def __init__(self, model: torch.nn.Module, processor: Any, sizes: Sizes) -> None:
        super().__init__(model, processor, "policy")
        self._unsampled_ids = torch.cat([self._unsampled_ids, self._stop_ids])
        self._sizes = sizes

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        """As ``TrainableModel.generate``, with scripted outputs."""
        sampled = super().generate(requests, sampling, group_size)
        count = len(requests) * group_size
        written = []
        for number, (request, group) in enumerate(zip(requests, sampled, strict=True)):
            write = self._point if is_grounding(request) else _answer
            written.append(
                [write(completion, number * group_size + index, count) for index, completion in enumerate(group)]
            )
        return written

    def _point(self, completion: Completion, index: int, count: int) -> Completion:
        grids = self._sizes.crop_grids
        size_wh = [side * TOKEN_SIDE // self._sizes.zoom for side in grids[index * len(grids) // count]]
        low = [
            (whole - part) * index // count for whole, part in zip(completion.image_sizes_wh[0], size_wh, strict=True)
        ]
        box = [max(0, edge) for edge in (*low, *(edge + part for edge, part in zip(low, size_wh, strict=True)))]
        encode = partial(self.processor.tokenizer.encode, add_special_tokens=False)
        text = json.dumps([{"bbox_2d": box, "label": "star"}])
        text += "!" * (len(completion.token_ids) - 1 - len(encode(text)))  # no token of the vocabulary has two of them
        ids = (*encode(text), self.processor.tokenizer.eos_token_id)
        if len(ids) != len(completion.token_ids):
            raise ValueError(f"expected a box of {len(completion.token_ids)} tokens, got {len(ids)}; raise turn_tokens")
        return replace(completion, text=text, token_ids=ids, finish_reason="stop")


def is_grounding(request: ChatRequest) -> bool:
    """Whether a request is a grounding turn."""
    return any(isinstance(part, str) and GROUNDING_INSTRUCTION in part for part in request.messages[-1].parts)


def _answer(completion: Completion, index: int, _count: int) -> Completion:
    return replace(completion, text=f"\\boxed{{{CHOICES[index % 2]}}}")
