"""Remove runs that failed before they did any work, for example because of a missing model or file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hart_studio.errors import DataError, HartError
from hart_studio.runs.events import CheckpointSaved, Evaluated, RolloutsSaved, StepDone
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import read_events
from hart_studio.runs.status import read_status

_WORK = (StepDone, Evaluated, RolloutsSaved, CheckpointSaved)


def has_done_work(layout: RunLayout) -> bool:
    """Whether a run has a step, metrics, rollouts or a checkpoint."""
    offset = 0
    while True:
        batch = read_events(layout, offset)
        if any(isinstance(event.payload, _WORK) for event in batch.events):
            return True
        if batch.offset <= offset:
            return False
        offset = batch.offset


@contextmanager
def removing_empty_run(layout: RunLayout, report: Callable[[str], object]) -> Iterator[None]:
    """Remove a run created by the same command if the block fails before the run has done any work.

    Args:
        layout: A run that no other process manages.
        report: Called with a message if the run is removed.

    Raises:
        HartError: The error raised in the block.
    """
    try:
        yield
    except HartError:
        if _has_failed(layout) and not has_done_work(layout):
            shutil.rmtree(layout.folder, ignore_errors=True)
            report(f"Run {layout.run_id} had done no work and was removed")
        raise


def _has_failed(layout: RunLayout) -> bool:
    try:
        return read_status(layout).state in ("failed", "queued")
    except DataError:
        return False
