"""ASGI middleware that limits component calls: waiting, running, and size of the response.

Gradio runs every call of ``/gradio_api/component_server`` in a thread, without a limit on waiting calls, and even if
its client has disconnected. Here a call waits in the event loop until a slot is free, and is dropped if its client
disconnects.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hart_studio.ui.security.proxy_headers import client_address

CALLS_PATH: Final = "/gradio_api/component_server"
"""Path of component calls."""

JSON_SCOPE_KEY: Final = "hart_studio.json"
"""Key of the ASGI scope under which ``RequestLimitMiddleware`` leaves the parsed JSON body."""

MAX_CALLS: Final = 256
"""Open calls of all clients: waiting, running, or sending a response. Project default."""

MAX_CALLS_PER_ADDRESS: Final = 64
"""Open calls of one address, which may be a proxy with many users. Project default."""

MAX_CALLS_PER_SESSION: Final = 16
"""Open calls of one browser tab; a tab has at most about 6. Project default."""

MAX_ANSWER_BYTES: Final = 8 * 2**20
"""Size of one response; the largest of the pages has some hundred KB. Project default."""

SEND_BLOCK_BYTES: Final = 64 * 1024
"""Responses are sent in blocks of this size; each waits until the client has read the previous ones."""

RETRY_SECONDS: Final = 2
"""``Retry-After`` of refused calls."""

HEAVY_CALLS: Final = frozenset({
    "report", "tables", "preview_source", "export", "quality", "diff_labels", "describe_export_loss",
    "describe_score_basis", "compare", "duplicate",
})  # fmt: skip
"""Calls that read whole files or projects, or write archives."""

MODEL_CALLS: Final = frozenset({"check"})
"""Calls that wait for a model."""

Kind = Literal["light", "heavy", "model"]

MAX_RUNNING: Final[Mapping[Kind, int]] = {"light": 24, "heavy": 2, "model": 16}
"""Running calls of all clients; each uses a thread. Project default."""

MAX_RUNNING_PER_ADDRESS: Final[Mapping[Kind, int]] = {"light": 12, "heavy": 2, "model": 8}
"""Running calls of one address. Project default."""

MAX_RUNNING_PER_SESSION: Final[Mapping[Kind, int]] = {"light": 12, "heavy": 1, "model": 4}
"""Running calls of one browser tab or project. Project default."""

_SHARED_SESSION: Final = "component-calls"
"""Session of all component calls. They store nothing in a session, and Gradio drops the oldest sessions."""


@dataclass(eq=False)
class _Call:
    """A waiting or running call."""

    kind: Kind
    address: str
    session: str
    project: str
    is_started: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """Keys with their own limits: the tab, and the project or run of the call."""
        return tuple(pair for pair in (("session", self.session), ("project", self.project)) if pair[1])


class CallLimits:
    """ASGI middleware behind ``RequestLimitMiddleware``, which has read the body of the call."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._calls: set[_Call] = set()
        self._waiting: list[_Call] = []
        self._running: set[_Call] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 429 to a client with too many calls, 503 if there are too many in total, 413 for a large response."""
        is_call = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/") == CALLS_PATH
        body = scope.get(JSON_SCOPE_KEY)
        if not is_call or not isinstance(body, dict):
            await self.app(scope, receive, _in_blocks(send) if scope["type"] == "http" else send)
            return
        call = _read_call(scope, body)
        if refusal := self._find_refusal(call):
            await refusal(scope, receive, send)
            return
        self._calls.add(call)
        try:
            await self._run(call, body, scope, receive, send)
        finally:
            self._calls.discard(call)

    def _find_refusal(self, call: _Call) -> JSONResponse | None:
        same_address = sum(each.address == call.address for each in self._calls)
        same_session = sum((each.address, each.session) == (call.address, call.session) for each in self._calls)
        if same_address >= MAX_CALLS_PER_ADDRESS or same_session >= MAX_CALLS_PER_SESSION:
            return _refuse(429, "Too many requests from this browser or network. Try again in a moment.")
        if len(self._calls) >= MAX_CALLS:
            return _refuse(503, "The server is busy. Try again in a moment.")
        return None

    async def _run(self, call: _Call, body: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        if message["type"] != "http.request":
            return
        # Watch the connection from here on, and keep its messages for the application.
        client = asyncio.ensure_future(receive())
        self._waiting.append(call)
        self._start_calls()
        started = asyncio.ensure_future(call.is_started.wait())
        try:
            await asyncio.wait({client, started}, return_when=asyncio.FIRST_COMPLETED)
            if not client.done():
                await asyncio.wait({client}, timeout=0)  # notice a disconnected client first
            if not started.done() or (client.done() and client.result()["type"] == "http.disconnect"):
                return
            data = json.dumps({**body, "session_hash": _SHARED_SESSION}).encode()
            messages: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]

            async def receive_kept() -> Message:
                return messages.pop() if messages else await asyncio.shield(client)

            lengths = [pair for pair in scope["headers"] if pair[0].lower() != b"content-length"]
            headers = [*lengths, (b"content-length", str(len(data)).encode())]
            await self.app({**scope, "headers": headers}, receive_kept, self._answering(call, send))
        finally:
            started.cancel()
            client.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await client
            self._release(call)

    def _answering(self, call: _Call, send: Send) -> Send:
        """Send a response in blocks; frees the slot at its start, and replaces a response that is too large."""
        passed_on = _in_blocks(send)
        is_too_large = False

        async def send_bounded(message: Message) -> None:
            nonlocal is_too_large
            if message["type"] == "http.response.start":
                self._release(call)
                if stated_length(message) > MAX_ANSWER_BYTES:
                    is_too_large = True
                    refused = JSONResponse(
                        {"detail": f"The response is larger than {MAX_ANSWER_BYTES >> 20} MiB. Request less at once."},
                        413,
                    )
                    await refused({"type": "http"}, _receive_nothing, send)
            if not is_too_large:
                await passed_on(message)

        return send_bounded

    def _release(self, call: _Call) -> None:
        """Free the slot of a call and start waiting calls."""
        if call in self._waiting:
            self._waiting.remove(call)
        self._running.discard(call)
        self._start_calls()

    def _start_calls(self) -> None:
        """Start waiting calls: first of addresses with the fewest running calls, then in order of arrival."""
        while True:
            count = Counter((each.kind, each.address) for each in self._running)
            ready = [each for each in self._waiting if self._may_run(each)]
            if not ready:
                return
            call = min(ready, key=lambda each: count[each.kind, each.address])
            self._waiting.remove(call)
            self._running.add(call)
            call.is_started.set()

    def _may_run(self, call: _Call) -> bool:
        same = [each for each in self._running if each.kind == call.kind]
        if len(same) >= MAX_RUNNING[call.kind]:
            return False
        if sum(each.address == call.address for each in same) >= MAX_RUNNING_PER_ADDRESS[call.kind]:
            return False
        return all(
            sum(key in each.keys for each in same) < MAX_RUNNING_PER_SESSION[call.kind]
            for key in call.keys
            if key[0] == "session" or call.kind == "heavy"
        )


def _read_call(scope: Scope, body: Mapping[str, Any]) -> _Call:
    name = body.get("fn_name")
    kind: Kind = "light"
    if isinstance(name, str):
        kind = "heavy" if name in HEAVY_CALLS else "model" if name in MODEL_CALLS else "light"
    data = body.get("data")
    project = ""
    if isinstance(data, dict):
        named = [data.get("session_token"), data.get("project") or data.get("run") or data.get("runs")]
        project = json.dumps(named)[:400] if any(named) else ""
    return _Call(kind, client_address(scope), str(body.get("session_hash"))[:80], project)


def _refuse(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, {"retry-after": str(RETRY_SECONDS)})


def stated_length(message: Scope | Message) -> int:
    """Content-Length of a request or response; the largest of several, 0 if missing."""
    pairs = message.get("headers", [])
    found = [value for name, value in pairs if name.lower() == b"content-length" and value.isdigit()]
    return max((int(value[:20]) for value in found), default=0)


def _in_blocks(send: Send) -> Send:
    """Split large bodies: the web server waits between two messages until the client has read, but not within one."""

    async def send_in_blocks(message: Message) -> None:
        body = message.get("body", b"") if message["type"] == "http.response.body" else b""
        if len(body) <= SEND_BLOCK_BYTES:
            await send(message)
            return
        view = memoryview(body)
        last = (len(body) - 1) // SEND_BLOCK_BYTES
        for index in range(last + 1):
            block = bytes(view[index * SEND_BLOCK_BYTES : (index + 1) * SEND_BLOCK_BYTES])
            await send({**message, "body": block, "more_body": index < last or message.get("more_body", False)})

    return send_in_blocks


async def _receive_nothing() -> Message:
    return {"type": "http.disconnect"}
