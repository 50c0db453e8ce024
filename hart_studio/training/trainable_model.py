"""The policy as a chat model: run the pipeline with a model during training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import ProcessorMixin

from hart_studio.models.chat import ChatRequest, Completion, SamplingParams
from hart_studio.models.generation import BATCH_TOKENS, LocalChatModel
from hart_studio.models.inputs import images_of, tokenize
from hart_studio.models.loading import get_family, unwrap_model
from hart_studio.training.sequences import Prompt
from hart_studio.training.vision_tower import is_vision_tower_trained


@dataclass(frozen=True, eq=False)
class Generation:
    """A request of a ``generate`` call and its completions, with sampled tokens."""

    request: ChatRequest
    completions: tuple[Completion, ...]


class TrainableModel(LocalChatModel):
    """A ``ChatModel`` around a model in training.

    It samples in eval mode, without gradient checkpointing, and then restores the model state. It records the
    generations, because the pipeline returns text, and training scores tokens. LoRA adapters are used as they are
    enabled at the time of the call.
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
        self._generations: list[list[Generation]] = []

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        """Answer every request ``group_size`` times (see ``ChatModel.generate``) and record it."""
        if is_vision_tower_trained(self.model):  # a step may have changed its weights
            self.clear_features()
        with _eval_mode(self.model):
            groups = super().generate(requests, sampling, group_size)
        self._generations.append(
            [Generation(request, tuple(group)) for request, group in zip(requests, groups, strict=True)]
        )
        return groups

    def take_generations(self) -> list[list[Generation]]:
        """Return and clear the generations of every ``generate`` call since the last call, in order of requests."""
        taken, self._generations = self._generations, []
        return taken

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
