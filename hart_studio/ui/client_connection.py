"""Whoever asked may have gone since: then no one is there to read the answer, and others wait for the model."""

from __future__ import annotations

import time
from typing import Any, Final

from gradio.context import LocalContext

from hart_studio.errors import HartError
from hart_studio.ui.progress_stream import Progress

UNREAD_SECONDS: Final = 15.0
"""How long messages of an event may wait for someone to read them. The page and ``gradio_client`` open the stream of
events at once; with two commands of curl it takes a moment. Project default."""

_LOOK_SECONDS: Final = 0.05
_READ_SECONDS: Final = 1.0


class ClientDisconnectedError(HartError):
    """No one waits for this answer any more."""


class ClientConnection:
    """Whoever the handler of an event works for."""

    def __init__(self) -> None:
        """Remember the event that is handled in this thread; outside of a handler the caller always stays."""
        blocks, number = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
        self._event: Any = None
        self._queue: Any = None
        if blocks is not None and number is not None:
            self._queue = blocks._queue
            self._event = self._queue.event_ids_to_events.get(number)
        self._unread_since: float | None = None if self._event is None else self._event.enqueue_time

    @property
    def is_gone(self) -> bool:
        """Whether the connection over which the answer would go was closed, or no one has opened it."""
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
        """Whether the messages were only just written: a reader takes them within a moment."""
        end = time.monotonic() + _READ_SECONDS
        while self._is_unread and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        if self._is_unread:
            return False
        self._unread_since = None
        return True

    @property
    def _is_unread(self) -> bool:
        """Whether messages wait, such as the one that the event has begun: a stream that is open takes them at once."""
        messages = self._queue.pending_messages_per_session.get(self._event.session_hash)
        return messages is not None and messages.qsize() > 0

    def wait_for_reader(self) -> None:
        """Wait until someone reads what this event says: before that nothing is computed for it.

        Raises:
            ClientDisconnectedError: If no one does in time.
        """
        while self._event is not None and self._is_unread:
            is_late = self._unread_since is not None and time.monotonic() - self._unread_since > UNREAD_SECONDS
            # An event that waited longer than that for its turn has only just written its first message.
            if not self._event.alive or (is_late and not self._is_read_soon()):
                raise ClientDisconnectedError("no one waits for the answer; open the stream of events, and ask again")
            time.sleep(_LOOK_SECONDS)

    def watch(self, progress: Progress) -> Progress:
        """The same reports, which end the work once the caller has gone, with ``ClientDisconnectedError``.

        A report that says the same as the last one is not passed on.
        """
        last_report: tuple[float, str] | None = None

        def report(fraction: float, stage: str) -> None:
            nonlocal last_report
            if self.is_gone:
                raise ClientDisconnectedError(
                    "expected someone who waits for the answer, got a closed connection; ask again"
                )
            if last_report != (fraction, stage):
                last_report = fraction, stage
                progress(fraction, stage)

        return report
