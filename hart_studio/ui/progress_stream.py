"""A long call followed step by step, so that a page can show its stages while it runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from hart_studio.ui.components.progress_status import Running

Result = TypeVar("Result")
Progress = Callable[[float, str], None]
"""Called with the share done, in [0, 1], and the stage in words."""


def follow(work: Callable[[Progress], Result]) -> Generator[Running, None, Result]:
    """Run ``work`` in a thread and yield each progress report.

    A reader that stops listening (a closed tab) does not stop a model call, which cannot be interrupted. Whether the
    work ends before its next one is up to its reports; see ``callers``.

    Args:
        work: Gets a progress callback; may be called from its thread only.

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
