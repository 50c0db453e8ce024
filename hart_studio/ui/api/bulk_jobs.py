"""Bulk review actions of the page: run in the background, one per project, with progress to poll."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hart_studio.errors import HartError, InputError
from hart_studio.labeling.project import Project
from hart_studio.labeling.review_history import ProgressCallback
from hart_studio.ui.error_reporting import describe

WAIT_SECONDS: Final = 1.0
"""How long a request waits for a bulk action to finish."""


@dataclass
class BulkJob:
    """A bulk action and its progress."""

    kind: str
    """``accept``, ``undo`` or ``redo``."""
    total: int
    """Items it began with; 0 = not known."""
    done: int = 0
    """Items changed so far."""
    skipped: int = 0
    """Items left alone."""
    summary: str = ""
    """The result, for the reviewer, once it is over."""
    error: str = ""
    """Why it ended early."""
    is_over: bool = False
    """Whether it has ended."""
    ended: threading.Event = field(default_factory=threading.Event, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON for the page."""
        return {name: value for name, value in vars(self).items() if name != "ended"}


class BulkJobs:
    """Runs bulk actions, at most one per project in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[Path, BulkJob] = {}

    def start(self, project: Project, kind: str, total: int, work: Callable[[ProgressCallback], str]) -> BulkJob:
        """Start a bulk action, and wait up to ``WAIT_SECONDS`` for it.

        Args:
            project: The project.
            kind: ``accept``, ``undo`` or ``redo``.
            total: Items; 0 = not known.
            work: Runs the action, reports progress, and returns the summary.

        Raises:
            InputError: If one is running in this project.
        """
        with self._lock:
            running = self._jobs.get(project.folder)
            if running is not None and not running.is_over:
                raise InputError(
                    f"A bulk {running.kind} is running: {running.done:,} items so far. Wait until it has finished."
                )
            job = self._jobs[project.folder] = BulkJob(kind, total)
            try:
                threading.Thread(target=_run, args=(project, job, work), name="bulk", daemon=True).start()
            except RuntimeError:  # no more threads
                job.is_over = True
                raise
        job.ended.wait(WAIT_SECONDS)
        return job

    def last(self, project: Project) -> BulkJob | None:
        """The newest bulk action of a project in this process; None without one."""
        with self._lock:
            return self._jobs.get(project.folder)


def _run(project: Project, job: BulkJob, work: Callable[[ProgressCallback], str]) -> None:
    def report(done: int, skipped: int) -> None:
        job.done, job.skipped = done, skipped

    try:
        job.summary = work(report)
    except HartError as error:
        job.error = str(error)
    except Exception as error:  # the page waits for a response; details are in the log
        job.error = describe(error).message
    finally:
        job.is_over = True
        job.ended.set()
        project.database.close()
