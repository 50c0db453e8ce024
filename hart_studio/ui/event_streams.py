"""ASGI middleware that keeps events of the page from being lost while their stream of results closes.

Gradio sends the results of a session's queued events through one stream, and ends it as soon as no event is open. A
client that joins the queue in that moment still takes the stream for open: it opens no new one, and the result is never
fetched. So the last message of a stream is held back for a while. If the session joins the queue meanwhile, the same
stream continues with the next results. A join that comes just after the end is answered only when the client has surely
read the end.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Final
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hart_studio.ui.security.call_limits import JSON_SCOPE_KEY

JOIN_PATH: Final = "/gradio_api/queue/join"
STREAM_PATH: Final = "/gradio_api/queue/data"

LINGER_SECONDS: Final = 2.0
"""How long a stream without open events stays open. Project default."""

SETTLE_SECONDS: Final = 0.25
"""How long after the end of a stream the answers to joins are held back. Project default."""

MAX_SESSIONS: Final = 4096
"""Sessions whose last end of a stream is remembered. Project default."""

_CLOSING: Final = b'"close_stream"'


class EventStreams:
    """ASGI middleware behind ``RequestLimitMiddleware``, which has read the body of a join."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._closed: OrderedDict[str, float] = OrderedDict()
        self._joined: dict[str, asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Extend streams while their session joins the queue, and delay joins just after an end."""
        path = scope["path"].rstrip("/") if scope["type"] == "http" else ""
        if path == STREAM_PATH:
            await self._stream(scope, receive, send)
        elif path == JOIN_PATH and isinstance(scope.get(JSON_SCOPE_KEY), dict):
            await self._join(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = _read_session(scope)
        is_started = False
        while True:
            closing: Message | None = None

            async def send_held(message: Message) -> None:
                nonlocal closing, is_started
                if closing is not None or _CLOSING in message.get("body", b""):
                    closing = closing or message  # what follows is the empty end of the response
                elif message["type"] != "http.response.start":
                    await send(message)
                elif not is_started:
                    is_started = True
                    await send(message)

            joined = self._joined[session] = asyncio.Event()
            await self.app(scope, receive, send_held)
            if closing is None or not await _is_set_before_disconnect(joined, receive):
                break
        if self._joined.get(session) is joined:
            del self._joined[session]
        if closing is not None:
            self._closed[session] = time.monotonic()
            self._closed.move_to_end(session)
            if len(self._closed) > MAX_SESSIONS:
                self._closed.popitem(last=False)
            await send({**closing, "more_body": False})

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = str(scope[JSON_SCOPE_KEY].get("session_hash"))
        await self._settle(session)

        async def send_settled(message: Message) -> None:
            if message["type"] == "http.response.start":  # the event is in the queue
                if session in self._joined:
                    self._joined[session].set()
                await self._settle(session)  # the stream may have closed while the join was under way
            await send(message)

        await self.app(scope, receive, send_settled)

    async def _settle(self, session: str) -> None:
        closed = self._closed.get(session)
        if closed is not None:
            await asyncio.sleep(max(0.0, closed + SETTLE_SECONDS - time.monotonic()))


async def _is_set_before_disconnect(joined: asyncio.Event, receive: Receive) -> bool:
    """Wait up to ``LINGER_SECONDS`` for a join, or until the client disconnects."""

    async def wait_for_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    waiting = [asyncio.ensure_future(joined.wait()), asyncio.ensure_future(wait_for_disconnect())]
    try:
        await asyncio.wait(waiting, timeout=LINGER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return joined.is_set()
    finally:
        for each in waiting:
            each.cancel()
            with suppress(asyncio.CancelledError):
                await each


def _read_session(scope: Scope) -> str:
    query: bytes = scope.get("query_string", b"")
    return parse_qs(query.decode("latin-1")).get("session_hash", [""])[0]
