"""Whoever asked may have gone since: then nobody is there to read the answer, and others wait for the model."""

from __future__ import annotations

from typing import Any

from gradio.context import LocalContext

from hart_studio.errors import HartError
from hart_studio.ui.background import Progress


class DepartedError(HartError):
    """Nobody waits for this answer any more."""


class Caller:
    """Whoever the handler of an event works for."""

    def __init__(self) -> None:
        """Remember the event that is handled in this thread; outside of a handler the caller always stays."""
        blocks, number = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
        self._event: Any = None
        if blocks is not None and number is not None:
            self._event = blocks._queue.event_ids_to_events.get(number)

    @property
    def is_gone(self) -> bool:
        """Whether the connection over which the answer would go was closed."""
        return self._event is not None and not self._event.alive

    def watch(self, progress: Progress) -> Progress:
        """The same reports, which end the work once the caller has gone, with ``DepartedError``.

        A report that says the same as the last one is not passed on.
        """
        told: tuple[float, str] | None = None

        def report(fraction: float, stage: str) -> None:
            nonlocal told
            if self.is_gone:
                raise DepartedError("expected somebody who waits for the answer, got a closed connection; ask again")
            if told != (fraction, stage):
                told = fraction, stage
                progress(fraction, stage)

        return report
