"""Questions wait for the model one behind the other, and know how many come before them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from hart_studio.errors import BusyError

MAX_WAITING: Final = 32
"""Questions that may wait; project default: with the small model the last one waits for about a minute."""

MAX_MODEL_CALLS: Final = MAX_WAITING + 16
"""Calls of a model that the server takes in at once: those that wait, the one whose turn it is, and some to refuse."""

POLL_SECONDS: Final = 1.0
"""Between two looks whether whoever waits is still there."""

_NEWEST_SHARE: Final = 0.2
"""Weight of the newest turn in the time that a turn is expected to take."""


class ModelQueue:
    """One turn at a time, in the order in which they were asked for."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        """No one waits yet.

        Args:
            max_waiting: How many may wait beside the one whose turn it is.
        """
        self._most = max_waiting
        self._changed = threading.Condition()
        self._entries: list[object] = []
        self._turn_seconds: float | None = None

    @contextmanager
    def turn(self, on_update: Callable[[str], None], *, bypass_limit: bool = False) -> Iterator[None]:
        """Wait for a turn, and have it while the block runs.

        Args:
            on_update: Told how many come before, once a second while there are any. What it raises ends the waiting.
            bypass_limit: Whether this continues with what had a turn before, and is not refused half-way.

        Raises:
            BusyError: If too many wait already.
        """
        entry = object()
        with self._changed:
            waiting = len(self._entries) - 1
            if waiting >= self._most and not bypass_limit:
                raise BusyError(f"Queue full ({waiting} waiting{self._format_wait(waiting)}). Try again later.")
            self._entries.append(entry)
        try:
            while before := self._count_before(entry):
                on_update(f"Busy: {before} question{'s' * (before > 1)} before yours{self._format_wait(before)}")
                with self._changed:
                    self._changed.wait_for(partial(self._has_moved, entry, before), POLL_SECONDS)
            began = time.monotonic()
            yield
            self._update_estimate(time.monotonic() - began)
        finally:
            with self._changed:
                self._entries.remove(entry)
                self._changed.notify_all()

    def _has_moved(self, entry: object, before: int) -> bool:
        return self._entries.index(entry) < before

    def _count_before(self, entry: object) -> int:
        with self._changed:
            return self._entries.index(entry)

    def _update_estimate(self, seconds: float) -> None:
        known = self._turn_seconds
        self._turn_seconds = seconds if known is None else known + _NEWEST_SHARE * (seconds - known)

    def _format_wait(self, turns: int) -> str:
        return "" if self._turn_seconds is None else f", about {max(1, round(turns * self._turn_seconds))} s"
