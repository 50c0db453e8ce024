"""All families with random weights of their architecture, from chat requests to completions."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from hart_studio.models import features, generation
from hart_studio.models.chat import ChatRequest, ImageInput, Message, SamplingParams
from hart_studio.models.generation import LocalChatModel
from tests.integration.conversations import (
    CONVERSATIONS,
    GREEDY,
    WARM,
    forward_ids,
    make_image,
    no_image,
    one_image,
    texts,
    tower_runs,
    two_turns,
)
from tests.tiny_models import FAMILY_KEYS

pytestmark = [pytest.mark.core, pytest.mark.integration]

QWEN_KEYS = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")


@pytest.fixture(params=FAMILY_KEYS)
def model(request: pytest.FixtureRequest, load_tiny: Callable[[str], LocalChatModel]) -> LocalChatModel:
    chat = load_tiny(request.param)
    chat.clear_features()
    return chat


def library_answer(model: LocalChatModel, request: ChatRequest, limit: int) -> str:
    """The same greedy answer through the library's own processor call and ``generate()``."""
    messages = [
        {
            "role": message.role,
            "content": [
                {"type": "image", "image": part.pixels}
                if isinstance(part, ImageInput)
                else {"type": "text", "text": part}
                for part in message.parts
            ],
        }
        for message in request.messages
    ]
    inputs = model.processor.apply_chat_template(
        [messages], tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    ids = model.model.generate(
        **inputs, do_sample=False, max_new_tokens=limit, suppress_tokens=model._unsampled_ids.tolist()
    )[0, inputs["input_ids"].shape[1] :].tolist()
    return str(model.processor.tokenizer.decode([token for token in ids if token not in model._removed_ids]))


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_the_answer_is_the_librarys_own(model: LocalChatModel, conversation: Callable[..., ChatRequest]) -> None:
    request = conversation(model)
    [[answer]] = model.generate([request], GREEDY)
    assert answer.text == library_answer(model, request, GREEDY.max_new_tokens)
    assert answer.finish_reason in ("stop", "length")
    assert answer.seconds > 0
    shown_images = [part for message in request.messages for part in message.parts if isinstance(part, ImageInput)]
    assert len(answer.image_sizes_wh) == len(shown_images)
    assert 0 <= answer.visual_tokens < answer.prompt_tokens
    assert (answer.visual_tokens > 0) == bool(shown_images)


def test_a_completion_shows_its_tokens(model: LocalChatModel) -> None:
    for group in model.generate([one_image(model), two_turns(model)], WARM, group_size=3):
        for one in group:
            assert len(one.token_ids) == one.completion_tokens
            kept = [token for token in one.token_ids if token not in model._removed_ids]
            assert model.processor.tokenizer.decode(kept) == one.text
            ends = [token in model._stop_ids.tolist() for token in one.token_ids]
            assert ends == [False] * (len(ends) - 1) + [one.finish_reason == "stop"]


def test_answers_depend_on_the_image(model: LocalChatModel) -> None:
    requests = [ChatRequest((Message("user", (make_image(model, 160, 110, seed), "Which?")),)) for seed in range(4)]
    assert len({answer.text for [answer] in model.generate(requests, GREEDY)}) == 4


def test_a_batch_of_unequal_requests_is_the_requests_one_by_one(model: LocalChatModel) -> None:
    requests = [conversation(model) for conversation in CONVERSATIONS]
    together = model.generate(requests, GREEDY)
    assert texts(together) == [texts(model.generate([request], GREEDY))[0] for request in requests]
    lengths = [group[0].prompt_tokens for group in together]
    assert len(set(lengths)) == len(lengths)  # so the batch really was padded


def test_a_group_shares_one_prefill(model: LocalChatModel) -> None:
    requests = [one_image(model), two_turns(model)]
    alone = model.generate(requests, GREEDY)
    with forward_ids(model) as seen:
        group = model.generate(requests, GREEDY, group_size=4)
    assert texts(group) == [[one[0]] * 4 for one in texts(alone)]
    # One prefill with a row per request, without its last token; after it, a row per completion.
    assert seen[0].shape == (2, max(one[0].prompt_tokens for one in alone) - 1)
    assert {tuple(ids.shape) for ids in seen[1:]} == {(8, 1)}


def test_samples_depend_on_the_seed_and_not_on_the_batch(
    model: LocalChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [conversation(model) for conversation in CONVERSATIONS]
    together = texts(model.generate(requests, WARM, group_size=3))
    assert len({text for group in together for text, _, _ in group}) == 12
    monkeypatch.setattr(model, "_batch_tokens", 1)
    assert texts(model.generate(requests, WARM, group_size=3)) == together
    monkeypatch.setattr(generation, "WINDOW", 1)
    assert texts(model.generate(requests, WARM, group_size=3)) == together
    assert texts(model.generate(requests[:2], WARM, group_size=3)) == together[:2]
    assert texts(model.generate(requests, dataclasses.replace(WARM, seed=8), group_size=3)) != together


def test_a_shared_prefill_samples_like_separate_ones(model: LocalChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    request = two_turns(model)
    shared = texts(model.generate([request], WARM, group_size=4))[0]
    separate = texts(model.generate([request] * 4, WARM))
    assert [group[0] for group in separate] == shared


def test_a_image_is_encoded_once_while_it_lives(model: LocalChatModel) -> None:
    shown = make_image(model, 160, 110)
    requests = [ChatRequest((Message("user", (shown, text)),)) for text in ("Where?", "Which color?")]
    with tower_runs(model) as runs:
        first = model.generate(requests, GREEDY, group_size=2)
        again = model.generate(requests, GREEDY)
        assert len(runs) == 1
        model.clear_features()
        model.generate(requests, GREEDY)
        assert len(runs) == 2
    assert [group[:1] for group in texts(first)] == texts(again)
    assert model.encoder.cached_tokens == first[0][0].visual_tokens
    del shown, requests
    gc.collect()
    assert model.encoder.cached_tokens == 0


def test_held_features_are_bounded(model: LocalChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MAX_CACHED_VISUAL_TOKENS", 1)
    old, new = one_image(model), two_turns(model)
    model.generate([old], GREEDY)
    [[answer]] = model.generate([new], GREEDY)
    assert model.encoder.cached_tokens == answer.visual_tokens


@pytest.mark.parametrize("key", QWEN_KEYS)
def test_the_model_size_of_qwen_is_grid_times_patch(load_tiny: Callable[[str], LocalChatModel], key: str) -> None:
    model = load_tiny(key)
    request = two_turns(model)
    [[answer]] = model.generate([request], GREEDY)
    shown_images = [part for message in request.messages for part in message.parts if isinstance(part, ImageInput)]
    images = model.processor.image_processor
    grids = images(images=[one.pixels for one in shown_images], return_tensors="pt")["image_grid_thw"].tolist()
    patch = images.patch_size
    assert answer.image_sizes_wh == tuple((columns * patch, rows * patch) for _, rows, columns in grids)
    assert answer.visual_tokens == sum(rows * columns // 4 for _, rows, columns in grids)


@pytest.mark.parametrize("key", QWEN_KEYS)
def test_positions_follow_the_patch_grid(load_tiny: Callable[[str], LocalChatModel], key: str) -> None:
    model = load_tiny(key)
    plain_family = dataclasses.replace(model.family, uses_mrope=False)
    plain = LocalChatModel(model.model, model.processor, plain_family, "plain positions")
    request = two_turns(model)
    # No error, another answer: this is what a forgotten mm_token_type_ids does.
    assert texts(plain.generate([request], GREEDY)) != texts(model.generate([request], GREEDY))
    assert texts(plain.generate([no_image(model)], GREEDY)) == texts(model.generate([no_image(model)], GREEDY))


def test_image_tokens_are_never_sampled(model: LocalChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = model._unsampled_ids
    assert set(model.processor.image_token_ids + model.processor.video_token_ids) - {None} <= set(wanted.tolist())

    def prefer_images(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        output[..., wanted] += 1000.0
        return output

    request = one_image(model)
    handle = model.model.lm_head.register_forward_hook(prefer_images)
    try:
        for sampling in (GREEDY, WARM):
            with forward_ids(model) as seen:
                model.generate([request], sampling, group_size=2)
            assert not torch.isin(torch.cat(seen[2:], 1), wanted).any()
        monkeypatch.setattr(model, "_unsampled_ids", wanted[:0])
        with forward_ids(model) as seen:
            model.generate([request], GREEDY)
        assert torch.isin(torch.cat(seen[2:], 1), wanted).all()  # without the rule it writes nothing else
    finally:
        handle.remove()


@pytest.mark.parametrize("size_wh", [(1, 1), (3, 5), (28, 28), (2000, 1), (1, 3000), (9000, 20), (1500, 1500)])
def test_tiny_and_absurd_images_are_answered(model: LocalChatModel, size_wh: tuple[int, int]) -> None:
    image = Image.new("RGB", size_wh, (200, 30, 90))
    for budget in (model.overview_budget, (model.overview_budget.min_pixels, model.overview_budget.min_pixels * 2)):
        request = ChatRequest((Message("user", (ImageInput(image, *budget), "What?")),))
        [[answer]] = model.generate([request], SamplingParams(max_new_tokens=2))
        width, height = answer.image_sizes_wh[0]
        assert width * height <= budget[1]
        assert answer.visual_tokens > 0
    in_company = Message(
        "user", (ImageInput(image, *model.crop_budget), ImageInput(image, *model.crop_budget), "Both?")
    )
    [[answer]] = model.generate([ChatRequest((in_company,))], SamplingParams(max_new_tokens=2))
    assert len(answer.image_sizes_wh) == 2


@pytest.mark.parametrize(
    ("key", "ids", "expected"),
    [
        (
            "internvl",
            "<ref>sign</ref><box>[[1, 2, 3, 4]]</box><img><|im_end|>",
            "<ref>sign</ref><box>[[1, 2, 3, 4]]</box>",
        ),
        (
            "qwen2_vl",
            "<|object_ref_start|>a<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|><|im_end|>",
            "<|object_ref_start|>a<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
        ),
        ("qwen2_5_vl", '[{"bbox_2d": [1, 2, 3, 4]}]<|vision_end|><|im_end|>', '[{"bbox_2d": [1, 2, 3, 4]}]'),
    ],
)
def test_box_tags_survive_and_other_special_tokens_go(
    load_tiny: Callable[[str], LocalChatModel], key: str, ids: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_tiny(key)
    script = iter(model.processor.tokenizer.encode(ids, add_special_tokens=False))
    monkeypatch.setattr(generation, "sample_token", lambda logits, *_: torch.tensor([next(script)]))
    [[answer]] = model.generate([one_image(model)], SamplingParams(max_new_tokens=200))
    assert (answer.text, answer.finish_reason) == (expected, "stop")


def test_the_checkpoints_generation_config_does_not_leak_in(model: LocalChatModel) -> None:
    request = one_image(model)
    before = texts(model.generate([request], WARM, group_size=2))
    config = model.model.generation_config
    untouched = config.to_dict()
    config.update(top_k=1, repetition_penalty=9.0, temperature=0.01, do_sample=True)
    try:
        assert texts(model.generate([request], WARM, group_size=2)) == before
    finally:
        config.update(**untouched)
