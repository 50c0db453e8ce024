"""Progress of a download on standard error: one updating line in a terminal, otherwise plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hart_studio.formatting import format_bytes
from hart_studio.hub.download import DownloadPlan, DownloadProgress, run_download
from hart_studio.progress import ProgressReporter, format_duration


class DownloadRate:
    """Describes a download with its rate since the first report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with the first report.

        Args:
            clock: Seconds.
        """
        self._clock = clock
        self._began: float | None = None
        self._first_bytes = 0

    def describe(self, progress: DownloadProgress) -> str:
        """Return a line such as ``1.2 GB of 7.51 GB, 45 MB/s, about 2 min left``."""
        text = f"{format_bytes(progress.done_bytes)} of {format_bytes(progress.total_bytes)}"
        now = self._clock()
        if self._began is None:
            self._began, self._first_bytes = now, progress.done_bytes
        seconds, fetched = now - self._began, progress.done_bytes - self._first_bytes
        if seconds <= 0 or not fetched:
            return text
        left = (progress.total_bytes - progress.done_bytes) * seconds / fetched
        return f"{text}, {format_bytes(fetched / seconds)}/s" + (
            f", about {format_duration(left)} left" if left else ""
        )


def download_with_progress(plan: DownloadPlan) -> Path:
    """Run a plan for a command; Ctrl+C cancels it.

    Args:
        plan: From ``hub.download.plan_download``.

    Returns:
        The folder with the files.

    Raises:
        HubError: See ``hub.download.run_download``.
    """
    rate = DownloadRate()
    with ProgressReporter() as reporter:
        return run_download(plan, lambda progress: reporter.set_phase(f"downloading, {rate.describe(progress)}"))
