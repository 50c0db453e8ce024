"""What tables, figures and reports are made from: the records of one model on one benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from hart_studio.evaluation.records import SampleResult
from hart_studio.records import Protocol


@dataclass(frozen=True)
class Evaluation:
    """One model on one benchmark, as far as it has been measured."""

    run_id: str
    """The run that measured it."""
    title: str
    """Short name for tables, for instance the model's."""
    model: str
    """What was loaded: a folder, a hub id, or a name of the catalogue."""
    benchmark: str
    """Name of the benchmark, as ``treebench``."""
    protocols: tuple[Protocol, ...]
    """Protocols that every question was asked under."""
    date: str
    """Day of the measurement, ``YYYY-MM-DD``."""
    records: tuple[SampleResult, ...]
    """One per question that has been measured."""
    total: int
    """Questions of the benchmark that were asked for."""
    is_complete: bool
    """Whether all of them have been measured."""
    left_out: int = 0
    """Rows of the benchmark that are no valid question: not asked, and in no figure."""
