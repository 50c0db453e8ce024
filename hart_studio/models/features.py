"""The vision tower, run once per picture object: its features are kept for as long as the picture lives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel, ProcessorMixin

from hart_studio.models.chat import Picture
from hart_studio.models.families import Family
from hart_studio.models.inputs import ProcessedPicture, process_picture

KEPT_VISUAL_TOKENS = 65_536
"""With more visual tokens held than this, a call keeps only the pictures it needs: about 0.5 GB for a 7B model."""


@dataclass(frozen=True)
class EncodedPicture:
    """One picture as the language model will read it.

    Attributes:
        placeholder_ids: Token ids that stand for the picture in a prompt.
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
class TowerOutput:
    """What a model's forward reads from ``mm_encoder_outputs["image"]``, for the pictures of a batch in row order."""

    pooler_output: torch.Tensor | list[torch.Tensor]
    deepstack_features: list[list[torch.Tensor]]


class PictureEncoder:
    """Encodes each ``Picture`` object once, by identity.

    Attributes:
        encode_count: Times that the vision tower has run.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, family: Family) -> None:
        self._model = model
        self._processor = processor
        self._family = family
        self._kept: WeakKeyDictionary[Picture, dict[bool, EncodedPicture]] = WeakKeyDictionary()
        self._processed: WeakKeyDictionary[Picture, dict[bool, ProcessedPicture]] = WeakKeyDictionary()
        self.encode_count = 0

    def encode(self, picture: Picture, is_alone: bool) -> EncodedPicture:
        """The picture's features, computed now or earlier.

        Args:
            picture: The picture.
            is_alone: Whether it is the only picture of its conversation (LLaVA-OneVision reads it with tiles then).
        """
        reading = self._reading(is_alone)
        kept = self._kept.setdefault(picture, {})
        if reading not in kept:
            kept[reading] = self._run(picture, reading)
        return kept[reading]

    def clear(self) -> None:
        """Forget every feature: call it whenever the weights have changed."""
        self._kept.clear()

    @property
    def held_tokens(self) -> int:
        """Visual tokens whose features are held."""
        return sum(one.visual_tokens for kept in self._kept.values() for one in kept.values())

    def trim(self, needed: Iterable[Picture]) -> None:
        """Forget the pictures that are not ``needed`` when more than ``KEPT_VISUAL_TOKENS`` are held."""
        if self.held_tokens > KEPT_VISUAL_TOKENS:
            needed = set(needed)
            for picture in list(self._kept.keys()):
                if picture not in needed:
                    del self._kept[picture]

    def process(self, picture: Picture, is_alone: bool) -> ProcessedPicture:
        """The picture as the processor makes it, for a caller that runs the tower itself; made once while it lives.

        Args:
            picture: The picture.
            is_alone: As for ``encode``.
        """
        reading = self._reading(is_alone)
        kept = self._processed.setdefault(picture, {})
        if reading not in kept:
            kept[reading] = process_picture(self._processor, self._family, picture, reading)
        return kept[reading]

    def _reading(self, is_alone: bool) -> bool:
        return is_alone or self._family.budget_knob != "canvas"  # the others read a picture the same way in company

    def _run(self, picture: Picture, is_alone: bool) -> EncodedPicture:
        processed = self._processed.get(picture, {}).get(is_alone)
        if processed is None:
            processed = process_picture(self._processor, self._family, picture, is_alone)
        encoded = encode_processed(self._model, processed)
        self.encode_count += 1
        return encoded


def encode_processed(model: PreTrainedModel, picture: ProcessedPicture) -> EncodedPicture:
    """Run the vision tower on one picture, with gradient where it is enabled.

    Args:
        model: The model itself, without wrappers.
        picture: From ``process_picture``.

    Returns:
        The picture's features on the model's device.
    """
    whole: Any = model
    tensors = {name: value.to(whole.device) for name, value in picture.tensors.items()}
    tensors["pixel_values"] = tensors["pixel_values"].to(whole.dtype)
    output = whole.get_image_features(**tensors, return_dict=True)
    pooled = output.pooler_output
    return EncodedPicture(
        placeholder_ids=picture.placeholder_ids,
        visual_tokens=picture.visual_tokens,
        size_wh=picture.size_wh,
        grid_thw=tensors.get("image_grid_thw"),
        # InternVL gives [tiles, tokens, hidden], the others a tuple with one [tokens, hidden] per picture.
        features=pooled.flatten(0, 1) if isinstance(pooled, torch.Tensor) else torch.cat(tuple(pooled)),
        deepstack=[torch.cat(tuple(layer)) for layer in output.get("deepstack_features") or ()],
    )


def join_pictures(family: Family, pictures: Sequence[EncodedPicture]) -> TowerOutput:
    """Put the pictures of a batch together, in the order of their placeholders, row by row.

    Args:
        family: The model's family.
        pictures: At least one; one shown twice is listed twice.
    """
    features = [one.features for one in pictures]
    return TowerOutput(
        pooler_output=torch.cat(features)[None] if family.budget_knob == "tiles" else features,
        deepstack_features=[list(layer) for layer in zip(*(one.deepstack for one in pictures), strict=True)],
    )
