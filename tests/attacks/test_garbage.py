"""A thousand invalid requests: never a 5xx response, never details about the machine."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.attacks.targets import Target, leaks

pytestmark = pytest.mark.integration

REQUESTS = 1000
NAMES = (
    "run", "runs", "project", "item", "sample", "step", "cursor", "signature", "filter", "boxes", "decision", "offset",
    "protocol", "benchmark", "model", "path", "meta", "url", "statuses", "before", "after", "format", "passed", "text",
)  # fmt: skip
TEXTS = st.sampled_from(
    ["", "signs", "crops_only", "../..", "\0", "é\ud800", "9" * 400, "<b>", "{{1}}", "needle", "-1"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), inner),
    max_leaves=6,
)
MAKING = {"start", "resume", "delete", "start_import", "preview_source", "create", "export"}
"""Excluded: random data could be valid for these, and they create things or read paths."""


def send(target: Target, client: httpx.Client, kind: str, number: int, payload: Any) -> httpx.Response:
    """A request of one kind with random data."""
    base = f"{target.url}gradio_api"
    functions = [each for each in target.server_functions if each[1] not in MAKING]
    component, name = functions[number % len(functions)]
    bodies: dict[str, tuple[str, Any]] = {
        "function": (
            "component_server",
            {"component_id": component, "fn_name": name, "session_hash": "g", "data": payload},
        ),
        "component": (
            "component_server",
            {"component_id": payload, "fn_name": payload, "session_hash": payload, "data": 1},
        ),
        "raw": ("component_server", payload),
        "call": (f"call/{['ask', 'locate', 'verify', 'nothing'][number % 4]}", {"data": payload}),
        "whole call": ("call/ask", payload),
        "join": ("queue/join", {"fn_index": payload, "data": payload, "session_hash": "g", "event_data": payload}),
        "whole join": ("queue/join", payload),
        "cancel": ("cancel", payload),
    }
    path, body = bodies[kind]
    return client.post(f"{base}/{path}", content=json.dumps(body), headers={"content-type": "application/json"})


def test_no_garbage_is_answered_with_a_fault_or_a_secret(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    sent: list[int] = []
    kinds = ["function"] * 5 + ["component", "raw", "call", "whole call", "join", "whole join", "cancel"]
    with httpx.Client(timeout=60) as client:

        @seed(20261125)
        @settings(
            max_examples=REQUESTS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(kinds), st.integers(0, 10_000), JSON)
        def attack(kind: str, number: int, payload: Any) -> None:
            answer = send(target, client, kind, number, payload)
            sent.append(answer.status_code)
            assert answer.status_code < 500, (kind, payload, answer.text)
            assert leaks(answer.text, target, names_roots=True) == [], (kind, payload, answer.text)

        attack()
        assert client.get(target.url).status_code == 200, "the page is up"
    assert len(sent) >= REQUESTS
    assert {200, 400, 422} <= set(sent), "some of it was taken, some refused"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"data":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"data": [' + b"[" * 80 + b"]" * 80 + b"]}",
        b'{"data": [NaN]}',
        b'{"data": [-Infinity]}',
        b'{"data": [1' + b"0" * 5000 + b"]}",
        b'{"data": [], "data": [1]}',
        b'{"data": [',
        b"\xff\xfe\x00",
    ],
    ids=["deep list", "deep object", "deeper than is read", "NaN", "infinity", "long number", "twice", "torn", "bytes"],
)
def test_json_that_is_built_to_hurt_is_refused(target: Target, body: bytes) -> None:
    for path in ("component_server", "queue/join", "call/ask", "cancel"):
        answer = httpx.post(
            f"{target.url}gradio_api/{path}", content=body, headers={"content-type": "application/json"}, timeout=60
        )
        assert answer.status_code in {400, 413}, (path, answer.text)
        assert leaks(answer.text, target) == []


@pytest.mark.parametrize(
    "range_", ["bytes=1-2-3", "bytes=9-1", "bytes=999999999999-1", "bytes=-", "bytes=a-b", "x=0-1"]
)
def test_a_part_of_a_file_that_is_none_is_no_fault(target: Target, range_: str) -> None:
    path = target.upload("x.png", b"0123456789").json()[0]
    answer = httpx.get(f"{target.url}gradio_api/file={path}", headers={"range": range_})
    assert answer.status_code < 500
    assert leaks(answer.text, target) == []


def test_faults_are_logged_and_reported_by_number(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    answer = target.trigger(10**9, [])
    assert "detail" in answer and leaks(answer, target) == []
    body = {"component_id": 10**9, "fn_name": "poll", "session_hash": "x", "data": {}}
    reported = httpx.post(f"{target.url}gradio_api/component_server", json=body)
    assert reported.status_code == 400
    number = reported.json()["detail"].rsplit(" ", 1)[1].rstrip(".")
    assert any(number in record.getMessage() and record.exc_info for record in caplog.records)
