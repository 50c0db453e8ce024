"""ZeroGPU, as far as it can be seen without one: turns are sent to another process by name, pickled both ways."""

from __future__ import annotations

import importlib
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from hart_studio.models.chat import ChatRequest, ImageInput, Message, SamplingParams
from hart_studio.ui.spaces import zero_gpu
from tests.fakes import ScriptedModel

PIXELS = Image.new("RGB", (64, 48))


@pytest.fixture
def gpu_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The module as on ZeroGPU, with a stand-in of the package that pickles as the real one does; names of turns."""
    turns: list[str] = []

    def lend(duration: int) -> Callable[..., Any]:
        def decorate(turn: Callable[..., Any]) -> Callable[..., Any]:
            assert turn.__module__ == zero_gpu.__name__ and "<locals>" not in turn.__qualname__

            def call(*arguments: Any) -> Any:
                turns.append(arguments[0])
                return pickle.loads(pickle.dumps(turn(*pickle.loads(pickle.dumps(arguments)))))  # noqa: S301 - our own

            return call

        assert duration > 0
        return decorate

    package = types.ModuleType("spaces")
    package.GPU = lend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spaces", package)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    importlib.reload(zero_gpu)
    yield turns
    monkeypatch.undo()
    importlib.reload(zero_gpu)


def request() -> ChatRequest:
    return ChatRequest((Message("user", (ImageInput(PIXELS, 1, 10**6), "What?")),))


def test_elsewhere_a_call_is_just_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel()
    monkeypatch.setattr(zero_gpu, "load_local_model", lambda name: model)
    assert zero_gpu._take_turn is zero_gpu._generate
    assert zero_gpu.load_model_here("built-in") is model


def test_every_turn_borrows_the_processor(gpu_calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel(name="m", direct="\\boxed{A}", grounding="\\boxed{A}")
    monkeypatch.setattr(zero_gpu, "load_local_model", lambda name: model)
    found = zero_gpu.load_model_here("folder")
    assert (found.name, found.family, found.crop_budget) == ("m", model.family, model.crop_budget)
    assert found.generate([request()], SamplingParams(), 2) == model.generate([request()], SamplingParams(), 2)
    assert gpu_calls == ["folder"]


def test_a_process_that_does_not_have_the_model_loads_it(gpu_calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(name: str) -> ScriptedModel:
        loaded.append(name)
        return ScriptedModel(direct="\\boxed{A}", grounding="\\boxed{A}")

    monkeypatch.setattr(zero_gpu, "load_local_model", load)
    found = zero_gpu.load_model_here("folder")
    found.generate([request()], SamplingParams())
    assert loaded == ["folder"], "the process that loaded it has it"
    zero_gpu._models.clear()
    found.generate([request()], SamplingParams())
    assert loaded == ["folder", "folder"]


def test_a_zero_gpu_without_the_package_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert zero_gpu._decorate_zero_gpu(zero_gpu._generate) is zero_gpu._generate
    assert "without the spaces package" in caplog.text
