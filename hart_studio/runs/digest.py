"""What a page shows of a run, kept up to date from the bytes that are new, and handed out as what is new.

One digest serves any number of readers. Each says how far it has read (its cursor), and gets the rest, or nothing. So
neither a look nor an answer grows with the length of the run.
"""

from __future__ import annotations

import secrets
import statistics
import threading
from collections import deque
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from hart_studio.runs.events import (
    CheckpointSaved,
    Evaluated,
    RolloutsSaved,
    RunEvent,
    Started,
    StepDone,
    Warned,
)
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import find_base, read_events
from hart_studio.runs.series import SeriesTable

MOST_WARNINGS: Final = 100
"""The newest warnings that are kept; all are counted."""

FINGERPRINT_CHARACTERS: Final = 12
"""Hexadecimal digits of a fingerprint that tell held-out sets apart (project default)."""

PACE_STEPS: Final = 32
"""Steps that the time per step is taken over."""


@dataclass(frozen=True)
class Cursor:
    """How far a reader has read.

    Attributes:
        token: Of the digest that it read; another one, after a restart of the server, means: begin again.
        version: Of the whole digest.
        steps: (edition, rows) of the table of steps.
        evaluations: (edition, rows) of the table of evaluations.
        marks: (edition, items) of the list of marks.
        warnings: How many there were.
    """

    token: str = ""
    version: int = -1
    steps: tuple[int, int] = (-1, 0)
    evaluations: tuple[int, int] = (-1, 0)
    marks: tuple[int, int] = (-1, 0)
    warnings: int = -1


@dataclass(frozen=True)
class Mark:
    """Something that happened at a step: ``kind`` is started, stage, rollouts, held_out or checkpoint."""

    kind: str
    step: int
    text: str = ""


@dataclass(frozen=True)
class HeldOutSet:
    """Identity of the held-out questions of a run: figures of runs that differ in it are not comparable."""

    samples: int
    """Number of questions."""
    fingerprint: str
    """Beginning of ``Evaluated.fingerprint``, ``FINGERPRINT_CHARACTERS`` long."""


