"""Inputs of the language model: features of images, and rotary position ids on their patch grids.

Features are computed once per image object and kept as long as the image exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel, ProcessorMixin

from hart_studio.models.chat import ImageInput
from hart_studio.models.families import Family
from hart_studio.models.inputs import ProcessedImage, process_image

MAX_CACHED_VISUAL_TOKENS = 65_536
"""Limit of cached visual tokens, about 0.5 GB for a 7B model; above it, a call keeps only the images it needs."""


@dataclass(frozen=True)
class EncodedImage:
    """Encoded image, the input of the language model.

    Attributes:
        placeholder_ids: Token ids of the image placeholders in a prompt.
        visual_tokens: Number of rows of ``features``.
        size_wh: (width, height) in pixels in the model's input.
        grid_thw: ``[1, 3]`` patch grid, for families with grid positions; None for the others.
        features: ``[visual_tokens, hidden]``.
        deepstack: One ``[visual_tokens, hidden]`` per layer that takes features directly (Qwen3-VL); otherwise empty.
    """

    placeholder_ids: list[int]
    visual_tokens: int
    size_wh: tuple[int, int]
    grid_thw: torch.Tensor | None
    features: torch.Tensor
    deepstack: list[torch.Tensor]


@dataclass(frozen=True)
class VisionOutput:
    """Value of ``mm_encoder_outputs["image"]`` in the forward call, for the images of a batch in row order."""

    pooler_output: torch.Tensor | list[torch.Tensor]
    deepstack_features: list[list[torch.Tensor]]


class CachedImageEncoder:
    """Encode each ``ImageInput`` object once, by identity."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, family: Family) -> None:
        self._model = model
        self._processor = processor
        self._family = family
        self._cached: WeakKeyDictionary[ImageInput, dict[bool, EncodedImage]] = WeakKeyDictionary()
        self._processed: WeakKeyDictionary[ImageInput, dict[bool, ProcessedImage]] = WeakKeyDictionary()

    def encode(self, image: ImageInput, is_alone: bool) -> EncodedImage:
        """Return the features of the image, from the cache if possible.

        Args:
            image: The image.
            is_alone: Whether it is the only image of its conversation (LLaVA-OneVision then splits it into tiles).
        """
        reading = self._reading(is_alone)
        cached = self._cached.setdefault(image, {})
        if reading not in cached:
            cached[reading] = self._run(image, reading)
        return cached[reading]

    def clear(self) -> None:
        """Clear the cache: call it when the weights have changed."""
        self._cached.clear()

    @property
    def cached_tokens(self) -> int:
        """Number of visual tokens in the cache."""
        return sum(one.visual_tokens for cached in self._cached.values() for one in cached.values())

    def trim(self, needed: Iterable[ImageInput]) -> None:
        """Evict images that are not ``needed`` if more than ``MAX_CACHED_VISUAL_TOKENS`` are cached."""
        if self.cached_tokens > MAX_CACHED_VISUAL_TOKENS:
            needed = set(needed)
            for image in list(self._cached.keys()):
                if image not in needed:
                    del self._cached[image]

    def process(self, image: ImageInput, is_alone: bool) -> ProcessedImage:
        """Return the processed image, for a caller that runs the vision tower itself; cached while the image exists.

        Args:
            image: The image.
            is_alone: See ``encode``.
        """
        reading = self._reading(is_alone)
        cached = self._processed.setdefault(image, {})
        if reading not in cached:
            cached[reading] = process_image(self._processor, self._family, image, reading)
        return cached[reading]

    def _reading(self, is_alone: bool) -> bool:
        return (
            is_alone or self._family.budget_kind != "anyres"
        )  # the others process an image the same way in both cases

    def _run(self, image: ImageInput, is_alone: bool) -> EncodedImage:
        processed = self._processed.get(image, {}).get(is_alone)
        if processed is None:
            processed = process_image(self._processor, self._family, image, is_alone)
        return encode_processed(self._model, processed)


def encode_processed(model: PreTrainedModel, image: ProcessedImage) -> EncodedImage:
    """Run the vision tower on one image, with gradients if they are enabled.

    Args:
        model: The model itself, without wrappers.
        image: From ``process_image``.

    Returns:
        Features of the image on the device of the model.
    """
    whole: Any = model
    tensors = {name: value.to(whole.device) for name, value in image.tensors.items()}
    tensors["pixel_values"] = tensors["pixel_values"].to(whole.dtype)
    output = whole.get_image_features(**tensors, return_dict=True)
    pooled = output.pooler_output
    return EncodedImage(
        placeholder_ids=image.placeholder_ids,
        visual_tokens=image.visual_tokens,
        size_wh=image.size_wh,
        grid_thw=tensors.get("image_grid_thw"),
        # InternVL returns [tiles, tokens, hidden], the others a tuple with one [tokens, hidden] per image.
        features=pooled.flatten(0, 1) if isinstance(pooled, torch.Tensor) else torch.cat(tuple(pooled)),
        deepstack=[torch.cat(tuple(layer)) for layer in output.get("deepstack_features") or ()],
    )


def concatenate_images(family: Family, images: Sequence[EncodedImage]) -> VisionOutput:
    """Concatenate the images of a batch in the order of their placeholders, row by row.

    Args:
        family: The model's family.
        images: At least one; an image that occurs twice is listed twice.
    """
    features = [one.features for one in images]
    return VisionOutput(
        pooler_output=torch.cat(features)[None] if family.budget_kind == "tiles" else features,
        deepstack_features=[list(layer) for layer in zip(*(one.deepstack for one in images), strict=True)],
    )


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
