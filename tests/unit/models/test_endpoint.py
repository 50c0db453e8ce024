from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.errors import ModelError
from hart_studio.models import endpoint as endpoint_module
from hart_studio.models.endpoint import Endpoint, read_retry_after
from hart_studio.models.served_settings import ServedSettings
from tests.fake_endpoint import Answer, FakeEndpoint, serving
from tests.unit.models.served import settings_of

KEY = "sk-quite-secret-0123"
PATH = "/chat/completions"
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_INITIAL_BACKOFF_SECONDS", 0.01)


def post(settings: ServedSettings, key: str = "") -> bytes:
    endpoint = Endpoint(settings, {"OPENAI_API_KEY": key, "OTHER": KEY})
    try:
        return endpoint.request(PATH, {"messages": []})
    finally:
        endpoint.close()


def refusal(settings: ServedSettings, key: str = "") -> str:
    with pytest.raises(ModelError) as caught:
        post(settings, key)
    assert caught.value.__cause__ is None
    return str(caught.value)


@pytest.mark.parametrize(
    "failure",
    [Answer(status=status, body=b"busy") for status in (408, 425, 429, 500, 503)] + [Answer(is_dropped=True)],
    ids=lambda answer: str(answer.status),
)
def test_failures_that_pass_are_tried_again(server: FakeEndpoint, failure: Answer) -> None:
    server.failures = [failure, failure]
    assert b"choices" in post(settings_of(server, retries=2))
    assert len(server.seen) == 3


def test_attempts_come_to_an_end(server: FakeEndpoint) -> None:
    server.failures = [Answer(status=500, body=b"out of\n  memory\x00")] * 9
    assert refusal(settings_of(server, retries=2)) == (
        f"No answer from {server.url}{PATH}: HTTP 500: out of memory after 3 attempts"
    )
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "HTTP 400: no"),
        (401, "the environment variable OPENAI_API_KEY"),
        (404, "usually ends with /v1"),
        (422, "422"),
    ],
)
def test_a_refused_request_is_not_tried_again(server: FakeEndpoint, status: int, message: str) -> None:
    server.failures = [Answer(status=status, body=b"no")]
    assert message in refusal(settings_of(server, retries=5))
    assert len(server.seen) == 1


def test_redirects_are_not_followed(server: FakeEndpoint) -> None:
    server.failures = [Answer(status=307, headers={"location": f"{server.url}/elsewhere"}, body=b"")]
    assert "redirects are not followed" in refusal(settings_of(server, retries=5), KEY)
    assert [seen.path for seen in server.seen] == [f"/v1{PATH}"]


def test_retry_after_is_honoured(server: FakeEndpoint) -> None:
    server.failures = [Answer(status=429, headers={"retry-after": "1"}, body=b"slow down")]
    post(settings_of(server, retries=1))
    first, second = (seen.at for seen in server.seen)
    assert 0.95 <= second - first < 5


def test_a_server_that_is_slow(server: FakeEndpoint) -> None:
    server.failures = [Answer(delay_seconds=0.6)] * 2
    assert "no response within 0.2 s" in refusal(settings_of(server, timeout_seconds=0.2, retries=1))
    assert len(server.seen) == 2


def test_a_server_that_drips(server: FakeEndpoint) -> None:
    server.failures = [Answer(is_dripping=True)]
    began = time.monotonic()
    assert "no response within 0.3 s" in refusal(settings_of(server, timeout_seconds=0.3))
    assert time.monotonic() - began < 5


def test_no_one_listens() -> None:
    with serving() as gone:
        settings = settings_of(gone)
    assert "no connection" in refusal(settings)


def test_an_answer_without_end_is_cut(server: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "MAX_RESPONSE_BYTES", 1000)
    server.failures = [Answer(body=b" " * 1000), Answer(body=b" " * 1001)]
    assert len(post(settings_of(server))) == 1000
    assert "more than 1000 bytes" in refusal(settings_of(server))


@pytest.mark.parametrize(
    "headers", [{"content-type": "text/html"}, {"content-type": ""}, {"content-encoding": "gzip"}], ids=str
)
def test_only_plain_json_is_read(server: FakeEndpoint, headers: dict[str, str]) -> None:
    server.failures = [Answer(headers=headers)]
    assert "instead of plain JSON" in refusal(settings_of(server, retries=3))
    assert len(server.seen) == 1


def test_the_key_is_in_the_header_and_nowhere_else(server: FakeEndpoint) -> None:
    post(settings_of(server), KEY)
    post(settings_of(server, api_key_variable="OTHER"))
    post(settings_of(server, api_key_variable="UNSET"))
    assert [seen.headers.get("authorization") for seen in server.seen] == [f"Bearer {KEY}", f"Bearer {KEY}", None]
    assert KEY not in str([seen.body for seen in server.seen])


def test_the_key_is_in_no_message(server: FakeEndpoint) -> None:
    server.failures = [Answer(status=401, body=f"wrong key {KEY}!".encode())]
    text = refusal(settings_of(server), KEY)
    assert "wrong key ***!" in text
    assert KEY not in text


@pytest.mark.parametrize("filling", ["x", " "])
def test_no_cut_leaves_a_part_of_the_key(server: FakeEndpoint, filling: str) -> None:
    for before in [*range(270, 310), *range(4060, 4100)]:
        server.failures = [Answer(status=401, body=f"{filling * before}{KEY} is wrong".encode())]
        assert KEY[:8] not in refusal(settings_of(server), KEY), before


def test_a_key_in_a_header_of_the_answer(server: FakeEndpoint) -> None:
    server.failures = [Answer(headers={"content-type": f"text/{KEY.upper()}"})]
    assert KEY not in refusal(settings_of(server), KEY.upper()).lower()


@pytest.mark.parametrize("key", [f"{KEY}\nx: y", f"{KEY}\x7f", f"{KEY}é"])
def test_a_key_that_no_header_can_hold(server: FakeEndpoint, key: str) -> None:
    text = refusal(settings_of(server), key)
    assert "The key in OPENAI_API_KEY must be printable ASCII" in text
    assert KEY not in text


def test_a_newline_behind_the_key_is_no_fault(server: FakeEndpoint) -> None:
    post(settings_of(server), f"{KEY}\n")
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


def test_no_proxy_between_programs_of_one_machine(server: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert b"choices" in post(settings_of(server))


def test_variables_of_the_openai_client_have_no_effect(server: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-added: 1")
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, KEY)
    post(settings_of(server))
    assert server.seen[0].headers.keys() == {
        *("host", "connection", "user-agent", "accept", "accept-encoding", "content-type", "content-length"),
    }


def test_an_attempt_that_no_one_waits_for_is_the_last(server: FakeEndpoint) -> None:
    server.failures = [Answer(status=503, headers={"retry-after": "30"})] * 9
    is_over = threading.Event()
    is_over.set()
    began = time.monotonic()
    with pytest.raises(ModelError, match="HTTP 503"):
        Endpoint(settings_of(server, retries=9), {}).request(PATH, {}, is_over)
    assert len(server.seen) == 1
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 17 ", 17.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("-1", None),
        ("1e9", None),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert read_retry_after(text, NOW) == seconds


@given(st.text() | st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S +9999")))
def test_any_retry_after_is_seconds_or_nothing(text: str) -> None:
    seconds: Any = read_retry_after(text, NOW + timedelta(days=1))
    assert seconds is None or 0 <= seconds < 1e12
