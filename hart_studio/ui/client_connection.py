"""Detect disconnected clients, so that no work is done for them while others wait for the model."""

from __future__ import annotations

import time
from typing import Any, Final

from gradio.context import LocalContext

from hart_studio.errors import HartError
from hart_studio.ui.progress_stream import Progress

UNREAD_SECONDS: Final = 15.0
"""How long messages of an event may stay unread. The page and ``gradio_client`` open the event stream at once; with two
curl commands it takes a moment. Project default."""

_POLL_SECONDS: Final = 0.05
_READ_SECONDS: Final = 1.0


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
