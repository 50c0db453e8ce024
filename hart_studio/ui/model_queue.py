"""Queue of questions for the model, with position and estimated waiting time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from hart_studio.errors import BusyError

MAX_WAITING: Final = 32
"""Maximum number of waiting questions; about a minute with the small model. Project default."""

MAX_MODEL_CALLS: Final = MAX_WAITING + 16
"""Model calls that the server accepts at once: waiting ones, the running one, and some to refuse."""

POLL_SECONDS: Final = 1.0
"""Interval of updates while waiting, which also detect disconnected clients."""

_NEWEST_SHARE: Final = 0.2
"""Weight of the newest turn in the moving average of turn times."""


class ModelQueue:
    """First in, first out; one turn at a time."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        """Create an empty queue.

        Args:
            max_waiting: Maximum number of waiting entries, without the running one.
        """
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._entries: list[object] = []
        self._turn_seconds: float | None = None

    @contextmanager
    def turn(self, on_update: Callable[[str], None], *, bypass_limit: bool = False) -> Iterator[None]:
        """Wait for the turn and hold it during the block.

        Args:
            on_update: Called every second with the queue position; an exception ends the waiting.
            bypass_limit: Whether to ignore the queue limit, for the second model of a comparison.

        Raises:
            BusyError: If the queue is full.
        """
        entry = object()
        with self._changed:
            waiting = len(self._entries) - 1
            if waiting >= self._max_waiting and not bypass_limit:
                raise BusyError(f"Queue full ({waiting} waiting{self._format_wait(waiting)}). Try again later.")
            self._entries.append(entry)
        try:
            while before := self._count_before(entry):
                on_update(f"Queued: {before} question{'s' * (before > 1)} ahead{self._format_wait(before)}")
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
