"""The policy as a chat model: a model in the middle of its training answers through the one pipeline."""

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
    """One request of a ``generate`` call and the group of its completions, with the tokens that were sampled."""

    request: ChatRequest
    completions: tuple[Completion, ...]


class TrainableModel(LocalChatModel):
    """A ``ChatModel`` around a live model.

    It samples in eval mode, without gradient checkpointing, and gives the model back as it was. It remembers the
    generations, because the pipeline hands on texts, and training scores tokens. LoRA adapters take part as they are
    switched on at the time of the call.
    """

    def __init__(
        self, model: torch.nn.Module, processor: ProcessorMixin, name: str, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        """Wrap a model that is already on its device.

        Args:
            model: The model being trained, in whatever wrappers; sampling goes past the wrappers.
            processor: Its processor, with a chat template.
            name: How messages call it.
            batch_tokens: As for ``LocalChatModel``.

        Raises:
            ModelError: If there is no model of a supported family inside.
        """
        inner = unwrap_model(model)
        super().__init__(inner, processor, get_family(inner), name, batch_tokens)
        self._generations: list[list[Generation]] = []

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        """Answer every request ``group_size`` times (see ``ChatModel.generate``) and remember it."""
        if is_vision_tower_trained(self.model):  # a step may have changed its weights; those of a frozen tower stay
            self.clear_features()
        with _eval_mode(self.model):
            groups = super().generate(requests, sampling, group_size)
        self._generations.append(
            [Generation(request, tuple(group)) for request, group in zip(requests, groups, strict=True)]
        )
        return groups

    def take_generations(self) -> list[list[Generation]]:
        """Return and clear the generations of every ``generate`` call since the last time, in order of requests."""
        taken, self._generations = self._generations, []
        return taken

    def read(self, request: ChatRequest) -> Prompt:
        """What the model is shown for a request, ready to be scored; the tokens are those that sampling began with.

        Images come as the features that sampling used, or as pixels when the vision tower is trained too. An image
        object of the request gives the same object here for as long as it lives and no ``generate`` call intervenes, so
        prompts that show the same images can be told to be equal.
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
    """Eval mode inside the block, and every part's own mode after it."""
    trained = [part for part in model.modules() if part.training]
    model.train(False)
    try:
        yield
    finally:
        for part in trained:
            part.training = True
