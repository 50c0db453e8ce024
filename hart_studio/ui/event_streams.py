"""ASGI middleware that prevents lost events while their event stream is closing.

Gradio sends the results of queued events of a session through one stream and closes it when no event is open. A client
that joins the queue at that moment still considers the stream open, opens no new one, and never gets the result. So a
join is delayed until the client has read that the stream is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Final
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hart_studio.ui.call_limits import JSON_SCOPE_KEY

JOIN_PATH: Final = "/gradio_api/queue/join"
STREAM_PATH: Final = "/gradio_api/queue/data"

SETTLE_SECONDS: Final = 0.25
"""How long responses to joins are delayed after the end of a stream. Project default."""

MAX_SESSIONS: Final = 4096
"""Number of sessions whose last stream end is stored. Project default."""

_CLOSING: Final = b'"close_stream"'


class EventStreams:
    """ASGI middleware behind ``RequestLimitMiddleware``, which has read the body of a join."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._closed: OrderedDict[str, float] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Record the end of streams; delay joins before the application and before the response."""
        path = scope["path"].rstrip("/") if scope["type"] == "http" else ""
        if path == STREAM_PATH:
            await self.app(scope, receive, self._watching(_read_session(scope), send))
        elif path == JOIN_PATH and isinstance(scope.get(JSON_SCOPE_KEY), dict):
            await self._join(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _watching(self, session: str, send: Send) -> Send:
        async def send_watched(message: Message) -> None:
            if _CLOSING in message.get("body", b""):
                self._closed[session] = time.monotonic()
                self._closed.move_to_end(session)
                if len(self._closed) > MAX_SESSIONS:
                    self._closed.popitem(last=False)
            await send(message)

        return send_watched

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = str(scope[JSON_SCOPE_KEY].get("session_hash"))
        await self._settle(session)

        async def send_settled(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._settle(session)  # the stream may have closed while the join was under way
            await send(message)

        await self.app(scope, receive, send_settled)

    async def _settle(self, session: str) -> None:
        closed = self._closed.get(session)
        if closed is not None:
            await asyncio.sleep(max(0.0, closed + SETTLE_SECONDS - time.monotonic()))


def _read_session(scope: Scope) -> str:
    query: bytes = scope.get("query_string", b"")
    return parse_qs(query.decode("latin-1")).get("session_hash", [""])[0]
