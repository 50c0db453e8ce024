"""Stop a run in the background: stop file, then SIGTERM, then SIGKILL. One implementation for every kind of run.

The modification time of the stop file is the time of the request. A server that restarts, or
another server, continues an earlier stop request (``resume_stop``).
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
"""Time limit for a run to finish its step and save after a stop request, before it gets a signal. Training saves a
checkpoint, which takes minutes for a large model; labeling saves each batch anyway. Project defaults."""

_lock = threading.Lock()
_stopping: dict[Path, threading.Thread] = {}


def stop_in_background(layout: RunLayout, *, now: bool = False) -> None:
    """Request that a run saves and ends, and end it if it does not; returns at once.

    Args:
        layout: The run.
        now: Send the signal at once.
    """
    request_stop(layout)
    if now:
        # A thread may still wait for the run to save.
        threading.Thread(target=_stop, args=(layout, 0.0), name="stop-now", daemon=True).start()
    else:
        resume_stop(layout)


def resume_stop(layout: RunLayout) -> None:
    """Ensure that a run with a stop request ends, even if the requested server is gone; returns at once.

    The time limit counts from the request. Does nothing for a run without a stop request.
    """
    try:
        requested = layout.stop.lstat().st_mtime
        seconds = SAVE_SECONDS[read_status(layout).job]
    except (OSError, HartError):
        return
    # Already signaled: the sender is gone, or about to send the next signal.
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
    """Stop a run; a run that cannot be stopped keeps the state running."""
    with suppress(HartError, OSError):
        stop_run(layout, save_seconds)
