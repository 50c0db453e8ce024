"""Run the vision tower inside the model call of a scoring pass.

Features of a frozen tower are computed before the call. Those of a trained tower must be computed within it, because
distributed wrappers gather weights, and expect all trained weights, only there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from transformers import PreTrainedModel

from hart_studio.models.families import Family
from hart_studio.models.features import EncodedImage, VisionOutput, concatenate_images, encode_processed
from hart_studio.training.sequences import VisionInput

LANGUAGE_MODEL = "language_model."
"""Prefixes of the text layers in the weights of a model; all other weights belong to the tower and its projector."""


def is_vision_tower_trained(model: PreTrainedModel) -> bool:
    """Whether any weight of the vision tower requires a gradient.

    Args:
        model: The model itself, without wrappers.
    """
    core: torch.nn.Module = model.model
    return any(weight.requires_grad for name, weight in core.named_parameters() if not name.startswith(LANGUAGE_MODEL))


def freeze_vision_tower(model: PreTrainedModel) -> None:
    """Freeze the vision tower and its projector; their gradients are not computed.

    Args:
        model: The model itself, without wrappers.
    """
    core: torch.nn.Module = model.model
    for name, weight in core.named_parameters():
        if not name.startswith(LANGUAGE_MODEL):
            weight.requires_grad_(False)


class DeferredVisionTower:
    """Lazy ``mm_encoder_outputs["image"]`` that runs the tower when the forward call of the model reads it.

    Each image is encoded once, however often it occurs, and without gradient if the tower is frozen.
    """

    def __init__(self, model: PreTrainedModel, family: Family, images: Sequence[VisionInput]) -> None:
        """Check the images; computes nothing.

        Args:
            model: The model itself, without wrappers.
            family: Its family.
            images: In the order of the placeholders; the same object may occur several times.

        Raises:
            ValueError: If features without a gradient are given although the tower is trained.
        """
        self._model = model
        self._family = family
        self._images = images
        self._is_trained = torch.is_grad_enabled() and is_vision_tower_trained(model)
        if self._is_trained and any(
            isinstance(image, EncodedImage) and not image.features.requires_grad for image in images
        ):
            raise ValueError(
                "Training the vision tower needs pixels of every image, got features without a gradient. "
                "Read the prompts with TrainableModel.read, or freeze the tower."
            )

    @property
    def pooler_output(self) -> torch.Tensor | list[torch.Tensor]:
        """Features for the placeholders."""
        return self._output.pooler_output

    @property
    def deepstack_features(self) -> list[list[torch.Tensor]]:
        """Features for the layers that take them directly (Qwen3-VL); otherwise empty."""
        return self._output.deepstack_features

    @cached_property
    def _output(self) -> VisionOutput:
        encoded: dict[int, EncodedImage] = {}
        for image in self._images:
            if isinstance(image, EncodedImage):
                encoded[id(image)] = image
            elif id(image) not in encoded:
                with torch.set_grad_enabled(self._is_trained):
                    encoded[id(image)] = encode_processed(self._model, image)
        return concatenate_images(self._family, [encoded[id(image)] for image in self._images])
