"""Run a long call in a thread and yield its progress."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from hart_studio.ui.pages.display import Running

Result = TypeVar("Result")
Progress = Callable[[float, str], None]
"""Called with the completed share in [0, 1] and the name of the stage."""


def follow(work: Callable[[Progress], Result]) -> Generator[Running, None, Result]:
    """Run ``work`` in a thread and yield each progress report.

    Closing the generator (a closed tab) does not interrupt a running model call. The work stops at its next progress
    report if the callback raises; see ``client_connection``.

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
