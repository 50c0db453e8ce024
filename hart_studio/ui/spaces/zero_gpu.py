"""ZeroGPU of Hugging Face Spaces, which provides a GPU for single calls; elsewhere calls run directly.

The ``spaces`` package patches torch and must be imported before it, so this module is imported with the page. GPU calls
run in forked processes with pickled arguments and results, so a call names its model instead of passing it. Written
from the documentation and code of the package; not tested on ZeroGPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final
from weakref import WeakValueDictionary

from hart_studio.models.chat import ChatModel, ChatRequest, Completion, CountsTokens, SamplingParams
from hart_studio.ui.security.access import is_zero_gpu

TURN_SECONDS: Final = 60
"""Time limit of a turn in seconds; the quota of the visitor must have this much left."""

_logger = logging.getLogger(__name__)


def load_local_model(name: str) -> ChatModel:
    """Load a model in this process; the first call imports torch, which takes seconds."""
    from hart_studio.models.loading import load_model  # noqa: PLC0415 - the page is up before torch is

    return load_model(name)


def load_model_here(name: str) -> ChatModel:
    """Load a model; on ZeroGPU every turn requests the GPU."""
    return ZeroGpuModel(name, load_local_model(name)) if is_zero_gpu() else load_local_model(name)


class ZeroGpuModel:
    """A ``ChatModel`` whose turns run on ZeroGPU.

    Attributes:
        name: As of the model.
        family: As of the model.
        overview_budget: As of the model.
        crop_budget: As of the model.
    """

    def __init__(self, name: str, model: ChatModel) -> None:
        """Register the model for the GPU processes.

        Args:
            name: Name passed to the loader.
            model: Loaded in this process; processes forked later inherit it.
        """
        self.name, self.family = model.name, model.family
        self.overview_budget, self.crop_budget = model.overview_budget, model.crop_budget
        self._loaded_by, self._model = name, model
        self.context_tokens = model.context_tokens if isinstance(model, CountsTokens) else None
        _models[name] = model

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text; 0 if the model cannot count them."""
        return self._model.count_tokens(text) if isinstance(self._model, CountsTokens) else 0

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        """Answer every request ``group_size`` times; see ``ChatModel``."""
        answers: list[list[Completion]] = _take_turn(self._loaded_by, list(requests), sampling, group_size)
        return answers


_models: WeakValueDictionary[str, ChatModel] = WeakValueDictionary()
"""Loaded models by name; weak, so they live as long as their ``ZeroGpuModel``."""


def _generate(
    name: str, requests: list[ChatRequest], sampling: SamplingParams, group_size: int
) -> list[list[Completion]]:
    """Run one turn in the GPU process; loads the model if the process was forked before it was loaded."""
    model = _models.get(name) or load_local_model(name)
    return model.generate(requests, sampling, group_size)


def _decorate_zero_gpu(turn: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the function with ``spaces.GPU`` on ZeroGPU."""
    if not is_zero_gpu():
        return turn
    try:
        spaces = import_module("spaces")
    except ImportError:
        _logger.warning("ZeroGPU Space without the spaces package: no GPU available")
        return turn
    decorated: Callable[..., Any] = spaces.GPU(duration=TURN_SECONDS)(turn)
    return decorated


_take_turn = _decorate_zero_gpu(_generate)
