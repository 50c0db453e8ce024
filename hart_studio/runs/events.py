"""What happened in a run, as typed lines of ``events.jsonl``: one writer appends, any number of readers follow."""

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
"""Name -> value; None = the value was not finite, never a silent 0."""


class Started(Record):
    """An attempt began; whatever an earlier one did after ``resumed_from`` is done again."""

    type: Literal["started"] = "started"
    """Kind of payload."""
    attempt: int = Field(ge=1)
    """Counted from 1."""
    resumed_from: int | None = None
    """Step of the checkpoint that it continues from; None = from the beginning."""
    provenance: Provenance
    """Versions, command and device of this attempt."""


class StepDone(Record):
    """One optimizer step."""

    type: Literal["step"] = "step"
    """Kind of payload."""
    stage: str
    """Stage of the chain, such as ``ap_grpo``; empty for jobs without stages."""
    metrics: Metrics
    """What was measured in this step."""


class RolloutsSaved(Record):
    """The rollouts of a step were recorded."""

    type: Literal["rollouts"] = "rollouts"
    """Kind of payload."""
    groups: int = Field(ge=0)
    """Number of groups; they are read with ``rollouts.read_groups``."""
    is_held_out: bool = False
    """Whether they are of held-out questions, answered greedily in an evaluation: the same ones each time."""


class CheckpointSaved(Record):
    """A checkpoint is complete."""

    type: Literal["checkpoint"] = "checkpoint"
    """Kind of payload."""
    stage: str
    """Stage of the chain that it was saved in."""
    is_kept: bool
    """Whether it stays when newer ones come, as the end of a stage does."""


class Evaluated(Record):
    """Figures on the held-out samples."""

    type: Literal["evaluation"] = "evaluation"
    """Kind of payload."""
    metrics: Metrics
    """What was measured."""
    samples: int = Field(ge=0)
    """Number of samples behind the figures."""
    fingerprint: str
    """SHA-256 of those samples, hexadecimal (``data.splits.fingerprint``). Figures with different values are not
    comparable."""


class Warned(Record):
    """Something that a person should know; the run continues."""

    type: Literal["warning"] = "warning"
    """Kind of payload."""
    message: str
    """What happened, without secrets."""


class Finished(Record):
    """The attempt ended."""

    type: Literal["finished"] = "finished"
    """Kind of payload."""
    state: Literal["completed", "stopped", "failed"]
    """How."""
    exit_code: int | None
    """As in the status."""
    error: str = ""
    """Why, without secrets."""


Payload = Annotated[
    Started | StepDone | RolloutsSaved | CheckpointSaved | Evaluated | Warned | Finished, Field(discriminator="type")
]


class RunEvent(Record):
    """One line."""

    seq: int = Field(ge=0)
    """0, 1, 2, ... through all attempts."""
    at: AwareDatetime
    """When it was written, UTC."""
    step: int = Field(ge=0)
    """Steps done, counted through all stages."""
    payload: Payload
    """What happened."""


class EventLog:
    """The writing end: numbers the events and appends them. One per run at a time.

    Attributes:
        path: The file, made when missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = _count_from(path)

    def append(self, payload: Payload, step: int) -> RunEvent:
        """Append an event; it is with the system, not in a buffer of this process, when this returns."""
        event = RunEvent(seq=self._next, at=datetime.now(UTC), step=step, payload=payload)
        append_jsonl(self.path, event.model_dump(mode="json"))
        self._next += 1
        return event


def parse_event(line: bytes) -> RunEvent | None:
    """The event of one line, or None when the line is none: what is read back from a run is input."""
    try:
        return RunEvent.model_validate_json(line)
    except ValidationError:
        return None


def clean_metrics(metrics: Mapping[str, float]) -> tuple[Metrics, tuple[str, ...]]:
    """Metrics that JSON can hold.

    Args:
        metrics: Name -> number; anything that ``float`` takes.

    Returns:
        The metrics with None for every number that is not finite, and the names of those.
    """
    values = {name: float(value) for name, value in metrics.items()}
    clean: Metrics = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return clean, tuple(name for name, value in clean.items() if value is None)


def _count_from(path: Path) -> int:
    """Number of the next event after the last one that can be read."""
    try:
        with open_regular_file(path) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return 0
    except OSError:
        if path.is_symlink():  # what it leads to is not of this run
            return 0
        raise
    found = (parse_event(line) for line in reversed(lines))
    return next((event.seq + 1 for event in found if event is not None), 0)
