"""The in-process model as a service: sampling, threads, settings, failures. Tested with one family."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hart_studio.errors import InputError, ModelError
from hart_studio.models.chat import SamplingParams
from hart_studio.models.generation import LocalChatModel
from hart_studio.models.loading import load_model
from tests.integration.conversations import (
    GREEDY,
    WARM,
    forward_ids,
    no_image,
    one_image,
    texts,
    two_images_in_text,
    two_turns,
)

pytestmark = [pytest.mark.core, pytest.mark.integration]


def test_stop_and_length(load_tiny: Callable[[str], LocalChatModel]) -> None:
    model = load_tiny("qwen3_vl")
    sampling = SamplingParams(temperature=3.0, max_new_tokens=120, seed=1)
    [group] = model.generate([one_image(model)], sampling, group_size=12)
    assert {one.finish_reason for one in group} == {"stop", "length"}
    for one in group:
        assert "<|" not in one.text
        assert one.completion_tokens == 120 if one.finish_reason == "length" else one.completion_tokens <= 120


def test_global_random_state_is_untouched(load_tiny: Callable[[str], LocalChatModel]) -> None:
    model = load_tiny("qwen3_vl")
    request = one_image(model)
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    unseeded = dataclasses.replace(WARM, seed=None)
    assert texts(model.generate([request], unseeded)) != texts(model.generate([request], unseeded))
    model.generate([request], WARM)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), repr(np.random.get_state())) == states[1:]


def test_calls_from_threads_take_turns(load_tiny: Callable[[str], LocalChatModel]) -> None:
    model = load_tiny("qwen2_5_vl")
    requests = [one_image(model), two_turns(model), no_image(model), two_images_in_text(model)]
    expected = [texts(model.generate([request], GREEDY)) for request in requests]
    got: dict[int, Any] = {}

    def ask(index: int) -> None:
        got[index] = texts(model.generate([requests[index]], GREEDY))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert [got[index] for index in range(4)] == expected


def test_neighbors_in_length_share_a_batch(
    load_tiny: Callable[[str], LocalChatModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_tiny("qwen3_vl")
    requests = [two_turns(model), no_image(model), two_turns(model), no_image(model)]
    answers = model.generate(requests, GREEDY)
    long, short = answers[0][0].prompt_tokens, answers[1][0].prompt_tokens
    monkeypatch.setattr(model, "_batch_tokens", 2 * (long + GREEDY.max_new_tokens))
    with forward_ids(model) as seen:
        again = model.generate([*requests, no_image(model)], GREEDY)
    assert texts(again)[:4] == texts(answers)
    # Two rows of the long prompt fill a batch, so a long one never pads the short ones.
    assert [tuple(ids.shape) for ids in seen if ids.shape[1] > 1] == [(3, short - 1), (2, long - 1)]


def test_no_requests_no_answers(load_tiny: Callable[[str], LocalChatModel]) -> None:
    assert load_tiny("qwen3_vl").generate([], GREEDY) == []


@pytest.mark.parametrize(
    ("sampling", "group_size"),
    [(SamplingParams(max_new_tokens=0), 1), (SamplingParams(temperature=-1), 1), (GREEDY, 0)],
)
def test_unusable_settings(
    load_tiny: Callable[[str], LocalChatModel], sampling: SamplingParams, group_size: int
) -> None:
    model = load_tiny("qwen3_vl")
    with pytest.raises(InputError, match="expected group_size >= 1, max_new_tokens >= 1 and temperature >= 0"):
        model.generate([no_image(model)], sampling, group_size)


def test_training_mode_is_refused(load_tiny: Callable[[str], LocalChatModel]) -> None:
    model = load_tiny("qwen3_vl")
    model.model.train()
    try:
        with pytest.raises(InputError, match="training mode"):
            model.generate([no_image(model)], GREEDY)
    finally:
        model.model.eval()


def test_out_of_memory_is_a_model_error(
    load_tiny: Callable[[str], LocalChatModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_tiny("qwen3_vl")

    def burst(**_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    kept = two_turns(model)
    expected = texts(model.generate([kept], GREEDY))
    with monkeypatch.context() as patch:
        patch.setattr(model.model, "get_image_features", burst)
        with pytest.raises(ModelError, match="Lower the overview or crop budget"):
            model.generate([one_image(model)], GREEDY)
    assert model.encoder.cached_tokens == 0  # what was kept is given back
    assert texts(model.generate([kept], GREEDY)) == expected  # and the lock is free again


def test_weights_that_give_no_numbers(tiny_folder: Callable[[str], Path]) -> None:
    model = load_model(str(tiny_folder("qwen2_vl")), device="cpu")
    model.model.model.language_model.layers[0].mlp.up_proj.weight.data[:] = torch.nan
    with pytest.raises(ModelError, match=r"The logits of .* are NaN"):
        model.generate([one_image(model)], GREEDY)