class RunDigest:
    """Follows the events of one run.

    Attributes:
        layout: The run.
        steps: Figures of the optimizer steps.
        evaluations: Figures on the held-out samples.
        held_out: The held-out samples; None before the first evaluation.
        warnings: The newest warnings, (step, text).
        warning_count: All of them.
    """

    def __init__(self, layout: RunLayout) -> None:
        """Read nothing yet."""
        self.layout = layout
        self._lock = threading.Lock()
        self._token = secrets.token_hex(4)
        self._offset = 0
        self._begin()

    def _begin(self) -> None:
        self.steps = SeriesTable()
        self.evaluations = SeriesTable()
        self.held_out: HeldOutSet | None = None
        self.warnings: deque[tuple[int, str]] = deque(maxlen=MOST_WARNINGS)
        self.warning_count = 0
        self._marks: list[Mark] = []
        self._marks_edition = 0
        self._version = 0
        self._stage = ""
        self._times: deque[tuple[int, datetime]] = deque(maxlen=PACE_STEPS + 1)

    def refresh(self) -> bool:
        """Take in what is new, a few megabytes at most.

        Returns:
            Whether there is more to take in.
        """
        with self._lock:
            batch = read_events(self.layout, self._offset)
            if batch.is_restarted:
                self._token = secrets.token_hex(4)
                self._begin()
            for event in batch.events:
                self._take(event)
            self._version += bool(batch.events)
            is_moved = batch.offset > self._offset
            self._offset = batch.offset
            return is_moved and self.layout.events.stat().st_size > self._offset

    def news(self, cursor: Cursor) -> tuple[dict[str, Any], Cursor] | None:
        """What a reader has not seen, as JSON, and its next cursor; None when there is nothing.

        The keys are ``is_whole`` (what was read before is void), those of ``steps``, ``evaluations``, ``marks`` and
        ``warnings`` that have changed, and ``recent`` and ``held_out`` as in ``curves``. Of a table, rows from
        ``first_row`` on replace what the reader has there.
        """
        with self._lock:
            is_whole = cursor.token != self._token
            if is_whole:
                cursor = Cursor()
            if cursor.version == self._version:
                return None
            found: dict[str, Any] = {"is_whole": is_whole}
            places: dict[str, tuple[int, int]] = {}
            for name, table in (("steps", self.steps), ("evaluations", self.evaluations)):
                edition, rows = getattr(cursor, name)
                # The last row that the reader has may have been joined by new entries since.
                first = max(0, rows - 1) if edition == table.edition else 0
                found[name] = table.columns(first)
                places[name] = (table.edition, len(table))
            edition, seen = cursor.marks
            first = seen if edition == self._marks_edition else 0
            found["marks"] = {
                "first": first,
                "items": [[mark.kind, mark.step, mark.text] for mark in self._marks[first:]],
            }
            if cursor.warnings != self.warning_count:
                found["warnings"] = {"count": self.warning_count, "newest": [list(item) for item in self.warnings]}
            found["seconds_per_step"] = self._pace()
            found["recent"] = self.steps.recent()
            found["held_out"] = self.held_out and asdict(self.held_out)
            marks = (self._marks_edition, len(self._marks))
            seen_now = (places["steps"], places["evaluations"], marks, self.warning_count)
            return found, Cursor(self._token, self._version, *seen_now)

    def curves(self) -> dict[str, Any]:
        """All of both tables, as columns; ``recent`` from ``SeriesTable.recent``, and the held-out set, if known."""
        with self._lock:
            return {
                "steps": self.steps.columns(),
                "evaluations": self.evaluations.columns(),
                "recent": self.steps.recent(),
                "held_out": self.held_out and asdict(self.held_out),
            }

    def glance(self, points: int) -> dict[str, Any]:
        """What a list of runs shows: the reward and its course, the first and the last evaluation, the warnings.

        ``reward`` is the mean of the last ``reward_steps`` steps that have one, from ``SeriesTable.recent``.

        Args:
            points: About how many of the course.
        """
        with self._lock:
            rewards = self.steps.means("reward")
            reward, count = self.steps.recent().get("reward", (None, 0))
            return {
                "spark": rewards[:: max(1, len(rewards) // points)],
                "reward": reward,
                "reward_steps": count,
                "held_out": self.held_out and asdict(self.held_out),
                "first": self.evaluations.first(),
                "last": self.evaluations.latest(),
                "warnings": self.warning_count,
            }

    def _pace(self) -> float | None:
        """Median seconds of a step over the last ones of this attempt, all work between them included."""
        times = list(self._times)
        gaps = [
            (later - earlier).total_seconds() / (step - before)
            for (before, earlier), (step, later) in pairwise(times)
            if step > before
        ]
        return float(f"{statistics.median(gaps):.4g}") if gaps else None

    def _take(self, event: RunEvent) -> None:
        payload = event.payload
        if isinstance(payload, Started):
            self._go_back(find_base(payload))
            self._marks.append(Mark("started", event.step, f"attempt {payload.attempt}"))
        elif isinstance(payload, StepDone):
            if payload.stage != self._stage:
                self._stage = payload.stage
                self._marks.append(Mark("stage", event.step, payload.stage))
            self.steps.add(event.step, payload.metrics)
            self._times.append((event.step, event.at))
        elif isinstance(payload, Evaluated):
            self.evaluations.add(event.step, payload.metrics)
            self.held_out = HeldOutSet(payload.samples, payload.fingerprint[:FINGERPRINT_CHARACTERS])
        elif isinstance(payload, RolloutsSaved):
            self._marks.append(Mark("held_out" if payload.is_held_out else "rollouts", event.step))
        elif isinstance(payload, CheckpointSaved):
            self._marks.append(Mark("checkpoint", event.step, payload.stage))
        elif isinstance(payload, Warned):
            self.warning_count += 1
            self.warnings.append((event.step, payload.message))

    def _go_back(self, step: int) -> None:
        """An attempt does everything after its checkpoint again (``reader.drop_superseded``)."""
        self._times.clear()
        self.steps.cut(step)
        self.evaluations.cut(step)
        kept = [mark for mark in self._marks if mark.step <= step or mark.kind == "started"]
        if len(kept) < len(self._marks):
            self._marks = kept
            self._marks_edition += 1
        stages = [mark.text for mark in kept if mark.kind == "stage"]
        self._stage = stages[-1] if stages else ""
