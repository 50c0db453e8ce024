from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.errors import InputError, ModelError
from hart_studio.models.chat import ChatRequest, Message, SamplingParams
from hart_studio.models.completions_api import (
    build_body,
    build_messages,
    completion_seed,
    parse_completion,
    parse_single_model,
)
from hart_studio.models.served_images import SentImage
from hart_studio.models.served_settings import ServedSettings
from tests.unit.models.served import noise

URL = "http://127.0.0.1:8000/v1"
WARM = SamplingParams(temperature=0.7, max_new_tokens=9, seed=5)


def reply_of(**more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "B"}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}, **more}


def read(value: Any, n: int = 1) -> Any:
    return parse_completion(json.dumps(value).encode(), n, URL)


def settings(**more: Any) -> ServedSettings:
    return ServedSettings(**{"url": URL, "family": "qwen2_vl", **more})


def test_parts_stay_in_order() -> None:
    first, second = noise(64, 64), noise(32, 32)
    request = ChatRequest(
        (
            Message("user", (first, "Where?")),
            Message("assistant", ("There", ".")),
            Message("user", ("Region 1: ", second, "\nRegion 2: ", first, "\nWhich?")),
        )
    )
    sent = [SentImage(f"data:{name}", (64, 64), 4) for name in "abc"]
    assert build_messages(request, sent) == [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:a"}}, {"type": "text", "text": "Where?"}],
        },
        {"role": "assistant", "content": "There."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Region 1: "},
                {"type": "image_url", "image_url": {"url": "data:b"}},
                {"type": "text", "text": "\nRegion 2: "},
                {"type": "image_url", "image_url": {"url": "data:c"}},
                {"type": "text", "text": "\nWhich?"},
            ],
        },
    ]


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (Message("user", ("Hi",)), Message("assistant", ("Hi",))),
        (Message("assistant", (noise(64, 64),)), Message("user", ("Hi",))),
    ],
)
def test_unusable_conversations(messages: tuple[Message, ...]) -> None:
    with pytest.raises(InputError):
        build_messages(ChatRequest(messages), [SentImage("data:", (64, 64), 4)])


def test_a_plain_server_gets_standard_fields_only() -> None:
    body = build_body([], "hart", WARM, settings(), seed=11, n=1)
    assert body == {
        "model": "hart",
        "messages": [],
        "temperature": 0.7,
        "top_p": 1.0,
        "max_tokens": 9,
        "stream": False,
        "seed": 11,
    }


def test_fields_of_known_servers() -> None:
    vllm = build_body([], "hart", WARM, settings(server="vllm", max_tokens_field="max_completion_tokens"), None, 4)
    assert (vllm["n"], vllm["max_completion_tokens"], vllm["top_k"], vllm["repetition_penalty"]) == (4, 9, -1, 1.0)
    assert vllm["skip_special_tokens"] is False  # box text of Qwen2-VL
    assert not {"seed", "max_tokens"} & vllm.keys()
    assert "skip_special_tokens" not in build_body([], "", WARM, settings(server="sglang", family="qwen3_vl"), 1, 1)
    extra = {"mm_processor_kwargs": {"max_pixels": 7}, "top_k": 3}
    assert extra.items() <= build_body([], "hart", WARM, settings(server="vllm", extra_fields=extra), 1, 1).items()
    for temperature in (0.0, 0.7):
        body = build_body([], "", SamplingParams(temperature), settings(server="transformers"), None, 1)
        assert json.loads(body["generation_config"])["do_sample"] is (temperature > 0)


def test_seeds_differ_by_request_and_completion() -> None:
    seeds = {completion_seed(seed, i, j) for seed in range(3) for i in range(20) for j in range(20)}
    assert len(seeds) == 3 * 20 * 20
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert completion_seed(3, 1, 2) == completion_seed(3, 1, 2)


def test_a_reply() -> None:
    found = read(reply_of())
    assert (found.choices[0].text, found.choices[0].finish_reason) == ("B", "stop")
    assert (found.prompt_tokens, found.choices[0].completion_tokens) == (7, 3)


def test_what_a_server_does_not_count_is_zero() -> None:
    for usage in (None, {}):
        found = read(reply_of(usage=usage))
        assert (found.prompt_tokens, found.choices[0].completion_tokens) == (0, 0)


def test_several_completions_in_their_order() -> None:
    choices = [
        {"index": index, "message": {"content": text}, "finish_reason": reason}
        for index, text, reason in [(2, "c", "length"), (0, "a", "stop"), (1, None, "length")]
    ]
    found = read(reply_of(choices=choices, usage={"completion_tokens": 8}), n=3)
    assert [(choice.text, choice.finish_reason, choice.completion_tokens) for choice in found.choices] == [
        ("a", "stop", 3),
        ("", "length", 3),
        ("c", "length", 2),
    ]


@pytest.mark.parametrize("reason", ["tool_calls", "content_filter", "abort", ""])
def test_other_ends_are_no_answers(reason: str) -> None:
    choice = {"message": {"content": "B"}, "finish_reason": reason}
    with pytest.raises(ModelError, match="instead of stop or length"):
        read(reply_of(choices=[choice]))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"choices": None},
        {"choices": [{}]},
        {"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": "B"}, "finish_reason": None}]},
        reply_of(usage={"prompt_tokens": -1}),
        reply_of(usage="many"),
        {"error": {"message": "no"}},
    ],
)
def test_other_answers(value: Any) -> None:
    with pytest.raises(ModelError, match="is not a chat completion"):
        read(value)


def test_a_server_that_ignores_n() -> None:
    with pytest.raises(ModelError, match=r"expected 4 completions .* got 1. Set supports_n \(--served-n\) only"):
        read(reply_of(), n=4)


def test_the_only_model() -> None:
    assert parse_single_model(b'{"data": [{"id": "hart", "object": "model"}]}', URL) == "hart"
    with pytest.raises(ModelError, match="lists none instead of one model"):
        parse_single_model(b'{"data": []}', URL)
    with pytest.raises(ModelError, match="lists a, b instead of one model"):
        parse_single_model(b'{"data": [{"id": "a"}, {"id": "b"}]}', URL)
    with pytest.raises(ModelError, match="is not a model list"):
        parse_single_model(b"<html>", URL)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["index", "message", "content", "x"]), inner),
    max_leaves=12,
)


@given(st.binary() | st.builds(lambda value: json.dumps(value).encode(), JSON))
def test_any_bytes_are_a_reply_or_a_model_error(content: bytes) -> None:
    for reader in (lambda: parse_completion(content, 1, URL), lambda: parse_single_model(content, URL)):
        with pytest.raises(ModelError):
            reader()


@given(st.sampled_from(["choices", "usage"]), JSON)
def test_any_damage_is_a_reply_or_a_model_error(name: str, value: Any) -> None:
    try:
        found = read(reply_of(**{name: value}))
    except ModelError as error:
        assert len(str(error)) < 1000
    else:
        assert found.prompt_tokens >= 0
        assert isinstance(found.choices[0].text, str)


def test_deep_nesting_is_a_model_error() -> None:
    with pytest.raises(ModelError):
        parse_completion(b"[" * 200_000, 1, URL)
