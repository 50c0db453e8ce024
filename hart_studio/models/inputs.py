"""Chat requests to model inputs: image processor for images, chat template for messages.

Each image is processed separately, with its own pixel budget, because the overview and the
crops of one conversation have different budgets. The text is rendered with the chat template of the checkpoint with one
placeholder per image, which is then expanded to the number of tokens of the image.

The template decides the position of an image in the text. The Qwen and InternVL templates keep it where the
prompt has it; LLaVA-OneVision's moves the images of a message before its text, as it was trained. Control tokens
inside a text (a question that contains ``<|im_end|>`` or ``<image>``) are encoded as plain characters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import ProcessorMixin
from transformers.image_processing_utils import select_best_resolution
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from hart_studio.errors import InputError, ModelError
from hart_studio.models.chat import ChatRequest, ImageInput
from hart_studio.models.families import Family, PixelBudget

NON_VISION_KEYS = ("num_patches",)
"""Keys that image processors return for the text input only."""


@dataclass(frozen=True)
class ProcessedImage:
    """Processed image.

    Attributes:
        tensors: Arguments of the model's ``get_image_features``: ``pixel_values`` and related tensors.
        placeholder_ids: Token ids of the image placeholders in a prompt, including start and end tokens.
        visual_tokens: Number of vision tower features; image tokens among ``placeholder_ids``.
        size_wh: (width, height) in pixels of the image in the model's input. Qwen: patch grid times patch side, the
            frame of Qwen2.5-VL's boxes. InternVL: the canvas of tiles. LLaVA: the content without its padding.
    """

    tensors: dict[str, torch.Tensor]
    placeholder_ids: list[int]
    visual_tokens: int
    size_wh: tuple[int, int]

    @property
    def grid_thw(self) -> torch.Tensor | None:
        """``[1, 3]`` patch grid, for families with grid positions; None for the others."""
        return self.tensors.get("image_grid_thw")


def processor_default_budget(processor: ProcessorMixin, family: Family) -> PixelBudget:
    """Minimum and maximum area in pixels, as configured in the processor of a checkpoint."""
    images = processor.image_processor
    if family.budget_kind == "area":  # named edges, but they are areas
        return PixelBudget(images.size["shortest_edge"], images.size["longest_edge"])
    tile = images.size["height"] * images.size["width"]
    if family.budget_kind == "tiles":
        return PixelBudget(images.min_patches * tile, images.max_patches * tile)
    return PixelBudget(tile, max(height * width for height, width in images.image_grid_pinpoints))


def default_budget(own: PixelBudget, family_default: PixelBudget) -> PixelBudget:
    """Budget of the family, or of the checkpoint if it is smaller: a small model was trained on smaller images."""
    return own if own.max_pixels < family_default.max_pixels else family_default


def resized_size(size_wh: tuple[int, int], budget: PixelBudget, family: Family) -> tuple[int, int]:
    """Size at which an image is passed to the processor; most images keep their size.

    An image whose aspect ratio the processor would refuse, or that would exceed the budget, is stretched on the short
    side and not padded: box frames scale each axis separately, so stretching keeps boxes exact. An image with a side
    below ``min_side`` is enlarged.

    Args:
        size_wh: (width, height) in pixels.
        budget: Area limits in pixels.
        family: The model's family.

    Returns:
        (width, height) in pixels, equal to ``size_wh`` if no change is needed.

    Raises:
        InputError: If the budget is empty.
    """
    if not 0 < budget.min_pixels <= budget.max_pixels:
        raise InputError(
            f"expected 0 < min_pixels <= max_pixels, got {budget.min_pixels} and {budget.max_pixels}; "
            "raise max_pixels or lower min_pixels"
        )
    width, height = size_wh
    max_aspect = family.max_aspect
    if family.budget_kind == "area":  # the number of tokens of a strip one token high equals its length
        max_aspect = min(max_aspect, max(1.0, budget.max_pixels / family.resize_factor**2))
    short_side = max(width, height) / max_aspect
    fed_width, fed_height = max(width, short_side), max(height, short_side)
    scale = max(1.0, family.min_side / min(fed_width, fed_height))
    if (fed_width, fed_height) != size_wh:  # a stretched strip may be very large
        scale = min(scale, math.sqrt(budget.max_pixels / (fed_width * fed_height)))
    return max(1, round(fed_width * scale)), max(1, round(fed_height * scale))


def fit_canvas(size_wh: tuple[int, int], canvases_hw: Sequence[Sequence[int]], budget: PixelBudget) -> tuple[int, int]:
    """Size that fits the best canvas of tiles within the budget (LLaVA-OneVision).

    Processor and model each choose a canvas from the size of the image. Given an image that touches two opposite
    edges of a canvas, both choose that canvas or a smaller one that contains the image.

    Args:
        size_wh: (width, height) in pixels.
        canvases_hw: (height, width) of the canvases of the checkpoint.
        budget: Minimum and maximum area of the canvas in pixels; the smallest canvas if none is within it.

    Returns:
        (width, height) in pixels.
    """
    known = [(height, width) for height, width in canvases_hw]
    within = [hw for hw in known if budget.min_pixels <= math.prod(hw) <= budget.max_pixels]
    height, width = select_best_resolution(size_wh[::-1], within or [min(known, key=math.prod)])
    scale = min(width / size_wh[0], height / size_wh[1])
    return min(width, math.ceil(size_wh[0] * scale)), min(height, math.ceil(size_wh[1] * scale))


def process_image(processor: ProcessorMixin, family: Family, image: ImageInput, is_alone: bool) -> ProcessedImage:
    """Run the image processor on one image within its own pixel budget.

    Args:
        processor: The checkpoint's processor.
        family: The model's family.
        image: The image.
        is_alone: Whether it is the only image of its conversation; only LLaVA-OneVision then processes it differently.

    Returns:
        Tensors on the CPU and the size in the model input.
    """
    budget = PixelBudget(image.min_pixels, image.max_pixels)
    images = processor.image_processor
    size_wh = resized_size(image.pixels.size, budget, family)
    if family.budget_kind == "anyres" and is_alone:
        size_wh = fit_canvas(size_wh, images.image_grid_pinpoints, budget)
    pixels = image.pixels
    if size_wh != pixels.size:
        pixels = pixels.resize(size_wh, Image.Resampling.BICUBIC)
    if family.budget_kind == "area":
        size = {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}
        made = images(images=[pixels], size=size, return_tensors="pt")
        _, rows, columns = made["image_grid_thw"][0].tolist()
        model_wh = (columns * images.patch_size, rows * images.patch_size)
    elif family.budget_kind == "tiles":
        tile_hw = (images.size["height"], images.size["width"])
        most = max(1, budget.max_pixels // math.prod(tile_hw))
        least = max(1, min(most, budget.min_pixels // math.prod(tile_hw)))
        made = images(images=[pixels], crop_to_patches=True, min_patches=least, max_patches=most, return_tensors="pt")
        columns, rows = get_optimal_tiled_canvas(size_wh[::-1], tile_hw, least, most)
        model_wh = (columns * tile_hw[1], rows * tile_hw[0])
    else:
        # Two images in a sample disable tiling, so an image that is not alone is passed twice and kept once.
        made = images(images=[[pixels] * (1 if is_alone else 2)], return_tensors="pt")
        made["pixel_values"], made["image_sizes"] = made["pixel_values"][:1], made["image_sizes"][:1]
        scale = 1.0 if is_alone else images.size["height"] / max(size_wh)
        model_wh = (max(1, round(size_wh[0] * scale)), max(1, round(size_wh[1] * scale)))
    placeholder_ids = processor.tokenizer.encode(processor.replace_image_token(made, 0), add_special_tokens=False)
    return ProcessedImage(
        tensors={name: value for name, value in made.items() if name not in NON_VISION_KEYS},
        placeholder_ids=placeholder_ids,
        visual_tokens=placeholder_ids.count(image_token_id(processor)),
        size_wh=model_wh,
    )


def image_token_id(processor: ProcessorMixin) -> int:
    """Id of the placeholder of one visual token; InternVL lists its start and end tokens after it."""
    token_id: Any = processor.image_token_ids[0]
    return int(token_id)


def images_of(request: ChatRequest) -> list[ImageInput]:
    """List the images of a conversation in order of appearance, with repetitions."""
    return [part for message in request.messages for part in message.parts if isinstance(part, ImageInput)]


def tokenize(processor: ProcessorMixin, request: ChatRequest, placeholders: Sequence[Sequence[int]]) -> list[int]:
    """Render a conversation with the chat template and insert the image placeholders.

    Args:
        processor: The checkpoint's processor.
        request: The conversation; it must end with a user message.
        placeholders: Token ids of the placeholders of each image, in order of appearance.

    Returns:
        Token ids of the whole prompt, up to the start of the answer.

    Raises:
        InputError: If the conversation does not end with a user message, or a text cannot be encoded.
        ModelError: If the chat template fails, or drops an image.
    """
    if not request.messages or request.messages[-1].role != "user":
        raise InputError("The conversation must end with a user message. Append the question.")
    conversation = [
        {
            "role": message.role,
            "content": [
                {"type": "image"} if isinstance(part, ImageInput) else {"type": "text", "text": part}
                for part in message.parts
            ],
        }
        for message in request.messages
    ]
    try:
        ids = processor.tokenizer.apply_chat_template(
            conversation,
            chat_template=processor.chat_template,
            add_generation_prompt=True,
            sanitize_control_tokens=True,
            return_dict=False,
        )
    except ValueError as error:
        raise InputError(f"The tokenizer cannot encode the text: {error}") from error
    except TemplateError as error:
        raise ModelError(f"The chat template failed: {error}. Use the template of the checkpoint.") from error
    image_id = image_token_id(processor)
    if ids.count(image_id) != len(placeholders):
        raise ModelError(
            f"expected {len(placeholders)} images from the chat template, got {ids.count(image_id)}. "
            "The chat template of the checkpoint does not support images."
        )
    images = iter(placeholders)
    return [token for token_id in ids for token in (next(images) if token_id == image_id else (token_id,))]
