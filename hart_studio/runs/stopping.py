"""Stop a run in the background: stop file, then SIGTERM, then SIGKILL. One implementation for every kind of run.

The stop file carries the request: its time of change is when the stop was asked for. So a server that starts again, or
another one, continues a stop that was asked for before (``resume_stop``).
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from hart_studio.errors import HartError
from hart_studio.runs.launcher import request_stop, stop_run
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.status import JobType, read_status, recorded_signals

SAVE_SECONDS: Final[dict[JobType, float]] = {"training": 1800.0, "evaluation": 1800.0, "labeling": 300.0}
"""How long a run that was asked to stop may take to finish its step and save, before it is signaled. A training saves a
checkpoint, which takes minutes for a large model; labeling saves each batch anyway. Project defaults."""

_lock = threading.Lock()
_stopping: dict[Path, threading.Thread] = {}


def stop_in_background(layout: RunLayout, *, now: bool = False) -> None:
    """Ask a run to save and end, and make it end when it does not; returns at once.

    Args:
        layout: The run.
        now: Signal it at once.
    """
    request_stop(layout)
    if now:
        # Beside a thread that still waits for the run to save.
        threading.Thread(target=_stop, args=(layout, 0.0), name="stop-now", daemon=True).start()
    else:
        resume_stop(layout)


def resume_stop(layout: RunLayout) -> None:
    """Make sure that a run which was asked to stop ends, also when the server that was asked is gone; returns at once.

    What is left of the time to save counts from the request. Nothing happens for a run that was not asked to stop.
    """
    try:
        requested = layout.stop.lstat().st_mtime
        seconds = SAVE_SECONDS[read_status(layout).job]
    except (OSError, HartError):
        return
    # Signaled before: whoever did it is gone, or about to send the next signal.
    left = 0.0 if recorded_signals(layout) else seconds - (time.time() - requested)
    with _lock:
        for folder, thread in list(_stopping.items()):
            if not thread.is_alive():
                del _stopping[folder]
        if layout.folder in _stopping:
            return
        thread = threading.Thread(target=_stop, args=(layout, min(seconds, max(0.0, left))), name="stop", daemon=True)
        _stopping[layout.folder] = thread
        thread.start()


def _stop(layout: RunLayout, save_seconds: float) -> None:
    """A run that cannot be stopped shows as running; there is no one here to be told."""
    with suppress(HartError, OSError):
        stop_run(layout, save_seconds)
