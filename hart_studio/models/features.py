"""The vision tower, run once per image object: its features are kept for as long as the image lives."""

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
"""With more visual tokens held than this, a call keeps only the images it needs: about 0.5 GB for a 7B model."""


@dataclass(frozen=True)
class EncodedImage:
    """One image as the language model will read it.

    Attributes:
        placeholder_ids: Token ids that stand for the image in a prompt.
        visual_tokens: Rows of ``features``.
        size_wh: (width, height) in pixels in the model's input.
        grid_thw: ``[1, 3]`` patch grid, for families with grid positions; None for the others.
        features: ``[visual_tokens, hidden]``.
        deepstack: One ``[visual_tokens, hidden]`` per layer that takes features directly (Qwen3-VL); else empty.
    """

    placeholder_ids: list[int]
    visual_tokens: int
    size_wh: tuple[int, int]
    grid_thw: torch.Tensor | None
    features: torch.Tensor
    deepstack: list[torch.Tensor]


@dataclass(frozen=True)
class VisionOutput:
    """What a model's forward reads from ``mm_encoder_outputs["image"]``, for the images of a batch in row order."""

    pooler_output: torch.Tensor | list[torch.Tensor]
    deepstack_features: list[list[torch.Tensor]]


class CachedImageEncoder:
    """Encodes each ``ImageInput`` object once, by identity.

    Attributes:
        encode_count: Times that the vision tower has run.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, family: Family) -> None:
        self._model = model
        self._processor = processor
        self._family = family
        self._cached: WeakKeyDictionary[ImageInput, dict[bool, EncodedImage]] = WeakKeyDictionary()
        self._processed: WeakKeyDictionary[ImageInput, dict[bool, ProcessedImage]] = WeakKeyDictionary()
        self.encode_count = 0

    def encode(self, image: ImageInput, is_alone: bool) -> EncodedImage:
        """The image's features, computed now or earlier.

        Args:
            image: The image.
            is_alone: Whether it is the only image of its conversation (LLaVA-OneVision reads it with tiles then).
        """
        reading = self._reading(is_alone)
        cached = self._cached.setdefault(image, {})
        if reading not in cached:
            cached[reading] = self._run(image, reading)
        return cached[reading]

    def clear(self) -> None:
        """Forget every feature: call it whenever the weights have changed."""
        self._cached.clear()

    @property
    def cached_tokens(self) -> int:
        """Visual tokens whose features are held."""
        return sum(one.visual_tokens for cached in self._cached.values() for one in cached.values())

    def trim(self, needed: Iterable[ImageInput]) -> None:
        """Forget the images that are not ``needed`` when more than ``MAX_CACHED_VISUAL_TOKENS`` are held."""
        if self.cached_tokens > MAX_CACHED_VISUAL_TOKENS:
            needed = set(needed)
            for image in list(self._cached.keys()):
                if image not in needed:
                    del self._cached[image]

    def process(self, image: ImageInput, is_alone: bool) -> ProcessedImage:
        """The image as the processor makes it, for a caller that runs the tower itself; made once while it lives.

        Args:
            image: The image.
            is_alone: As for ``encode``.
        """
        reading = self._reading(is_alone)
        cached = self._processed.setdefault(image, {})
        if reading not in cached:
            cached[reading] = process_image(self._processor, self._family, image, reading)
        return cached[reading]

    def _reading(self, is_alone: bool) -> bool:
        return is_alone or self._family.budget_kind != "canvas"  # the others read an image the same way in company

    def _run(self, image: ImageInput, is_alone: bool) -> EncodedImage:
        processed = self._processed.get(image, {}).get(is_alone)
        if processed is None:
            processed = process_image(self._processor, self._family, image, is_alone)
        encoded = encode_processed(self._model, processed)
        self.encode_count += 1
        return encoded


def encode_processed(model: PreTrainedModel, image: ProcessedImage) -> EncodedImage:
    """Run the vision tower on one image, with gradient where it is enabled.

    Args:
        model: The model itself, without wrappers.
        image: From ``process_image``.

    Returns:
        The image's features on the model's device.
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
        # InternVL gives [tiles, tokens, hidden], the others a tuple with one [tokens, hidden] per image.
        features=pooled.flatten(0, 1) if isinstance(pooled, torch.Tensor) else torch.cat(tuple(pooled)),
        deepstack=[torch.cat(tuple(layer)) for layer in output.get("deepstack_features") or ()],
    )


def concatenate_images(family: Family, images: Sequence[EncodedImage]) -> VisionOutput:
    """Put the images of a batch together, in the order of their placeholders, row by row.

    Args:
        family: The model's family.
        images: At least one; one shown twice is listed twice.
    """
    features = [one.features for one in images]
    return VisionOutput(
        pooler_output=torch.cat(features)[None] if family.budget_kind == "tiles" else features,
        deepstack_features=[list(layer) for layer in zip(*(one.deepstack for one in images), strict=True)],
    )
