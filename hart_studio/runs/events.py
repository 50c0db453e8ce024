"""Event log of a run: typed lines of ``events.jsonl``, with one writer and any number of readers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from hart_studio.files import append_jsonl, open_regular_file
from hart_studio.records import Record
from hart_studio.runs.provenance import Provenance

Metrics = dict[str, float | None]
"""Name -> value; None = not finite."""


class Started(Record):
    """An attempt started; steps of earlier attempts after ``resumed_from`` are repeated."""

    type: Literal["started"] = "started"
    """Discriminator of the payload."""
    attempt: int = Field(ge=1)
    """Counted from 1."""
    resumed_from: int | None = None
    """Step of the checkpoint that it resumes from; None = from step 0."""
    provenance: Provenance
    """Versions, command and device of this attempt."""


class StepDone(Record):
    """An optimizer step was completed."""

    type: Literal["step"] = "step"
    """Discriminator of the payload."""
    stage: str
    """Training stage, such as ``ap_grpo``; empty for jobs without stages."""
    metrics: Metrics
    """Metrics of this step."""


class RolloutsSaved(Record):
    """The rollouts of a step were recorded."""

    type: Literal["rollouts"] = "rollouts"
    """Discriminator of the payload."""
    groups: int = Field(ge=0)
    """Number of groups; read them with ``rollouts.read_groups``."""
    is_held_out: bool = False
    """Whether they belong to held-out questions, answered greedily in an evaluation: the same ones each time."""


class CheckpointSaved(Record):
    """A checkpoint is complete."""

    type: Literal["checkpoint"] = "checkpoint"
    """Discriminator of the payload."""
    stage: str
    """Training stage in which it was saved."""
    is_kept: bool
    """Whether pruning keeps it, such as the end of a stage."""


class Evaluated(Record):
    """Evaluation on the held-out samples."""

    type: Literal["evaluation"] = "evaluation"
    """Discriminator of the payload."""
    metrics: Metrics
    """Metrics."""
    samples: int = Field(ge=0)
    """Number of samples."""
    fingerprint: str
    """SHA-256 of those samples, hexadecimal (``data.splits.fingerprint``). Metrics with different values are not
    comparable."""


class Warned(Record):
    """A warning; the run continues."""

    type: Literal["warning"] = "warning"
    """Discriminator of the payload."""
    message: str
    """Warning text, without secrets."""


class Finished(Record):
    """An attempt ended."""

    type: Literal["finished"] = "finished"
    """Discriminator of the payload."""
    state: Literal["completed", "stopped", "failed"]
    """How."""
    exit_code: int | None
    """As in the status."""
    error: str = ""
    """Cause, without secrets."""


Payload = Annotated[
    Started | StepDone | RolloutsSaved | CheckpointSaved | Evaluated | Warned | Finished, Field(discriminator="type")
]


class RunEvent(Record):
    """One line of the event log."""

    seq: int = Field(ge=0)
    """Sequence number, from 0 across all attempts."""
    at: AwareDatetime
    """Time of writing, UTC."""
    step: int = Field(ge=0)
    """Steps done, counted across all stages."""
    payload: Payload
    """The payload."""


class EventLog:
    """Writer of the event log: numbers and appends events. One per run at a time.

    Attributes:
        path: The file, created if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = _count_from(path)

    def append(self, payload: Payload, step: int) -> RunEvent:
        """Append an event and flush it to the operating system."""
        event = RunEvent(seq=self._next, at=datetime.now(UTC), step=step, payload=payload)
        append_jsonl(self.path, event.model_dump(mode="json"))
        self._next += 1
        return event


def parse_event(line: bytes) -> RunEvent | None:
    """Parse the event of one line; None if the line is invalid."""
    try:
        return RunEvent.model_validate_json(line)
    except ValidationError:
        return None


def clean_metrics(metrics: Mapping[str, float]) -> tuple[Metrics, tuple[str, ...]]:
    """Convert metrics to JSON-compatible values.

    Args:
        metrics: Name -> number; anything that ``float`` takes.

    Returns:
        The metrics with None for every number that is not finite, and the names of those.
    """
    values = {name: float(value) for name, value in metrics.items()}
    clean: Metrics = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return clean, tuple(name for name, value in clean.items() if value is None)


def _count_from(path: Path) -> int:
    """Sequence number after the last valid event."""
    try:
        with open_regular_file(path) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return 0
    except OSError:
        if path.is_symlink():  # its target is not part of this run
            return 0
        raise
    found = (parse_event(line) for line in reversed(lines))
    return next((event.seq + 1 for event in found if event is not None), 0)
