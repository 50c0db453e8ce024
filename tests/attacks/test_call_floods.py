"""Many script calls of clients that disconnect or do not read: other clients are answered, and nothing leaks."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from hart_studio.ui.security import call_limits, request_limits
from tests.attacks.targets import Target

pytestmark = pytest.mark.integration


def open_call(target: Target, name: str, session: str) -> socket.socket:
    """Send a raw call without waiting for the response."""
    number = next(number for number, each in target.server_functions if each == name)
    place = urlsplit(target.url)
    data = {"runs": [target.evaluation]}
    body = json.dumps({"component_id": number, "fn_name": name, "session_hash": session, "data": data}).encode()
    connection = socket.create_connection((place.hostname, place.port), timeout=30)
    head = (
        f"POST /gradio_api/component_server HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


@pytest.fixture
def slow_reports(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Reports that take 0.3 s; yields the start time of each."""
    begun: list[float] = []

    def write_slowly(*arguments: object) -> object:
        begun.append(time.monotonic())
        time.sleep(0.3)
        raise OSError("no report today")  # so that none is kept

    monkeypatch.setattr("hart_studio.ui.api.evaluation_results.write_report", write_slowly)
    return begun


def wait_for(is_true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_reports_of_clients_that_left_are_not_written(target: Target, slow_reports: list[float]) -> None:
    for number in range(150):
        open_call(target, "report", f"flood{number}").close()
    began = time.monotonic()
    assert target.call("evaluations", {}).status_code == 200
    assert time.monotonic() - began < 5, "less than a second on a free machine"
    time.sleep(1.5)
    assert len(slow_reports) <= 4, "only what had begun when its client left"


def test_too_many_calls_of_one_address_are_refused_in_words(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_limits, "MAX_CALLS_PER_ADDRESS", 6)
    may_end = threading.Event()

    def write_later(*arguments: object) -> object:
        may_end.wait(20)
        raise OSError("no report today")

    monkeypatch.setattr("hart_studio.ui.api.evaluation_results.write_report", write_later)
    held = [open_call(target, "report", f"hold{number}") for number in range(6)]
    try:
        wait_for(lambda: target.call("evaluations", {}).status_code == 429)
        answer = target.call("evaluations", {})
        assert answer.headers["retry-after"] == "2" and "Try again" in answer.json()["detail"]
    finally:
        may_end.set()
        for connection in held:
            connection.close()
    wait_for(lambda: target.call("evaluations", {}).status_code == 200)


def test_an_open_address_takes_a_few_kilobytes(login_target: Target) -> None:
    body = b"[" + b"[[]]," * 200_000 + b"1]"
    for path in ("gradio_api/reset", "gradio_api/startup-events", "login"):
        answer = httpx.post(f"{login_target.url}{path}", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 413, (path, answer.text[:100])
    small = b"[" + b" " * (request_limits.MAX_OPEN_BYTES - 2) + b"]"
    answer = httpx.post(
        f"{login_target.url}gradio_api/reset", content=small, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422 and len(answer.text) < 200, "the input is not repeated"


def test_the_page_answers_while_megabytes_of_json_come(target: Target) -> None:
    body = b'{"data":[' + b"[[]]," * 200_000 + b"1]}"
    is_over = threading.Event()

    def attack() -> None:
        with httpx.Client(timeout=60) as client:
            while not is_over.is_set():
                url = f"{target.url}gradio_api/queue/join"
                client.post(url, content=body, headers={"content-type": "application/json"})

    with ThreadPoolExecutor(8) as pool:
        attackers = [pool.submit(attack) for _ in range(8)]
        try:
            time.sleep(0.5)
            slowest = 0.0
            for _ in range(5):
                began = time.monotonic()
                assert httpx.get(f"{target.url}gradio_api/app_id", timeout=30).status_code == 200
                slowest = max(slowest, time.monotonic() - began)
        finally:
            is_over.set()
    assert slowest < 3, "less than half a second on a free machine"
    assert not [each for each in attackers if each.exception()]
