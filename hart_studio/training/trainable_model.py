"""The model in training: a chat model for the pipeline, with a vision tower that may be trained too.

Features of a frozen tower are computed before the model call of a scoring pass. Those of a trained tower must be
computed within it, because distributed wrappers gather weights, and expect all trained weights, only there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from transformers import PreTrainedModel, ProcessorMixin

from hart_studio.models.chat import ChatRequest, Completion, SamplingParams
from hart_studio.models.families import Family
from hart_studio.models.features import EncodedImage, VisionOutput, concatenate_images, encode_processed
from hart_studio.models.generation import BATCH_TOKENS, LocalChatModel
from hart_studio.models.inputs import images_of, tokenize
from hart_studio.models.loading import get_family, unwrap_model
from hart_studio.models.quantization import keep_differentiable
from hart_studio.training.sequences import Prompt, VisionInput

LANGUAGE_MODEL = "language_model."
"""Prefixes of the text layers in the weights of a model; all other weights belong to the tower and its projector."""


class TrainableModel(LocalChatModel):
    """A ``ChatModel`` around a model in training.

    It samples in eval mode, without gradient checkpointing, and then restores the model state. LoRA adapters are used
    as they are enabled at the time of the call.
    """

    def __init__(
        self, model: torch.nn.Module, processor: ProcessorMixin, name: str, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        """Wrap a loaded model that is on its device.

        Args:
            model: The model being trained, with any wrappers; sampling bypasses them.
            processor: Its processor, with a chat template.
            name: Name, for messages.
            batch_tokens: See ``LocalChatModel``.

        Raises:
            ModelError: If it does not contain a model of a supported family.
        """
        inner = unwrap_model(model)
        keep_differentiable(inner)
        super().__init__(inner, processor, get_family(inner), name, batch_tokens)

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        """Answer every request ``group_size`` times (see ``ChatModel.generate``)."""
        if is_vision_tower_trained(self.model):  # a step may have changed its weights
            self.clear_features()
        with _eval_mode(self.model):
            return super().generate(requests, sampling, group_size)

    def read(self, request: ChatRequest) -> Prompt:
        """Encode a request for scoring, with the same tokens as for sampling.

        Images are the features used in sampling, or pixels if the vision tower is trained too. An image
        object of the request maps to the same object here as long as it exists and no ``generate`` call intervenes, so
        prompts with the same images compare equal.
        """
        if not is_vision_tower_trained(self.model):
            with _eval_mode(self.model):
                prompt = self.prepare(request)
            return Prompt(tuple(prompt.ids), tuple(prompt.images))
        shown = images_of(request)
        images = [self.encoder.process(image, is_alone=len(shown) == 1) for image in shown]
        ids = tokenize(self.processor, request, [image.placeholder_ids for image in images])
        return Prompt(tuple(ids), tuple(images))


@contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside the block; restore the mode of every module afterwards."""
    trained = [part for part in model.modules() if part.training]
    model.train(False)
    try:
        yield
    finally:
        for part in trained:
            part.training = True


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
