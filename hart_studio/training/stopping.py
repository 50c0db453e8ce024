"""Handle stop signals: the first one finishes the step and saves, the second one ends the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequested(Exception):  # noqa: N818 - control flow, not an error
    """Ends a trainer before its first step: a stop was requested while the model was loaded or evaluated."""


class StopSignals:
    """Context manager: the first SIGINT or SIGTERM is a stop request; the second one has its default effect.

    Attributes:
        received: Number of the first signal; None = none.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        """Create the handler.

        Args:
            announce: Called with a message on the first signal.
        """
        self.received: int | None = None
        self._announce = announce
        self._before: dict[int, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
            self._stack.callback(self._restore)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._announce(
            f"{signal.Signals(number).name}: stopping after this step and saving; send it again to end at once"
        )
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
