"""The line before the model: turns in order, places told, too many refused, those who have gone leave no gap."""

from __future__ import annotations

import threading
import time

import pytest

from hart_studio.errors import BusyError
from hart_studio.ui.model_queue import ModelQueue


class Visitor:
    """Has a turn in a thread of its own, for as long as it is told to."""

    def __init__(
        self, line: ModelQueue, journal: list[str], name: str, tell=None, *, bypass_limit: bool = False
    ) -> None:
        self.told: list[str] = []
        self.error: Exception | None = None
        self.may_end = threading.Event()
        self.has_turn = threading.Event()
        self._work = (line, journal, name, tell or (lambda text: None), bypass_limit)
        self.thread = threading.Thread(target=self._visit, daemon=True)
        self.thread.start()

    def _visit(self) -> None:
        line, journal, name, tell, bypass_limit = self._work

        def hear(text: str) -> None:
            self.told.append(text)
            tell(text)

        try:
            with line.turn(hear, bypass_limit=bypass_limit):
                journal.append(name)
                self.has_turn.set()
                assert self.may_end.wait(30)
        except Exception as error:
            self.error = error

    def wait_until_told(self, count: int = 1, start: str = "") -> None:
        deadline = time.monotonic() + 30
        while sum(text.startswith(start) for text in self.told) < count:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def leave(self) -> None:
        self.may_end.set()
        self.thread.join(30)


def wait_in_order(line: ModelQueue, journal: list[str], names: str) -> list[Visitor]:
    """The first has its turn, the others wait, each behind the one before."""
    visitors = [Visitor(line, journal, names[0])]
    assert visitors[0].has_turn.wait(30)
    for name in names[1:]:
        visitors.append(Visitor(line, journal, name))
        visitors[-1].wait_until_told()
    return visitors


def test_turns_come_in_the_order_of_asking_and_places_are_told() -> None:
    line, journal = ModelQueue(), []
    visitors = wait_in_order(line, journal, "abcd")
    assert [visitor.told[0] for visitor in visitors[1:]] == [
        "Queued: 1 question ahead",
        "Queued: 2 questions ahead",
        "Queued: 3 questions ahead",
    ]
    visitors[0].leave()  # from now on it is known how long a turn takes
    visitors[3].wait_until_told(start="Queued: 2 questions ahead, about ")
    for visitor in visitors[1:]:
        assert visitor.has_turn.wait(30)
        visitor.leave()
    assert journal == list("abcd")


def test_who_finds_the_line_full_is_told_how_full_and_does_not_wait() -> None:
    line = ModelQueue(max_waiting=2)
    visitors = wait_in_order(line, [], "abc")
    with pytest.raises(BusyError, match=r"Queue full \(2 waiting\). Try again later"), line.turn(lambda text: None):
        pytest.fail("there was no room")
    second_model = Visitor(line, [], "d", bypass_limit=True)
    second_model.wait_until_told()
    for visitor in [*visitors, second_model]:
        visitor.leave()
    with line.turn(lambda text: pytest.fail("no one is before")):
        pass
    with pytest.raises(ValueError, match="work"), line.turn(lambda text: None):
        raise ValueError("work that fails ends its turn, too")
    with line.turn(lambda text: pytest.fail("no one is before")):
        pass


def test_who_goes_away_while_waiting_leaves_the_line_at_once() -> None:
    line, journal, gone = ModelQueue(), [], threading.Event()

    def tell(text: str) -> None:
        if gone.is_set():
            raise ConnectionError("closed")

    first = Visitor(line, journal, "first")
    assert first.has_turn.wait(30)
    leaving = Visitor(line, journal, "leaving", tell)
    leaving.wait_until_told()
    last = Visitor(line, journal, "last")
    last.wait_until_told()
    gone.set()
    leaving.thread.join(30)
    assert isinstance(leaving.error, ConnectionError)
    deadline = time.monotonic() + 30
    while last.told[-1] != "Queued: 1 question ahead":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.leave()
    last.leave()
    assert journal == ["first", "last"]


def test_a_clock_that_is_set_changes_no_place_and_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ModelQueue()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with line.turn(lambda text: None):
        monkeypatch.setattr(time, "time", lambda: 4e9)
    visitors = wait_in_order(line, [], "ab")
    assert visitors[1].told[0] == "Queued: 1 question ahead, about 1 s"
    for visitor in visitors:
        visitor.leave()
