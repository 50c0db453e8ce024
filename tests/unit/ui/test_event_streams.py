import asyncio
import time

import pytest

from hart_studio.ui import event_streams
from hart_studio.ui.call_limits import JSON_SCOPE_KEY
from hart_studio.ui.event_streams import JOIN_PATH, STREAM_PATH, EventStreams
from tests.asgi import run_async


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(event_streams, "SETTLE_SECONDS", 0.2)


async def application(scope, receive, send):
    """Close the stream, or answer at once; ``slow`` joins are answered while the stream closes."""
    scope["asked"].append(time.monotonic())
    if scope["path"] == STREAM_PATH:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'data: {"msg":"heartbeat"}\n\n', "more_body": True})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b'data: {"msg":"close_stream"}\n\n', "more_body": False})
        return
    if scope.get("slow"):
        await asyncio.sleep(0.1)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}", "more_body": False})


def request(app, path, session, **more):
    """Send a request; its asked and answered times are in the lists that come back."""
    asked, answered = [], []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        answered.append(time.monotonic())

    scope = {"type": "http", "path": path, "query_string": f"session_hash={session}".encode(), "asked": asked}
    scope |= {JSON_SCOPE_KEY: {"session_hash": session}, **more}
    return asyncio.ensure_future(app(scope, receive, send)), asked, answered


def test_a_join_just_after_the_stream_closed_waits():
    async def scene():
        app = EventStreams(application)
        stream, _, closed = request(app, STREAM_PATH, "a")
        await stream
        join, asked, _ = request(app, JOIN_PATH, "a")
        other, other_asked, _ = request(app, JOIN_PATH, "b")
        await asyncio.gather(join, other)
        assert asked[0] - closed[-1] > 0.19
        assert other_asked[0] - closed[-1] < 0.1, "another session does not wait"
        join, asked, _ = request(app, JOIN_PATH, "a")
        began = time.monotonic()
        await join
        assert asked[0] - began < 0.1, "the stream closed long ago"

    run_async(scene())


def test_a_join_during_which_the_stream_closes_is_answered_later():
    async def scene():
        app = EventStreams(application)
        stream, _, closed = request(app, STREAM_PATH, "a")
        join, _, answered = request(app, JOIN_PATH, "a", slow=True)
        await asyncio.gather(stream, join)
        assert answered[0] - closed[-1] > 0.19

    run_async(scene())


def test_the_sessions_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(event_streams, "MAX_SESSIONS", 2)

    async def scene():
        app = EventStreams(application)
        for session in ("a", "b", "c"):
            await request(app, STREAM_PATH, session)[0]
        assert list(app._closed) == ["b", "c"]

    run_async(scene())
