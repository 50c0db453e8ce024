"""Model queue: order, positions, limit, disconnected clients."""

from __future__ import annotations

import queue
import threading
import time
from types import SimpleNamespace

import pytest
from gradio.context import LocalContext

from hart_studio.errors import BusyError
from hart_studio.ui import model_calls
from hart_studio.ui.model_calls import ClientConnection, ClientDisconnectedError, ModelQueue, follow
from hart_studio.ui.pages.display import Running


class Visitor:
    """Holds a turn in a thread until it is released."""

    def __init__(
        self, model_queue: ModelQueue, journal: list[str], name: str, on_message=None, *, bypass_limit: bool = False
    ) -> None:
        self.messages: list[str] = []
        self.error: Exception | None = None
        self.may_end = threading.Event()
        self.has_turn = threading.Event()
        self._work = (model_queue, journal, name, on_message or (lambda text: None), bypass_limit)
        self.thread = threading.Thread(target=self._visit, daemon=True)
        self.thread.start()

    def _visit(self) -> None:
        model_queue, journal, name, on_message, bypass_limit = self._work

        def hear(text: str) -> None:
            self.messages.append(text)
            on_message(text)

        try:
            with model_queue.turn(hear, bypass_limit=bypass_limit):
                journal.append(name)
                self.has_turn.set()
                assert self.may_end.wait(30)
        except Exception as error:
            self.error = error

    def wait_for_message(self, count: int = 1, start: str = "") -> None:
        deadline = time.monotonic() + 30
        while sum(text.startswith(start) for text in self.messages) < count:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def leave(self) -> None:
        self.may_end.set()
        self.thread.join(30)


def wait_in_order(model_queue: ModelQueue, journal: list[str], names: str) -> list[Visitor]:
    """The first has its turn, the others wait, each behind the one before."""
    visitors = [Visitor(model_queue, journal, names[0])]
    assert visitors[0].has_turn.wait(30)
    for name in names[1:]:
        visitors.append(Visitor(model_queue, journal, name))
        visitors[-1].wait_for_message()
    return visitors


def test_turns_come_in_the_order_of_asking_and_positions_are_reported() -> None:
    model_queue, journal = ModelQueue(), []
    visitors = wait_in_order(model_queue, journal, "abcd")
    assert [visitor.messages[0] for visitor in visitors[1:]] == [
        "Queued: 1 question ahead",
        "Queued: 2 questions ahead",
        "Queued: 3 questions ahead",
    ]
    visitors[0].leave()  # from now on it is known how long a turn takes
    visitors[3].wait_for_message(start="Queued: 2 questions ahead, about ")
    for visitor in visitors[1:]:
        assert visitor.has_turn.wait(30)
        visitor.leave()
    assert journal == list("abcd")


def test_a_full_queue_is_refused_with_its_length() -> None:
    model_queue = ModelQueue(max_waiting=2)
    visitors = wait_in_order(model_queue, [], "abc")
    with (
        pytest.raises(BusyError, match=r"Queue full \(2 waiting\). Try again later"),
        model_queue.turn(lambda text: None),
    ):
        pytest.fail("the queue was full")
    second_model = Visitor(model_queue, [], "d", bypass_limit=True)
    second_model.wait_for_message()
    for visitor in [*visitors, second_model]:
        visitor.leave()
    with model_queue.turn(lambda text: pytest.fail("no one is before")):
        pass
    with pytest.raises(ValueError, match="work"), model_queue.turn(lambda text: None):
        raise ValueError("work that fails ends its turn, too")
    with model_queue.turn(lambda text: pytest.fail("no one is before")):
        pass


def test_who_goes_away_while_waiting_leaves_the_line_at_once() -> None:
    model_queue, journal, gone = ModelQueue(), [], threading.Event()

    def on_message(text: str) -> None:
        if gone.is_set():
            raise ConnectionError("closed")

    first = Visitor(model_queue, journal, "first")
    assert first.has_turn.wait(30)
    leaving = Visitor(model_queue, journal, "leaving", on_message)
    leaving.wait_for_message()
    last = Visitor(model_queue, journal, "last")
    last.wait_for_message()
    gone.set()
    leaving.thread.join(30)
    assert isinstance(leaving.error, ConnectionError)
    deadline = time.monotonic() + 30
    while last.messages[-1] != "Queued: 1 question ahead":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.leave()
    last.leave()
    assert journal == ["first", "last"]


def test_a_clock_that_is_set_changes_no_place_and_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    model_queue = ModelQueue()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with model_queue.turn(lambda text: None):
        monkeypatch.setattr(time, "time", lambda: 4e9)
    visitors = wait_in_order(model_queue, [], "ab")
    assert visitors[1].messages[0] == "Queued: 1 question ahead, about 1 s"
    for visitor in visitors:
        visitor.leave()


@pytest.fixture
def event(monkeypatch):
    """The event that this thread handles; its messages lie in ``event.messages``."""
    monkeypatch.setattr(model_calls, "UNREAD_SECONDS", 0.3)
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
    assert time.monotonic() - began < model_calls.UNREAD_SECONDS + model_calls._READ_SECONDS, "no second wait"


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


def run(work):
    steps, seen = follow(work), []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as done:
            return seen, done.value


def test_reports_arrive_in_order_and_the_result_last():
    def work(progress):
        progress(0.25, "locating")
        progress(0.5, "answering")
        return "five"

    assert run(work) == ([Running(0.25, "locating"), Running(0.5, "answering")], "five")


def test_a_share_outside_zero_to_one_is_clamped():
    seen, _ = run(lambda progress: (progress(-1.0, "a"), progress(7.0, "b")))
    assert [report.fraction for report in seen] == [0.0, 1.0]


def test_an_error_reaches_the_reader_after_the_reports():
    def work(progress):
        progress(0.1, "locating")
        raise ValueError("broken")

    steps = follow(work)
    assert next(steps).stage == "locating"
    with pytest.raises(ValueError, match="broken"):
        next(steps)


def test_work_goes_on_when_the_reader_leaves():
    left, finished = threading.Event(), threading.Event()

    def work(progress):
        progress(0.1, "locating")
        left.wait(30)
        finished.set()

    steps = follow(work)
    next(steps)
    steps.close()
    left.set()
    assert finished.wait(30)
