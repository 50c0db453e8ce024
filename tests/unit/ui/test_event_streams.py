import asyncio
import time

import pytest

from hart_studio.ui import event_streams
from hart_studio.ui.event_streams import JOIN_PATH, STREAM_PATH, EventStreams
from hart_studio.ui.security.call_limits import JSON_SCOPE_KEY
from tests.asgi import run_async

CLOSE = b'data: {"msg":"close_stream"}\n\n'


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(event_streams, "SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(event_streams, "LINGER_SECONDS", 0.2)


async def application(scope, receive, send):
    """Send a result and close the stream; a join is answered after its ``delay``."""
    scope["asked"].append(time.monotonic())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == STREAM_PATH:
        await send({"type": "http.response.body", "body": b"data: result\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": CLOSE, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    else:
        await asyncio.sleep(scope.get("delay", 0))
        await send({"type": "http.response.body", "body": b"{}", "more_body": False})


class Request:
    """A request under way: when the application was asked, and what was sent."""

    def __init__(self, app, path, session, **more):
        self.asked, self.sent = [], []
        self.left = asyncio.Event()
        scope = {"type": "http", "path": path, "query_string": f"session_hash={session}".encode(), "asked": self.asked}
        scope |= {JSON_SCOPE_KEY: {"session_hash": session}, **more}
        self.task = asyncio.ensure_future(app(scope, self.receive, self.send))

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append((time.monotonic(), message))

    @property
    def body(self):
        return b"".join(message.get("body", b"") for _, message in self.sent)

    @property
    def starts(self):
        return sum(message["type"] == "http.response.start" for _, message in self.sent)


def test_a_stream_continues_while_its_session_joins():
    async def scene():
        app = EventStreams(application)
        stream = Request(app, STREAM_PATH, "a")
        for _ in range(3):
            await asyncio.sleep(0.05)
            await Request(app, JOIN_PATH, "a").task
        await Request(app, JOIN_PATH, "b").task
        await stream.task
        assert len(stream.asked) == 4 and stream.starts == 1
        assert stream.body == b"data: result\n\n" * 4 + CLOSE
        assert not stream.sent[-1][1]["more_body"]
        assert not app._joined

    run_async(scene())


def test_a_join_just_after_the_stream_closed_waits():
    async def scene():
        app = EventStreams(application)
        stream = Request(app, STREAM_PATH, "a")
        await stream.task
        closed = stream.sent[-1][0]
        join, other = Request(app, JOIN_PATH, "a"), Request(app, JOIN_PATH, "b")
        await asyncio.gather(join.task, other.task)
        assert join.asked[0] - closed > 0.28
        assert other.asked[0] - closed < 0.15, "another session does not wait"
        began = time.monotonic()
        join = Request(app, JOIN_PATH, "a")
        await join.task
        assert join.asked[0] - began < 0.15, "the stream closed long ago"

    run_async(scene())


def test_a_client_that_left_keeps_no_stream():
    async def scene():
        app = EventStreams(application)
        stream = Request(app, STREAM_PATH, "a")
        await asyncio.sleep(0.02)
        began = time.monotonic()
        stream.left.set()
        await stream.task
        assert time.monotonic() - began < 0.15
        assert not app._joined

    run_async(scene())


def test_an_application_that_ends_a_stream_by_itself_is_passed_on():
    async def ending(scope, receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"gone", "more_body": False})

    async def scene():
        app = EventStreams(ending)
        stream = Request(app, STREAM_PATH, "a")
        await stream.task
        assert [message.get("status") for _, message in stream.sent] == [404, None] and stream.body == b"gone"
        assert not app._joined and not app._closed

    run_async(scene())


def test_the_sessions_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(event_streams, "MAX_SESSIONS", 2)

    async def scene():
        app = EventStreams(application)
        for session in ("a", "b", "c"):
            await Request(app, STREAM_PATH, session).task
        assert list(app._closed) == ["b", "c"]

    run_async(scene())
