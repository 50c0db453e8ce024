"""The reading end of a run: everything here works while the job writes, and after it was killed."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
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
"""From here on a page's numbers are not exact any more, and a little further they cannot be sent."""
_MAX_LINE_BYTES = 16 * 1024 * 1024
"""Of an event; one that is longer, which no run writes, is never read, nor is what follows it."""


@dataclass(frozen=True)
class RunSummary:
    """A line in the list of runs.

    Attributes:
        layout: The run.
        state: What is true now; ``unreadable`` when its status cannot be read.
        status: The status; None when it cannot be read.
        problem: Why it cannot be read.
    """

    layout: RunLayout
    state: DisplayState | Literal["unreadable"]
    status: RunStatus | None
    problem: str = ""


class EventBatch(NamedTuple):
    """Events from one look at the file."""

    events: list[RunEvent]
    """The new ones, in order."""
    offset: int
    """Bytes read so far: where the next look begins."""
    skipped: int
    """Whole lines that are no event."""
    is_restarted: bool
    """Whether the file was shorter than the offset, so that it was read from its beginning."""


class LogChunk(NamedTuple):
    """Text from one look at what an attempt printed."""

    text: str
    """The new text; untrusted, never HTML."""
    offset: int
    """Bytes read so far: where the next look begins."""


def list_runs(runs_root: Path) -> list[RunSummary]:
    """All runs below a root, newest first. A folder that is no run is left out; a broken run says what is wrong."""
    if not runs_root.is_dir():
        return []
    root = runs_root.resolve()
    folders = [path for path in root.iterdir() if is_run_id(path.name) and path.is_dir() and not path.is_symlink()]
    layouts = (RunLayout(path) for path in sorted(folders, key=lambda path: path.name, reverse=True))
    return [summarize_run(layout) for layout in layouts if layout.status.exists()]


def summarize_run(layout: RunLayout) -> RunSummary:
    """The state of one run; a status that cannot be read is a state too, not an error."""
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
            raise DataError(f"{layout.status} is no status of a run: {name}: expected less than 2**53, got more")


def read_events(layout: RunLayout, offset: int = 0, max_bytes: int = _MAX_BYTES) -> EventBatch:
    """The events after a byte offset; the cost is that of the new bytes alone.

    A last line without its newline is left for the next look: it is still being written, or a crash tore it.

    Args:
        layout: The run.
        offset: Where the last look ended; 0 for the first.
        max_bytes: About how much to read in one look; call again for the rest.

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
        # Python makes room for all that is asked for, so no more is than there is.
        lines = _read_whole_lines(file, min(max_bytes, size - start))
    parsed = [parse_event(line) for line in lines if line.strip()]
    events = [event for event in parsed if event is not None]
    return EventBatch(events, start + sum(map(len, lines)), len(parsed) - len(events), is_restarted)


def drop_superseded(events: Iterable[RunEvent]) -> list[RunEvent]:
    """Events without those that a later attempt did again, as a chart wants them.

    An attempt that continues from the checkpoint of step s repeats every step after s. ``started`` events stay.

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
    """The last step that an attempt does not do again; -1 when it begins again, for step 0 is measured again too."""
    return -1 if started.resumed_from is None else started.resumed_from


def read_log(layout: RunLayout, attempt: int, offset: int = 0, max_bytes: int = _MAX_BYTES) -> LogChunk:
    """What an attempt printed after a byte offset; a character that is only half there waits for the next look.

    Values of secret variables and access tokens are hidden: a library may print them in an error.

    Args:
        layout: The run.
        attempt: Number of the attempt.
        offset: Where the last look ended; negative = that many bytes before the end, for a first look at a long log.
        max_bytes: Most to read in one look.
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
    """Lines with their newline, until about ``max_bytes``; at least one when a whole one is there."""
    data = file.read(max(1, max_bytes))
    if data and not data.endswith(b"\n"):
        data += file.readline(_MAX_LINE_BYTES)
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]]  # what follows the last newline is no whole line
