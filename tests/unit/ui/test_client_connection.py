import queue
import threading
import time
from types import SimpleNamespace

import pytest
from gradio.context import LocalContext

from hart_studio.ui import client_connection
from hart_studio.ui.client_connection import ClientConnection, ClientDisconnectedError


@pytest.fixture
def event(monkeypatch):
    """The event that this thread handles; its messages lie in ``event.messages``."""
    monkeypatch.setattr(client_connection, "UNREAD_SECONDS", 0.3)
    messages = queue.Queue()
    messages.put("process_starts")
    found = SimpleNamespace(alive=True, session_hash="s", enqueue_time=time.monotonic(), messages=messages)
    blocks = SimpleNamespace(
        _queue=SimpleNamespace(event_ids_to_events={"e": found}, pending_messages_per_session={"s": messages})
    )
    tokens = LocalContext.blocks.set(blocks), LocalContext.event_id.set("e")
    yield found
    LocalContext.blocks.reset(tokens[0])
    LocalContext.event_id.reset(tokens[1])


def test_outside_of_an_event_someone_always_waits():
    caller = ClientConnection()
    caller.wait_for_reader()
    assert not caller.is_gone


def test_an_event_whose_stream_no_one_opens_is_gone(event):
    caller = ClientConnection()
    assert not caller.is_gone
    began = time.monotonic()
    with pytest.raises(ClientDisconnectedError, match="reading the event stream"):
        caller.wait_for_reader()
    assert 0.2 < time.monotonic() - began < 5
    event.enqueue_time -= 1  # it waited in the queue before
    began = time.monotonic()
    with pytest.raises(ClientDisconnectedError):
        ClientConnection().wait_for_reader()
    assert time.monotonic() - began < client_connection.UNREAD_SECONDS + client_connection._READ_SECONDS, (
        "no second wait"
    )


def test_an_event_that_waited_long_for_its_turn_has_a_moment_for_its_reader(event):
    """Its first message has only just been written when the handler checks."""
    event.enqueue_time -= 60
    timer = threading.Timer(0.1, event.messages.get)
    timer.start()
    connection = ClientConnection()
    connection.wait_for_reader()
    assert not connection.is_gone


def test_an_event_whose_messages_are_read_goes_on(event):
    caller = ClientConnection()
    event.messages.get()
    caller.wait_for_reader()
    time.sleep(0.4)
    assert not caller.is_gone
    event.messages.put("progress")
    assert not caller.is_gone, "it has just been written"
    time.sleep(0.4)
    timer = threading.Timer(0.1, event.messages.get)
    timer.start()
    assert not caller.is_gone, "it is read in a moment"
    event.messages.put("progress")
    assert not caller.is_gone
    time.sleep(0.4)
    assert caller.is_gone, "no one reads any more"


def test_a_closed_stream_is_gone_and_ends_the_work(event):
    event.messages.get()
    stages = []
    report = ClientConnection().watch(lambda fraction, stage: stages.append(stage))
    report(0.1, "a")
    event.alive = False
    with pytest.raises(ClientDisconnectedError):
        report(0.2, "b")
    assert stages == ["a"]
