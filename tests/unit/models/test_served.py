from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hart_studio.errors import InputError, ModelError
from hart_studio.models import endpoint as endpoint_module
from hart_studio.models.chat import ChatRequest, Message, SamplingParams
from hart_studio.models.families import FAMILIES, PixelBudget
from hart_studio.models.model_loading import load_chat_model
from hart_studio.models.served import ServedChatModel
from tests.fake_endpoint import Answer, FakeEndpoint, Seen, serving
from tests.unit.models.served import noise, opened, question, settings_of

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
def test_sizes_for_every_family(server: FakeEndpoint, family: object) -> None:
    assert isinstance(family, type(FAMILIES["qwen3_vl"]))
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


def test_a_server_that_shrinks_images(server: FakeEndpoint) -> None:
    server.script = lambda _: Answer(usage={"prompt_tokens": 50, "completion_tokens": 1})
    request = question("q", noise(280, 280, budget=(280 * 280, 280 * 280)))  # 100 tokens of 28 x 28
    with pytest.raises(
        ModelError, match=r"expected 100 image tokens in a prompt of hart at .* has 50: .* Raise max_pixels"
    ):
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


@pytest.mark.parametrize("body", [b"", b"{", b"null", b'{"choices": []}', b"\xff\xfe"])
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
