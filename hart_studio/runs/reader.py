"""Read a run, also while the job writes and after it was killed."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple

from hart_studio.errors import DataError
from hart_studio.files import open_regular_file
from hart_studio.runs.events import RunEvent, Started, parse_event
from hart_studio.runs.layout import RunLayout, is_run_id
from hart_studio.runs.redaction import hide_cut_secrets
from hart_studio.runs.status import DisplayState, RunStatus, get_state

_MAX_BYTES = 4 * 1024 * 1024
_MAX_COUNT: Final = 2**53
"""Largest integer that is exact in JavaScript."""
_MAX_LINE_BYTES = 16 * 1024 * 1024
"""Maximum size of an event; a longer line, which no run writes, ends reading."""


@dataclass(frozen=True)
class RunSummary:
    """An entry in the list of runs.

    Attributes:
        layout: The run.
        state: The current state; ``unreadable`` if its status cannot be read.
        status: The status; None if it cannot be read.
        problem: Reason why it cannot be read.
    """

    layout: RunLayout
    state: DisplayState | Literal["unreadable"]
    status: RunStatus | None
    problem: str = ""


class EventBatch(NamedTuple):
    """Events from one read."""

    events: list[RunEvent]
    """New events, in order."""
    offset: int
    """Bytes read so far: the offset of the next read."""
    skipped: int
    """Number of invalid lines."""
    is_restarted: bool
    """Whether the file was shorter than the offset, so that it was read from the start."""


class LogChunk(NamedTuple):
    """Log text from one read."""

    text: str
    """The new text; untrusted, never HTML."""
    offset: int
    """Bytes read so far: the offset of the next read."""


def list_runs(runs_root: Path) -> list[RunSummary]:
    """List all runs below a root, newest first. Other folders are skipped; a damaged run has a ``problem``."""
    if not runs_root.is_dir():
        return []
    root = runs_root.resolve()
    folders = [path for path in root.iterdir() if is_run_id(path.name) and path.is_dir() and not path.is_symlink()]
    layouts = (RunLayout(path) for path in sorted(folders, key=lambda path: path.name, reverse=True))
    return [summarize_run(layout) for layout in layouts if layout.status.exists()]


def summarize_run(layout: RunLayout) -> RunSummary:
    """Summarize one run; an unreadable status is a state, not an error."""
    try:
        state, status = get_state(layout)
        _check_counts(layout, status)
    except DataError as error:
        return RunSummary(layout, "unreadable", None, str(error))
    return RunSummary(layout, state, status)


def _check_counts(layout: RunLayout, status: RunStatus) -> None:
    counts = {"attempt": status.attempt, "step": status.step, "total": status.total, "exit_code": status.exit_code or 0}
    for name, count in counts.items():
        if abs(count) >= _MAX_COUNT:
            raise DataError(f"{layout.status} is damaged: {name} must be less than 2**53. Start a new run.")


def read_events(layout: RunLayout, offset: int = 0, max_bytes: int = _MAX_BYTES) -> EventBatch:
    """Read the events after a byte offset; the cost depends only on the new bytes.

    A last line without a newline is left for the next read: it is incomplete.

    Args:
        layout: The run.
        offset: Offset from the previous read; 0 for the first.
        max_bytes: Approximate number of bytes to read; call again for the rest.

    Returns:
        The new events. With an unchanged file, none and the same offset.
    """
    try:
        file = open_regular_file(layout.events)
    except OSError:
        return EventBatch([], 0, 0, is_restarted=offset > 0)
    with file:
        size = file.seek(0, 2)
        is_restarted = offset > size
        start = file.seek(0 if is_restarted else max(0, offset))
        # Python allocates the requested size, so request no more than the file has.
        lines = _read_whole_lines(file, min(max_bytes, size - start))
    parsed = [parse_event(line) for line in lines if line.strip()]
    events = [event for event in parsed if event is not None]
    return EventBatch(events, start + sum(map(len, lines)), len(parsed) - len(events), is_restarted)


def read_all_events(layout: RunLayout) -> Iterator[RunEvent]:
    """Read all events of a run, in order."""
    offset = 0
    while (batch := read_events(layout, offset)).offset > offset:
        yield from batch.events
        offset = batch.offset


def drop_superseded(events: Iterable[RunEvent]) -> list[RunEvent]:
    """Drop events that a later attempt repeated, for charts.

    An attempt that resumes from the checkpoint of step s repeats every step after s. ``started`` events stay.

    Args:
        events: All events of a run, in order.
    """
    kept: list[RunEvent] = []
    for event in events:
        if isinstance(event.payload, Started):
            base = get_resume_step(event.payload)
            kept = [old for old in kept if old.step <= base or isinstance(old.payload, Started)]
        kept.append(event)
    return kept


def get_resume_step(started: Started) -> int:
    """Last step that an attempt does not repeat; -1 for a new start, since step 0 is evaluated again too."""
    return -1 if started.resumed_from is None else started.resumed_from


def read_log(layout: RunLayout, attempt: int, offset: int = 0, max_bytes: int = _MAX_BYTES) -> LogChunk:
    """Read the log of an attempt after a byte offset; an incomplete character is left for the next read.

    Values of secret variables and access tokens are hidden: a library may print them in an error.

    Args:
        layout: The run.
        attempt: Number of the attempt.
        offset: Offset from the previous read; negative = relative to the end, for the first read of a long log.
        max_bytes: Maximum number of bytes to read.
    """
    try:
        file = open_regular_file(layout.log_of(attempt))
    except OSError:
        return LogChunk("", 0)
    with file:
        size = file.seek(0, 2)
        wanted = max(0, size + offset) if offset < 0 else offset
        start = file.seek(wanted if wanted <= size else 0)
        data = file.read(max_bytes)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = decoder.decode(data)
    known, held = hide_cut_secrets(text)
    left_out = len(text[len(text) - held :].encode()) if held else 0
    return LogChunk(known, start + len(data) - len(decoder.getstate()[0]) - left_out)


def _read_whole_lines(file: BinaryIO, max_bytes: int) -> list[bytes]:
    """Lines with their newline, until about ``max_bytes``; at least one if there is a complete one."""
    data = file.read(max(1, max_bytes))
    if data and not data.endswith(b"\n"):
        data += file.readline(_MAX_LINE_BYTES)
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]]  # the part after the last newline is incomplete
