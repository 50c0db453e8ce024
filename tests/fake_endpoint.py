"""Scripted OpenAI-compatible server that records requests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float

    @property
    def text(self) -> str:
        """Text of the last message."""
        content = self.body["messages"][-1]["content"]
        return "".join(part.get("text", "") for part in content)


@dataclass(frozen=True)
class Answer:
    """What is sent back. Without a ``body`` a chat completion of ``texts``."""

    texts: tuple[str, ...] = ("B",)
    finish_reason: str = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    usage: dict[str, int] | None = None
    delay_seconds: float = 0.0
    is_dropped: bool = False
    """The connection is closed before anything is sent."""
    is_dripping: bool = False
    """A space every 50 ms, as long as the client is connected."""

    def written(self) -> bytes:
        """The body."""
        if self.body is not None:
            return self.body
        choices = [
            {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": self.finish_reason}
            for index, text in enumerate(self.texts)
        ]
        reply = {"id": "1", "object": "chat.completion", "choices": choices}
        return json.dumps(reply if self.usage is None else {**reply, "usage": self.usage}).encode()


Script = Callable[[Seen], Answer]


class FakeEndpoint(ThreadingHTTPServer):
    """The server. ``script`` answers each chat request; the first ``failures`` are sent before it is asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.models: tuple[str, ...] = ("hart",)
        self.failures: list[Answer] = []
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self.at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: FakeEndpoint

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self._keep({})
        listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]}
        self._send(Answer(body=json.dumps(listed).encode()))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            failure = server.failures.pop(0) if server.failures else None
        seen = self._keep(body)
        try:
            answer = failure or server.script(seen)
            time.sleep(answer.delay_seconds)
        finally:
            with server.lock:
                server.at_once -= 1
        self._send(answer)

    def _keep(self, body: dict[str, Any]) -> Seen:
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.path, headers, body, time.monotonic())
        with self.server.lock:
            self.server.seen.append(seen)
        return seen

    def _send(self, answer: Answer) -> None:
        self.close_connection = True
        if answer.is_dropped:
            return
        body = answer.written()
        self.send_response(answer.status)
        for name, value in {"content-type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        if not answer.is_dripping:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        while answer.is_dripping:
            self.wfile.write(b" ")
            time.sleep(0.05)
        self.wfile.write(body)


@contextmanager
def serving(script: Script = lambda _: Answer()) -> Iterator[FakeEndpoint]:
    """Run a server inside the block."""
    server = FakeEndpoint(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
