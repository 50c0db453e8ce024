from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.errors import InputError, ModelError
from hart_studio.models import endpoint as endpoint_module
from hart_studio.models.chat import ChatRequest, Message, SamplingParams
from hart_studio.models.families import FAMILIES, Family, PixelBudget
from hart_studio.models.model_loading import load_chat_model
from hart_studio.models.served import (
    ServedChatModel,
    build_body,
    build_messages,
    completion_seed,
    parse_completions,
    parse_single_model,
)
from hart_studio.models.served_images import SentImage
from hart_studio.models.served_settings import ServedSettings
from tests.fake_endpoint import Answer, FakeEndpoint, Seen, serving
from tests.smart_resize_server import SmartResizeScript
from tests.unit.models.served import noise, opened, question, settings_of

URL = "http://127.0.0.1:8000/v1"
GREEDY = SamplingParams()
WARM = SamplingParams(temperature=1.0, max_new_tokens=32, seed=5)


def echo(seen: Seen) -> Answer:
    """Says the question back, and its seed."""
    return Answer(tuple(f"{seen.text} {seen.body.get('seed')}" for _ in range(seen.body.get("n", 1))))


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with serving(echo) as running:
        yield running


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_INITIAL_BACKOFF_SECONDS", 0.01)


def said(model: ServedChatModel, count: int, sampling: SamplingParams, group_size: int = 1) -> list[list[str]]:
    requests = [question(f"q{index}") for index in range(count)]
    return [[one.text for one in group] for group in model.generate(requests, sampling, group_size)]


def test_answers_come_in_the_order_of_the_requests(server: FakeEndpoint) -> None:
    server.script = lambda seen: Answer((seen.text,), delay_seconds=0.1 if seen.text in ("q0", "q3") else 0.0)
    model = ServedChatModel(settings_of(server, concurrency=8))
    assert said(model, 8, GREEDY) == [[f"q{index}"] for index in range(8)]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_is_bounded_across_threads(server: FakeEndpoint, concurrency: int) -> None:
    server.script = lambda _: Answer(delay_seconds=0.05)
    model = ServedChatModel(settings_of(server, model="hart", concurrency=concurrency))
    callers = [threading.Thread(target=said, args=(model, 6, GREEDY)) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=30)
    assert server.most_at_once == concurrency
    assert len(server.seen) == 12


def test_greedy_is_asked_once_and_repeated(server: FakeEndpoint) -> None:
    for supports_n in (False, True):
        server.seen.clear()
        assert said(ServedChatModel(settings_of(server, model="hart", supports_n=supports_n)), 2, GREEDY, 3) == [
            ["q0 None"] * 3,
            ["q1 None"] * 3,
        ]
        assert [seen.body["temperature"] for seen in server.seen] == [0.0, 0.0]


def test_samples_have_seeds_of_their_own(server: FakeEndpoint) -> None:
    model = ServedChatModel(settings_of(server))
    once = said(model, 3, WARM, 4)
    seeds = [text.split()[1] for group in once for text in group]
    assert len(set(seeds)) == 12
    assert said(model, 3, WARM, 4) == once
    assert said(model, 3, SamplingParams(1.0, 32, seed=6), 4) != once
    assert said(model, 2, WARM, 4) == once[:2]  # however many requests come with it
    unseeded = SamplingParams(temperature=1.0)
    assert said(model, 1, unseeded) != said(model, 1, unseeded)


def test_several_completions_of_one_request(server: FakeEndpoint) -> None:
    model = ServedChatModel(settings_of(server, model="hart", supports_n=True))
    groups = said(model, 2, WARM, 4)
    assert [len(group) for group in groups] == [4, 4]
    assert [seen.body["n"] for seen in server.seen] == [4, 4]
    assert server.seen[0].body["seed"] != server.seen[1].body["seed"]


def test_what_a_request_says(server: FakeEndpoint) -> None:
    server.script = lambda _: Answer(("There",), "length", usage={"prompt_tokens": 90, "completion_tokens": 5})
    first, second = noise(64, 96), noise(128, 64, 1)
    request = ChatRequest((Message("user", ("Region 1: ", first, "\nRegion 2: ", second, "\nWhich?")),))
    [[one]] = ServedChatModel(settings_of(server, model="hart")).generate([request], WARM)
    (seen,) = server.seen
    assert seen.path == "/v1/chat/completions"
    content = seen.body["messages"][0]["content"]
    assert [part.get("text") for part in content] == ["Region 1: ", None, "\nRegion 2: ", None, "\nWhich?"]
    assert [opened(content[index]["image_url"]["url"]).size for index in (1, 3)] == [(64, 96), (128, 64)]
    assert (seen.body["model"], seen.body["temperature"], seen.body["max_tokens"]) == ("hart", 1.0, 32)
    assert (one.text, one.finish_reason, one.prompt_tokens, one.completion_tokens) == ("There", "length", 90, 5)
    assert one.image_sizes_wh == ((64, 96), (128, 64))
    assert one.visual_tokens == 2 * 3 + 4 * 2
    assert one.seconds > 0
    assert one.token_ids == ()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.key)
