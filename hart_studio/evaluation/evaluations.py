"""Input of tables, figures and reports: the records of one model on one benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from hart_studio.evaluation.records import SampleResult
from hart_studio.records import Protocol


@dataclass(frozen=True)
class Evaluation:
    """Records of one model on one benchmark, complete or partial."""

    run_id: str
    """Id of the run."""
    title: str
    """Short name for tables, such as the model's name."""
    model: str
    """Loaded model: a folder, hub id, or built-in name."""
    benchmark: str
    """Name of the benchmark, such as ``treebench``."""
    protocols: tuple[Protocol, ...]
    """Protocols of all questions."""
    date: str
    """Date of the measurement, ``YYYY-MM-DD``."""
    records: tuple[SampleResult, ...]
    """One record per measured question."""
    total: int
    """Number of questions of the evaluation."""
    is_complete: bool
    """Whether all questions are measured."""
    left_out: int = 0
    """Number of invalid rows of the benchmark; not asked, and in no metric."""
