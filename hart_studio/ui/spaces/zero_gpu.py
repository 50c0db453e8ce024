"""ZeroGPU of Hugging Face Spaces, which lends a processor to one call at a time; elsewhere a call is just a call.

The ``spaces`` package has to be imported before torch and patches it then, so this module is imported with the page.
What runs on the processor runs in another process, forked when it likes: arguments and answers are pickled, and so a
turn is sent by the name of its model, never with the model itself. Written from the package's documentation and code;
it has not been run on ZeroGPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final
from weakref import WeakValueDictionary

from hart_studio.models.chat import ChatModel, ChatRequest, Completion, CountsTokens, SamplingParams
from hart_studio.ui.security.permissions import is_zero_gpu

TURN_SECONDS: Final = 60
"""How long one turn may take; a visitor's quota has to have this much left."""

_logger = logging.getLogger(__name__)


def load_local_model(name: str) -> ChatModel:
    """Load a model in this process; the first call imports torch, which takes seconds."""
    from hart_studio.models.loading import load_model  # noqa: PLC0415 - the page is up before torch is

    return load_model(name)


def load_model_here(name: str) -> ChatModel:
    """Load a model so that it answers on this machine: on ZeroGPU every turn borrows the processor."""
    return ZeroGpuModel(name, load_local_model(name)) if is_zero_gpu() else load_local_model(name)


class ZeroGpuModel:
    """A ``ChatModel`` whose turns run where ZeroGPU lends a processor.

    Attributes:
        name: As of the model.
        family: As of the model.
        overview_budget: As of the model.
        crop_budget: As of the model.
    """

    def __init__(self, name: str, model: ChatModel) -> None:
        """Keep the model where the turns find it.

        Args:
            name: What it was loaded by.
            model: Loaded in this process, so that processes forked later have it.
        """
        self.name, self.family = model.name, model.family
        self.overview_budget, self.crop_budget = model.overview_budget, model.crop_budget
        self._loaded_by, self._model = name, model
        self.context_tokens = model.context_tokens if isinstance(model, CountsTokens) else None
        _models[name] = model

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text; 0 if the model cannot tell."""
        return self._model.count_tokens(text) if isinstance(self._model, CountsTokens) else 0

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        """Answer every request ``group_size`` times; see ``ChatModel``."""
        answers: list[list[Completion]] = _take_turn(self._loaded_by, list(requests), sampling, group_size)
        return answers


_models: WeakValueDictionary[str, ChatModel] = WeakValueDictionary()
"""Models by what they were loaded by, as long as a ``ZeroGpuModel`` keeps them."""


def _generate(
    name: str, requests: list[ChatRequest], sampling: SamplingParams, group_size: int
) -> list[list[Completion]]:
    """One turn, in the process that has the processor. One that was forked before the model was loaded loads it."""
    model = _models.get(name) or load_local_model(name)
    return model.generate(requests, sampling, group_size)


def _decorate_zero_gpu(turn: Callable[..., Any]) -> Callable[..., Any]:
    """The turn as the ``spaces`` package runs it on ZeroGPU."""
    if not is_zero_gpu():
        return turn
    try:
        spaces = import_module("spaces")
    except ImportError:
        _logger.warning("this is a ZeroGPU Space without the spaces package: no processor can be borrowed")
        return turn
    lent: Callable[..., Any] = spaces.GPU(duration=TURN_SECONDS)(turn)
    return lent


_take_turn = _decorate_zero_gpu(_generate)
