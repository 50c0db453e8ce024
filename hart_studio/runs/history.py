"""Incremental history of a run: reads only new bytes, and returns only changes since a cursor.

One history serves any number of readers. Each passes its cursor and gets the changes since then. So
the cost of polling does not grow with the length of the run.
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
from hart_studio.runs.metric_series import MetricSeries
from hart_studio.runs.reader import get_resume_step, read_events

MAX_WARNINGS: Final = 100
"""Maximum number of newest warnings that are kept; all are counted."""

FINGERPRINT_LENGTH: Final = 12
"""Number of hexadecimal digits of a fingerprint of a held-out set. Project default."""

PACE_STEPS: Final = 32
"""Number of steps for the median time per step."""


@dataclass(frozen=True)
class Cursor:
    """Position of a reader.

    Attributes:
        token: Identifies the history; another token, after a server restart, means that the reader starts again.
        version: Version of the whole history.
        steps: (revision, rows) of the table of steps.
        evaluations: (revision, rows) of the table of evaluations.
        markers: (revision, items) of the list of markers.
        warnings: Number of warnings.
    """

    token: str = ""
    version: int = -1
    steps: tuple[int, int] = (-1, 0)
    evaluations: tuple[int, int] = (-1, 0)
    markers: tuple[int, int] = (-1, 0)
    warnings: int = -1


@dataclass(frozen=True)
class Marker:
    """An event at a step: ``kind`` is started, stage, rollouts, held_out or checkpoint."""

    kind: str
    step: int
    text: str = ""


@dataclass(frozen=True)
class HeldOutSet:
    """Identity of the held-out questions of a run: metrics of runs with different sets are not comparable."""

    samples: int
    """Number of questions."""
    fingerprint: str
    """Prefix of ``Evaluated.fingerprint``, ``FINGERPRINT_LENGTH`` long."""


class RunHistory:
    """Follows the events of one run.

    Attributes:
        layout: The run.
        steps: Metrics of the optimizer steps.
        evaluations: Metrics on the held-out samples.
        held_out: The held-out samples; None before the first evaluation.
        warnings: The newest warnings: (step, text).
        warning_count: Number of all warnings.
    """

    def __init__(self, layout: RunLayout) -> None:
        """Start without reading."""
        self.layout = layout
        self._lock = threading.Lock()
        self._token = secrets.token_hex(4)
        self._offset = 0
        self._reset()

    def _reset(self) -> None:
        self.steps = MetricSeries()
        self.evaluations = MetricSeries()
        self.held_out: HeldOutSet | None = None
        self.warnings: deque[tuple[int, str]] = deque(maxlen=MAX_WARNINGS)
        self.warning_count = 0
        self._markers: list[Marker] = []
        self._markers_revision = 0
        self._version = 0
        self._stage = ""
        self._times: deque[tuple[int, datetime]] = deque(maxlen=PACE_STEPS + 1)

    def refresh(self) -> bool:
        """Read new events, at most a few megabytes.

        Returns:
            Whether there is more to read.
        """
        with self._lock:
            batch = read_events(self.layout, self._offset)
            if batch.is_restarted:
                self._token = secrets.token_hex(4)
                self._reset()
            for event in batch.events:
                self._apply(event)
            self._version += bool(batch.events)
            is_moved = batch.offset > self._offset
            self._offset = batch.offset
            return is_moved and self.layout.events.stat().st_size > self._offset

    def delta(self, cursor: Cursor) -> tuple[dict[str, Any], Cursor] | None:
        """Return the changes since a cursor, as JSON, and the next cursor; None if nothing changed.

        The keys are ``is_full`` (earlier data are invalid), those of ``steps``, ``evaluations``, ``markers`` and
        ``warnings`` that have changed, and ``recent`` and ``held_out`` as in ``curves``. Of a table, rows from
        ``first_row`` on replace what the reader has there.
        """
        with self._lock:
            is_full = cursor.token != self._token
            if is_full:
                cursor = Cursor()
            if cursor.version == self._version:
                return None
            found: dict[str, Any] = {"is_full": is_full}
            positions: dict[str, tuple[int, int]] = {}
            for name, table in (("steps", self.steps), ("evaluations", self.evaluations)):
                revision, rows = getattr(cursor, name)
                # The last row of the reader may have been merged with new entries.
                first = max(0, rows - 1) if revision == table.revision else 0
                found[name] = table.columns(first)
                positions[name] = (table.revision, len(table))
            revision, seen = cursor.markers
            first = seen if revision == self._markers_revision else 0
            found["markers"] = {
                "first": first,
                "items": [[marker.kind, marker.step, marker.text] for marker in self._markers[first:]],
            }
            if cursor.warnings != self.warning_count:
                found["warnings"] = {"count": self.warning_count, "newest": [list(item) for item in self.warnings]}
            found["seconds_per_step"] = self._median_step_seconds()
            found["recent"] = self.steps.recent()
            found["held_out"] = self.held_out and asdict(self.held_out)
            markers = (self._markers_revision, len(self._markers))
            positions_now = (positions["steps"], positions["evaluations"], markers, self.warning_count)
            return found, Cursor(self._token, self._version, *positions_now)

    def curves(self) -> dict[str, Any]:
        """Return both tables as columns; ``recent`` from ``MetricSeries.recent``, and the held-out set, if known."""
        with self._lock:
            return {
                "steps": self.steps.columns(),
                "evaluations": self.evaluations.columns(),
                "recent": self.steps.recent(),
                "held_out": self.held_out and asdict(self.held_out),
            }

    def summary(self, points: int) -> dict[str, Any]:
        """Summary for a list of runs: reward, reward curve, first and last evaluation, warnings.

        ``reward`` is the mean of the last ``reward_steps`` steps that have one, from ``MetricSeries.recent``.

        Args:
            points: Approximate number of points of the reward curve.
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

    def _median_step_seconds(self) -> float | None:
        """Median seconds per step over the last steps of this attempt, including all work between them."""
        times = list(self._times)
        gaps = [
            (later - earlier).total_seconds() / (step - before)
            for (before, earlier), (step, later) in pairwise(times)
            if step > before
        ]
        return float(f"{statistics.median(gaps):.4g}") if gaps else None

    def _apply(self, event: RunEvent) -> None:
        payload = event.payload
        if isinstance(payload, Started):
            self._rewind(get_resume_step(payload))
            self._markers.append(Marker("started", event.step, f"attempt {payload.attempt}"))
        elif isinstance(payload, StepDone):
            if payload.stage != self._stage:
                self._stage = payload.stage
                self._markers.append(Marker("stage", event.step, payload.stage))
            self.steps.add(event.step, payload.metrics)
            self._times.append((event.step, event.at))
        elif isinstance(payload, Evaluated):
            self.evaluations.add(event.step, payload.metrics)
            self.held_out = HeldOutSet(payload.samples, payload.fingerprint[:FINGERPRINT_LENGTH])
        elif isinstance(payload, RolloutsSaved):
            self._markers.append(Marker("held_out" if payload.is_held_out else "rollouts", event.step))
        elif isinstance(payload, CheckpointSaved):
            self._markers.append(Marker("checkpoint", event.step, payload.stage))
        elif isinstance(payload, Warned):
            self.warning_count += 1
            self.warnings.append((event.step, payload.message))

    def _rewind(self, step: int) -> None:
        """Discard what an attempt repeats after its checkpoint (``reader.drop_superseded``)."""
        self._times.clear()
        self.steps.truncate(step)
        self.evaluations.truncate(step)
        kept = [marker for marker in self._markers if marker.step <= step or marker.kind == "started"]
        if len(kept) < len(self._markers):
            self._markers = kept
            self._markers_revision += 1
        stages = [marker.text for marker in kept if marker.kind == "stage"]
        self._stage = stages[-1] if stages else ""
