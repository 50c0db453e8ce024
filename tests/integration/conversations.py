"""Conversations of all forms for tiny models, and helpers to observe model calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from hart_studio.models.chat import ChatModel, ChatRequest, Completion, ImageInput, Message, SamplingParams
from hart_studio.models.generation import LocalChatModel

GREEDY = SamplingParams(max_new_tokens=16)
WARM = SamplingParams(temperature=1.3, max_new_tokens=16, seed=7)


def make_image(model: ChatModel, width: int, height: int, seed: int = 0) -> ImageInput:
    """Noise at a low resolution, enlarged, so that a resize keeps it different from other seeds."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return ImageInput(image, *model.overview_budget)


def one_image(model: ChatModel) -> ChatRequest:
    # 168 x 112 fills a canvas of the tiny LLaVA, so that nothing is resized before its processor.
    return ChatRequest((Message("user", (make_image(model, 168, 112), "Output the coordinates.\nWhich color?")),))


def two_images_in_text(model: ChatModel) -> ChatRequest:
    parts = (
        "You can only see ",
        make_image(model, 120, 90, 1),
        make_image(model, 90, 150, 2),
        " relevant to it. Which?",
    )
    return ChatRequest((Message("user", parts),))


def two_turns(model: ChatModel) -> ChatRequest:
    return ChatRequest(
        (
            Message("user", (make_image(model, 160, 110, 3), "Where is it?")),
            Message("assistant", ('```json\n[{"bbox_2d": [1, 2, 30, 40]}]\n```',)),
            Message("user", ("The region: ", make_image(model, 70, 60, 4), "\nAnswer é🙂.")),
        )
    )


def no_image(model: ChatModel) -> ChatRequest:
    return ChatRequest((Message("user", (f"Hello {model.name[:0]}there, what is 2 + 2?",)),))


CONVERSATIONS = (one_image, two_images_in_text, two_turns, no_image)


def texts(completions: list[list[Completion]]) -> list[list[tuple[str, str, int]]]:
    return [[(one.text, one.finish_reason, one.completion_tokens) for one in group] for group in completions]


@contextmanager
def forward_ids(model: LocalChatModel) -> Iterator[list[torch.Tensor]]:
    """The ``input_ids`` of every forward call inside the block."""
    seen: list[torch.Tensor] = []

    def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["input_ids"].clone())

    handle = model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def tower_runs(model: LocalChatModel) -> Iterator[list[int]]:
    """Count the runs of the vision tower inside the block."""
    runs: list[int] = []
    core = model.model.model
    tower = core.visual if hasattr(core, "visual") else core.vision_tower
    handle = tower.register_forward_hook(lambda *_: runs.append(1))
    try:
        yield runs
    finally:
        handle.remove()
