"""Build a message from prompt parts and images, and record the turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hart_studio.models.chat import ChatRequest, Completion, ImageInput, Message
from hart_studio.prompts import IMAGE, PromptPart, as_text
from hart_studio.records import Turn


def compose_message(prompt: Sequence[PromptPart], images: Sequence[ImageInput]) -> Message:
    """Insert the images into the placeholders of a prompt.

    Args:
        prompt: Texts and image placeholders, from ``hart_studio.prompts``.
        images: One image per placeholder, in order of appearance.

    Returns:
        The user message.

    Raises:
        ValueError: If the numbers of placeholders and images differ.
    """
    slots = sum(not isinstance(part, str) for part in prompt)
    if slots != len(images):
        raise ValueError(f"expected one image per slot, got {len(images)} images for {slots} slots")
    waiting = iter(images)
    return Message("user", tuple(part if isinstance(part, str) else next(waiting) for part in prompt))


def record_turn(kind: Literal["grounding", "answer"], request: ChatRequest, completion: Completion) -> Turn:
    """Record one model call.

    Args:
        kind: Step of the closed loop.
        request: The conversation; its last message becomes ``prompt``. Earlier messages are separate turns.
        completion: Output of the model. Its image sizes and token counts cover the WHOLE conversation, so the answer
            turn of ``full_and_crops`` lists and counts the overview again: the model processes it twice.

    Returns:
        The turn.
    """
    return Turn(
        kind=kind,
        prompt=as_text([part if isinstance(part, str) else IMAGE for part in request.messages[-1].parts]),
        image_sizes_wh=completion.image_sizes_wh,
        text=completion.text,
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        visual_tokens=completion.visual_tokens,
        completion_tokens=completion.completion_tokens,
        seconds=completion.seconds,
    )
