"""Requests to an ASGI application, message by message, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp

JSON = (b"content-type", b"application/json")
"""The header of most requests."""


@dataclass
class Answer:
    """Response of an application."""

    messages: list[Any] = field(default_factory=list)
    unread: int = 0
    """Unexpected messages."""

    @property
    def status(self) -> int:
        """0 = no response."""
        return int(self.messages[0]["status"]) if self.messages else 0

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def detail(self) -> str:
        """Text of a refusal."""
        return str(json.loads(self.body)["detail"])


def run_async(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in its own thread, because browser tests keep an event loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


def part(body: bytes, *, is_last: bool = False) -> dict[str, Any]:
    """One piece of a body."""
    return {"type": "http.request", "body": body, "more_body": not is_last}


def call(
    app: ASGIApp,
    messages: Iterable[Any] = (),
    *,
    path: str = "/gradio_api/call/ask",
    method: str = "POST",
    headers: Sequence[tuple[bytes, bytes]] = (),
    client: tuple[str, int] | None = ("10.0.0.1", 1),
    kind: str = "http",
) -> Answer:
    """Return the response to one request; re-raises errors of the application.

    Args:
        app: The application.
        messages: The body as it comes. A number among them is a pause in seconds, a function is called, an exception
            is raised. After the last one the client has gone.
        path: As a server hands it over: percent signs are decoded.
        method: Of HTTP.
        headers: Names in lower case.
        client: Address and port; None = the server does not know.
        kind: ``http``, or another protocol.
    """
    answer, coming = Answer(), list(messages)

    async def receive() -> Any:
        message = coming.pop(0) if coming else {"type": "http.disconnect"}
        if isinstance(message, Exception):
            raise message
        if isinstance(message, dict):
            return message
        if callable(message):
            message()
        else:
            await asyncio.sleep(message)
        return await receive()

    async def send(message: Any) -> None:
        answer.messages.append(message)

    scope = {"type": kind, "method": method, "path": path, "client": client, "headers": list(headers)}
    run_async(app(scope, receive, send))
    answer.unread = len(coming)
    return answer


async def accepting(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads all of a request, and says 200 and what it has read; nothing if the client is gone."""
    read = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        read += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": read})