def test_sizes_for_every_family(server: FakeEndpoint, family: Family) -> None:
    server.script = SmartResizeScript()
    model = ServedChatModel(settings_of(server, family=family.key))
    assert (model.overview_budget, model.crop_budget) == (family.overview_budget, family.crop_budget)
    [[one]] = model.generate([question("q", noise(901, 611, budget=model.overview_budget))], GREEDY)
    image = server.seen[-1].body["messages"][0]["content"][0]
    assert one.image_sizes_wh == (opened(image["image_url"]["url"]).size,)
    if family.budget_kind == "area":
        (size,) = one.image_sizes_wh
        assert all(side % family.resize_factor == 0 for side in size)
        assert family.overview_budget.min_pixels <= size[0] * size[1] <= family.overview_budget.max_pixels
    else:
        assert one.image_sizes_wh == ((901, 611),)


def test_a_small_processor_lowers_the_budgets(server: FakeEndpoint) -> None:
    settings = settings_of(server, processor_min_pixels=36_864, processor_max_pixels=50_176)
    model = ServedChatModel(settings)
    assert model.overview_budget == model.crop_budget == PixelBudget(36_864, 50_176)


def test_a_server_that_makes_the_same_of_every_image(server: FakeEndpoint) -> None:
    server.script = lambda _: Answer(usage={"prompt_tokens": 50, "completion_tokens": 1})
    request = question("q", noise(280, 280, budget=(280 * 280, 280 * 280)))  # 100 tokens of 28 x 28
    with pytest.raises(ModelError, match=r"1024 as 50.*--served-pixels MIN MAX"):
        ServedChatModel(settings_of(server, family="qwen2_5_vl")).generate([request], GREEDY)
    ServedChatModel(settings_of(server, family="qwen2_vl")).generate([request], GREEDY)  # whose boxes do not mind


def test_the_model_is_queried_when_it_is_not_named(server: FakeEndpoint) -> None:
    assert ServedChatModel(settings_of(server)).name == f"hart at {server.url}"
    server.models = ("a", "b")
    with pytest.raises(ModelError, match="lists a, b instead of one model"):
        ServedChatModel(settings_of(server))
    server.seen.clear()
    assert ServedChatModel(settings_of(server, model="b")).name == f"b at {server.url}"
    assert server.seen == []


def test_one_refused_request_names_its_reason(server: FakeEndpoint) -> None:
    def script(seen: Seen) -> Answer:
        is_bad = seen.text == "q1"
        return Answer(status=400, body=b"image too large") if is_bad else Answer(delay_seconds=0.01)

    server.script = script
    model = ServedChatModel(settings_of(server, concurrency=1, retries=3))
    with pytest.raises(ModelError, match="HTTP 400: image too large"):
        said(model, 40, GREEDY)
    assert len(server.seen) < 10  # the rest is not asked for
    assert said(model, 1, GREEDY) == [["B"]]  # and the model is of use again


def test_failures_that_pass_are_not_seen(server: FakeEndpoint) -> None:
    server.failures = [Answer(status=503), Answer(is_dropped=True), Answer(status=429, headers={"retry-after": "0"})]
    assert said(ServedChatModel(settings_of(server, retries=3)), 4, GREEDY) == [
        [f"q{index} None"] for index in range(4)
    ]


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"\xff\xfe"])
def test_garbage(server: FakeEndpoint, body: bytes) -> None:
    server.script = lambda _: Answer(body=body)
    with pytest.raises(ModelError, match=r"from http://127"):
        said(ServedChatModel(settings_of(server)), 1, GREEDY)


def test_no_requests_no_answers(server: FakeEndpoint) -> None:
    assert ServedChatModel(settings_of(server, model="hart")).generate([], WARM) == []
    assert server.seen == []


@pytest.mark.parametrize(
    ("sampling", "group_size"),
    [(SamplingParams(max_new_tokens=0), 1), (SamplingParams(temperature=-1), 1), (GREEDY, 0)],
)
def test_unusable_settings(server: FakeEndpoint, sampling: SamplingParams, group_size: int) -> None:
    with pytest.raises(InputError, match="expected group_size >= 1, max_new_tokens >= 1 and temperature >= 0"):
        said(ServedChatModel(settings_of(server)), 1, sampling, group_size)


def test_opening(server: FakeEndpoint) -> None:
    model = load_chat_model("nowhere", served=settings_of(server))
    assert isinstance(model, ServedChatModel)
    model.close()
    with pytest.raises(ModelError, match="there is no such folder"):
        load_chat_model("no where")


def reply_of(**more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "B"}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}, **more}


