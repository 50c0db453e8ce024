"""Questions wait for the model one behind the other, and know how many come before them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from hart_studio.errors import BusyError

MOST_WAITING: Final = 32
"""Questions that may wait, ours: with the small model the last one waits for about a minute."""

MODEL_CALLS: Final = MOST_WAITING + 16
"""Calls of a model that the server takes in at once: those that wait, the one whose turn it is, and some to refuse."""

LOOK_SECONDS: Final = 1.0
"""Between two looks whether whoever waits is still there."""

_NEWEST_SHARE: Final = 0.2
"""Weight of the newest turn in the time that a turn is expected to take."""


class Line:
    """One turn at a time, in the order in which they were asked for."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        """Nobody waits yet.

        Args:
            most_waiting: How many may wait beside the one whose turn it is.
        """
        self._most = most_waiting
        self._changed = threading.Condition()
        self._tickets: list[object] = []
        self._turn_seconds: float | None = None

    @contextmanager
    def turn(self, tell: Callable[[str], None], *, is_admitted: bool = False) -> Iterator[None]:
        """Wait for a turn, and have it while the block runs.

        Args:
            tell: Told how many come before, once a second while there are any. What it raises ends the waiting.
            is_admitted: Whether this goes on with what had a turn before, and is not refused half-way.

        Raises:
            BusyError: If too many wait already.
        """
        ticket = object()
        with self._changed:
            waiting = len(self._tickets) - 1
            if waiting >= self._most and not is_admitted:
                raise BusyError(
                    f"expected room for one more question, got {waiting} that wait already{self._tell_time(waiting)}; "
                    "ask again later"
                )
            self._tickets.append(ticket)
        try:
            while before := self._count_before(ticket):
                tell(f"Busy: {before} question{'s' * (before > 1)} before yours{self._tell_time(before)}")
                with self._changed:
                    self._changed.wait_for(partial(self._has_moved, ticket, before), LOOK_SECONDS)
            began = time.monotonic()
            yield
            self._learn(time.monotonic() - began)
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def _has_moved(self, ticket: object, before: int) -> bool:
        return self._tickets.index(ticket) < before

    def _count_before(self, ticket: object) -> int:
        with self._changed:
            return self._tickets.index(ticket)

    def _learn(self, seconds: float) -> None:
        known = self._turn_seconds
        self._turn_seconds = seconds if known is None else known + _NEWEST_SHARE * (seconds - known)

    def _tell_time(self, turns: int) -> str:
        return "" if self._turn_seconds is None else f", about {max(1, round(turns * self._turn_seconds))} s"
