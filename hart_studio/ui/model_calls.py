"""Calls of the model: the queue for it, the progress of a call, and clients that disconnect meanwhile.

No work is done for a disconnected client while others wait for the model.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from gradio.context import LocalContext

from hart_studio.errors import BusyError, HartError
from hart_studio.ui.pages.display import Running

MAX_WAITING: Final = 32
"""Maximum number of waiting questions; about a minute with the small model. Project default."""

MAX_MODEL_CALLS: Final = MAX_WAITING + 16
"""Model calls that the server accepts at once: waiting ones, the running one, and some to refuse."""

QUEUE_POLL_SECONDS: Final = 1.0
"""Interval of updates while waiting, which also detect disconnected clients."""

_NEWEST_SHARE: Final = 0.2
"""Weight of the newest turn in the moving average of turn times."""

UNREAD_SECONDS: Final = 15.0
"""How long messages of an event may stay unread. The page and ``gradio_client`` open the event stream at once; with two
curl commands it takes a moment. Project default."""

_POLL_SECONDS: Final = 0.05
_READ_SECONDS: Final = 1.0

Result = TypeVar("Result")
Progress = Callable[[float, str], None]
"""Called with the completed share in [0, 1] and the name of the stage."""


class ModelQueue:
    """First in, first out; one turn at a time. ``max_waiting`` does not count the running entry."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
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
                    self._changed.wait_for(partial(self._has_moved, entry, before), QUEUE_POLL_SECONDS)
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


class ClientDisconnectedError(HartError):
    """The client has disconnected."""


class ClientConnection:
    """Connection of the client whose event is being handled."""

    def __init__(self) -> None:
        """Find the event of this thread; outside a handler the client counts as connected."""
        blocks, number = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
        self._event: Any = None
        self._queue: Any = None
        if blocks is not None and number is not None:
            self._queue = blocks._queue
            self._event = self._queue.event_ids_to_events.get(number)
        self._unread_since: float | None = None if self._event is None else self._event.enqueue_time

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed its event stream, or has not opened it."""
        if self._event is None:
            return False
        if not self._event.alive:
            return True
        if not self._is_unread:
            self._unread_since = None
            return False
        if self._unread_since is None:
            self._unread_since = time.monotonic()
        return time.monotonic() - self._unread_since > UNREAD_SECONDS and not self._is_read_soon()

    def _is_read_soon(self) -> bool:
        """Whether unread messages are read within a moment, because they were just written."""
        end = time.monotonic() + _READ_SECONDS
        while self._is_unread and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        if self._is_unread:
            return False
        self._unread_since = None
        return True

    @property
    def _is_unread(self) -> bool:
        """Whether there are unread messages; an open stream takes them at once."""
        messages = self._queue.pending_messages_per_session.get(self._event.session_hash)
        return messages is not None and messages.qsize() > 0

    def wait_for_reader(self) -> None:
        """Wait until the client reads the messages of this event, before anything is computed.

        Raises:
            ClientDisconnectedError: If it does not in time.
        """
        while self._event is not None and self._is_unread:
            is_late = self._unread_since is not None and time.monotonic() - self._unread_since > UNREAD_SECONDS
            # An event that waited longer than that for its turn has only just written its first message.
            if not self._event.alive or (is_late and not self._is_read_soon()):
                raise ClientDisconnectedError(
                    "No client is reading the event stream. Open it and send the request again."
                )
            time.sleep(_POLL_SECONDS)

    def watch(self, progress: Progress) -> Progress:
        """Wrap a progress callback so that it raises ``ClientDisconnectedError`` once the client has disconnected.

        Repeated reports are not passed on.
        """
        last_report: tuple[float, str] | None = None

        def report(fraction: float, stage: str) -> None:
            nonlocal last_report
            if self.is_gone:
                raise ClientDisconnectedError("Client disconnected. Send the request again.")
            if last_report != (fraction, stage):
                last_report = fraction, stage
                progress(fraction, stage)

        return report


def follow(work: Callable[[Progress], Result]) -> Generator[Running, None, Result]:
    """Run ``work`` in a thread and yield each progress report.

    Closing the generator (a closed tab) does not interrupt a running model call. The work stops at its next progress
    report if the callback raises; see ``ClientConnection.watch``.

    Args:
        work: Gets a progress callback, to be called from its own thread only.

    Returns:
        What ``work`` returned.

    Raises:
        Exception: Whatever ``work`` raised.
    """
    reports: queue.SimpleQueue[Running | None] = queue.SimpleQueue()
    results: list[Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work(lambda fraction, stage: reports.put(Running(min(max(fraction, 0.0), 1.0), stage))))
        except Exception as error:  # re-raised in the reader's thread
            errors.append(error)
        finally:
            reports.put(None)

    threading.Thread(target=run, name="ask", daemon=True).start()
    while (report := reports.get()) is not None:
        yield report
    if errors:
        raise errors[0]
    return results[0]