def read(value: Any, n: int = 1) -> Any:
    return parse_completions(json.dumps(value).encode(), n, URL)


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
    body = build_body([], "hart", WARM, 1, settings())
    assert body == {
        "model": "hart",
        "messages": [],
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 32,
        "stream": False,
        "seed": 5,
    }


def test_fields_of_known_servers() -> None:
    vllm = build_body(
        [], "hart", SamplingParams(), 4, settings(server="vllm", max_tokens_field="max_completion_tokens")
    )
    assert (vllm["n"], vllm["max_completion_tokens"], vllm["top_k"], vllm["repetition_penalty"]) == (4, 512, -1, 1.0)
    assert vllm["skip_special_tokens"] is False  # box text of Qwen2-VL
    assert not {"seed", "max_tokens"} & vllm.keys()
    assert "skip_special_tokens" not in build_body([], "", WARM, 1, settings(server="sglang", family="qwen3_vl"))
    extra = {"mm_processor_kwargs": {"max_pixels": 7}, "top_k": 3}
    assert extra.items() <= build_body([], "hart", WARM, 1, settings(server="vllm", extra_fields=extra)).items()
    for temperature in (0.0, 0.7):
        body = build_body([], "", SamplingParams(temperature), 1, settings(server="transformers"))
        assert json.loads(body["generation_config"])["do_sample"] is (temperature > 0)


def test_seeds_differ_by_request_and_completion() -> None:
    seeds = {completion_seed(seed, i, j) for seed in range(3) for i in range(20) for j in range(20)}
    assert len(seeds) == 3 * 20 * 20
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert completion_seed(3, 1, 2) == completion_seed(3, 1, 2)


def test_a_reply() -> None:
    [found] = read(reply_of())
    assert (found.text, found.finish_reason, found.prompt_tokens, found.completion_tokens) == ("B", "stop", 7, 3)


def test_what_a_server_does_not_count_is_zero() -> None:
    for usage in (None, {}):
        [found] = read(reply_of(usage=usage))
        assert (found.prompt_tokens, found.completion_tokens) == (0, 0)


def test_several_completions_in_their_order() -> None:
    choices = [
        {"index": index, "message": {"content": text}, "finish_reason": reason}
        for index, text, reason in [(2, "c", "length"), (0, "a", "stop"), (1, "", "length")]
    ]
    found = read(reply_of(choices=choices, usage={"completion_tokens": 8}), n=3)
    assert [(choice.text, choice.finish_reason, choice.completion_tokens) for choice in found] == [
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
    ("choices", "reason"),
    [
        ([{"message": {"content": None}, "finish_reason": "stop"}], "no text (content: null, finish_reason 'stop')"),
        ([{"message": {}, "finish_reason": None}], "finish_reason 'null'"),
        ([{"message": {"content": None}, "finish_reason": "length"}], "no text within the token limit"),
        (
            [{"message": {"refusal": "I can't\nhelp"}, "finish_reason": "stop"}],
            "a refusal instead of a text: I can't help",
        ),
        ([{"message": {"tool_calls": [{"id": "1"}]}, "finish_reason": "tool_calls"}], "tool calls instead of a text"),
        ([{"message": {"content": None}, "finish_reason": "content_filter"}], "content_filter"),
        ([], "no choices"),
    ],
)
def test_no_text_is_no_answer(choices: list[Any], reason: str) -> None:
    [found] = read(reply_of(choices=choices))
    assert found.text == ""
    assert reason in found.missing_text


def test_an_empty_text_is_an_answer() -> None:
    [found] = read(reply_of(choices=[{"message": {"content": ""}, "finish_reason": "stop"}]))
    assert (found.text, found.missing_text) == ("", "")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"choices": None},
        {"choices": [{}]},
        {"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]},
        reply_of(usage={"prompt_tokens": -1}),
        reply_of(usage="many"),
        {"error": {"message": "no"}},
    ],
)
def test_other_answers(value: Any) -> None:
    with pytest.raises(ModelError, match="is not a chat completion"):
        read(value)


def test_a_server_that_ignores_n() -> None:
    with pytest.raises(
        ModelError, match=r"expected 4 completions .* got 1. Set supports_n \(--served-supports-n\) only"
    ):
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
    for reader in (lambda: parse_completions(content, 1, URL), lambda: parse_single_model(content, URL)):
        with pytest.raises(ModelError):
            reader()


@given(st.sampled_from(["choices", "usage"]), JSON)
def test_any_damage_is_a_reply_or_a_model_error(name: str, value: Any) -> None:
    try:
        [found] = read(reply_of(**{name: value}))
    except ModelError as error:
        assert len(str(error)) < 1000
    else:
        assert found.prompt_tokens >= 0
        assert isinstance(found.text, str)


def test_deep_nesting_is_a_model_error() -> None:
    with pytest.raises(ModelError):
        parse_completions(b"[" * 200_000, 1, URL)
