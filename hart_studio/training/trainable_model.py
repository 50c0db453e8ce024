"""The policy as a chat model: run the pipeline with a model during training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import ProcessorMixin

from hart_studio.models.chat import ChatRequest, Completion, SamplingParams
from hart_studio.models.generation import BATCH_TOKENS, LocalChatModel
from hart_studio.models.inputs import images_of, tokenize
from hart_studio.models.loading import get_family, unwrap_model
from hart_studio.training.sequences import Prompt
from hart_studio.training.vision_tower import is_vision_tower_trained


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
