"""Requests that are too large, too slow or incomplete: the server stays available and keeps nothing of them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from hart_studio.ui.security import request_limits
from hart_studio.ui.security.request_limits import RequestLimitMiddleware
from tests.asgi import accepting, call, part
from tests.attacks.targets import Target

pytestmark = pytest.mark.integration
SMALL = 64 * 1024


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
    """Limits that a test reaches quickly."""
    monkeypatch.setattr(request_limits, "MAX_UPLOADED_BYTES", 16 * SMALL)
    monkeypatch.setattr(target.app, "max_file_size", 4 * SMALL)


def open_raw(target: Target, head: str, body: bytes = b"") -> socket.socket:
    """Start a raw request."""
    place = urlsplit(target.url)
    connection = socket.create_connection((place.hostname, place.port), timeout=30)
    connection.sendall(f"{head}\r\nHost: {place.netloc}\r\n".encode() + body)
    return connection


def status_of(connection: socket.socket) -> int:
    with connection:
        return int(connection.recv(4096).split(b" ", 2)[1])


def leftovers(target: Target) -> list[Path]:
    return [path for path in target.cache.iterdir() if path.name.startswith("tmp")]


def wait_for(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.usefixtures("small_limits")
def test_what_says_that_it_is_too_large_is_refused_unread(target: Target) -> None:
    for path, length in (
        ("upload", 17 * SMALL),
        ("queue/join", request_limits.MAX_JSON_BYTES + 1),
        ("call/ask", 10**30),
    ):
        head = f"POST /gradio_api/{path} HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x"
        assert status_of(open_raw(target, head, f"Content-Length: {length}\r\n\r\n".encode())) in {413, 400}


@pytest.mark.usefixtures("small_limits")
def test_what_lies_about_its_size_is_cut(target: Target) -> None:
    def flood() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        for _ in range(64):
            yield b"0" * SMALL

    for path, kind in (("upload", "multipart/form-data; boundary=x"), ("component_server", "application/json")):
        answer = httpx.post(
            f"{target.url}gradio_api/{path}", content=flood(), headers={"content-type": kind}, timeout=60
        ) if path == "upload" else httpx.post(
            f"{target.url}gradio_api/{path}", content=b"[" + b" " * (request_limits.MAX_JSON_BYTES + 1), timeout=60
        )  # fmt: skip
        assert answer.status_code == 413, path
    wait_for(lambda: leftovers(target) == [])


@pytest.mark.usefixtures("small_limits")
def test_one_file_over_the_limit_is_refused_and_leaves_nothing(target: Target) -> None:
    assert target.upload("large.png", b"0" * (4 * SMALL + 1)).status_code == 413
    assert target.upload("small.png", b"0" * SMALL).status_code == 200
    wait_for(lambda: leftovers(target) == [])


def test_forms_that_are_none_leave_nothing(target: Target) -> None:
    url = f"{target.url}gradio_api/upload"
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + b"0" * SMALL
    other = head.replace(b'name="files"', b'name="other"')
    text = b'\r\n--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nwords\r\n--x--\r\n'
    for body in (head, head + text, other + b"\r\n--x--\r\n", b"--x", b"", b"\0" * 100):
        answer = httpx.post(url, content=body, headers={"content-type": "multipart/form-data; boundary=x"})
        assert answer.status_code < 500, (body[:80], answer.text)
        wait_for(lambda: leftovers(target) == [])


def test_uploads_that_are_broken_off_leave_nothing(target: Target) -> None:
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000"
    )
    body = b'\r\n--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + b"0" * SMALL
    connections = [open_raw(target, head, body) for _ in range(8)]
    wait_for(lambda: len(leftovers(target)) == 8)
    for connection in connections:
        connection.close()
    wait_for(lambda: leftovers(target) == [])


def test_the_page_answers_while_many_drip(target: Target) -> None:
    """Connections that send a byte now and then, in headers or bodies."""
    heads = "GET / HTTP/1.1\r\nX-Slow: "
    bodies = "POST /gradio_api/queue/join HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100000"
    dripping = [open_raw(target, heads) for _ in range(60)]
    dripping += [open_raw(target, bodies, b"\r\n[") for _ in range(request_limits.MAX_UNFINISHED_PER_CLIENT)]
    try:
        for connection in dripping:
            connection.sendall(b" ")
        slowest = 0.0
        for _ in range(5):
            started = time.monotonic()
            assert httpx.get(f"{target.url}config", timeout=20).status_code == 200
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 10, "a second on a free machine"
        assert target.upload("x.png", b"x").status_code == 200, "who sends all at once is not kept out"
        assert status_of(dripping[60]) == 503, "the slowest one goes"
    finally:
        for connection in dripping:
            connection.close()
    wait_for(lambda: target.upload("x.png", b"x").status_code == 200)


def test_silence_and_dripping_have_an_end() -> None:
    limit = RequestLimitMiddleware(accepting, timeout=0.3)
    assert call(limit, [part(b"[1"), 0.1, part(b"]", is_last=True)]).status == 200
    assert call(limit, [part(b"[1"), 5, part(b"]", is_last=True)]).status == 408
    drips = [each for _ in range(30) for each in (0.05, part(b" "))]
    assert call(limit, [part(b"[1"), *drips, part(b"]", is_last=True)]).status == 408
    assert call(limit, [part(b"[1"), *drips, part(b"]", is_last=True)], path="/gradio_api/upload").status == 408
    fast = [each for _ in range(10) for each in (0.05, part(b" " * 4096))]
    assert call(limit, [part(b"[1"), *fast, part(b"]", is_last=True)]).status == 200


def test_one_address_leaves_slots_for_others() -> None:
    """A request over the limit is accepted; the slowest request of the busiest address is dropped."""
    limit = RequestLimitMiddleware(accepting, timeout=5, max_unfinished=3, max_per_client=2)
    statuses: dict[str, list[int]] = {"a": [], "b": []}

    def drip(address: str, size: int) -> None:
        messages = [part(b" " * size), *[0.02] * 50, part(b"[]", is_last=True)]
        statuses[address].append(call(limit, messages, client=(address, 1)).status)

    with ThreadPoolExecutor(3) as pool:
        for address, size in (("a", 1), ("a", 500), ("b", 1)):
            pool.submit(drip, address, size)
            time.sleep(0.1)
        assert call(limit, [part(b"[]", is_last=True)], client=("c", 1)).status == 200
    assert statuses == {"a": [503, 200], "b": [200]}
    assert not limit._unfinished, "nothing is remembered of who has gone"
