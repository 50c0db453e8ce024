"""Load the results of a study from its files, without running a model."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hart_studio.errors import DataError
from hart_studio.evaluation.records import SampleResult, read_records
from hart_studio.evaluation.statistics import FloatArray, draw_resamples
from hart_studio.experiments.miniature.study_folder import StudyFolder
from hart_studio.experiments.miniature.variants import StudyVariant
from hart_studio.records import Protocol
from hart_studio.runs.events import Evaluated, RunEvent, Started, StepDone
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.provenance import Provenance
from hart_studio.runs.reader import drop_superseded, read_events

_WHOLE_FILE: Final = 2**40
PHASES: Final = ("rollout", "reference", "update")
"""Timed phases of a training step; SFT has only the last one."""


@dataclass(frozen=True)
class VariantResults:
    """Evaluated questions of a variant.

    Attributes:
        variant: The variant.
        by_seed: Seed -> records, the same questions in the same order for every seed.
    """

    variant: StudyVariant
    by_seed: Mapping[int, Sequence[SampleResult]]

    def values(self, read: Callable[[SampleResult], float]) -> FloatArray:
        """One value per seed and question, ``[S, n]``."""
        return np.array([[read(record) for record in records] for records in self.by_seed.values()], dtype=np.float64)

    def answers(self, protocol: Protocol) -> FloatArray:
        """Scores of the answers under a protocol, ``[S, n]``."""
        return self.values(lambda record: record.value(protocol))

    @property
    def is_grounded(self) -> FloatArray:
        """1.0 where every gold box is found, ``[S, n]``."""
        return self.values(lambda record: float(record.is_grounded))


@dataclass(frozen=True)
class StudyResults:
    """Data of the report.

    Attributes:
        variants: Variants of the study, in its order.
        records: Variant -> its records; variants without evaluation are missing.
        runs: Variant -> events of its runs, by seed.
        resamples: Bootstrap samples of the questions, shared by all intervals.
        kinds: Category of every question.
    """

    variants: Sequence[StudyVariant]
    records: Mapping[str, VariantResults]
    runs: Mapping[str, Mapping[int, Sequence[RunEvent]]]
    resamples: FloatArray
    kinds: Sequence[str]

    @property
    def seeds(self) -> int:
        """Maximum number of seeds of a variant."""
        return max((len(found.by_seed) for found in self.records.values()), default=0)

    def of_kind(self, kind: str) -> NDArray[Any]:
        """Mask of the questions of a category, ``[n]``."""
        return np.array([found == kind for found in self.kinds])

    def curve(self, variant: str, metric: str) -> list[dict[int, float]]:
        """Step -> value of a metric, for each seed: of training steps, or of held-out questions."""
        return [_curve(events, metric) for events in self.runs.get(variant, {}).values()]

    def provenances(self) -> list[Provenance]:
        """Provenance of the attempts of all runs."""
        events = (event for by_seed in self.runs.values() for found in by_seed.values() for event in found)
        return [event.payload.provenance for event in events if isinstance(event.payload, Started)]


@dataclass(frozen=True)
class StepCost:
    """Cost of a training step: means over the steps of a run, except the first, which includes warm-up.

    Attributes:
        seconds: Phase -> seconds.
        memory_mib: Peak memory of the process.
    """

    seconds: Mapping[str, float]
    memory_mib: float

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())


def load_results(study: StudyFolder, variants: Sequence[StudyVariant], seeds: int, resamples: int) -> StudyResults:
    """Load the available results.

    Args:
        study: The study.
        variants: Its variants.
        seeds: Its seeds.
        resamples: Number of bootstrap samples.

    Raises:
        DataError: If a file cannot be read, or models were evaluated on different questions.
    """
    records, runs = {}, {}
    first: Sequence[SampleResult] = ()
    for variant in variants:
        by_seed = {
            seed: read_records(study.results_path(variant, seed))
            for seed in range(seeds)
            if study.results_path(variant, seed).exists()
        }
        for seed, found in by_seed.items():
            first = first or found
            if not found or [record.sample_id for record in found] != [record.sample_id for record in first]:
                raise DataError(
                    f"{variant.name} seed {seed} was evaluated on other questions than the other models. "
                    f"Remove {study.results_path(variant, seed)} and restart the study."
                )
        if by_seed:
            records[variant.name] = VariantResults(variant, by_seed)
        layouts = {seed: study.find_run(variant, seed) for seed in range(seeds)}
        runs[variant.name] = {seed: _read_all(layout) for seed, layout in layouts.items() if layout is not None}
    draws = draw_resamples(len(first), resamples) if first else np.zeros((0, 0))
    return StudyResults(variants, records, runs, draws, [record.category for record in first])


def find_cost(events: Sequence[RunEvent]) -> StepCost | None:
    """Compute the cost of a step of a run; None if it has fewer than two steps."""
    steps = [event.payload.metrics for event in events if isinstance(event.payload, StepDone)][1:]
    if not steps:
        return None

    def mean(name: str) -> float:
        values = [value for step in steps if (value := step.get(name)) is not None]
        return statistics.fmean(values) if values else 0.0

    peaks = [value for step in steps if (value := step.get("memory_mib")) is not None]
    return StepCost({phase: mean(f"seconds_{phase}") for phase in PHASES}, max(peaks, default=0.0))


def _read_all(layout: RunLayout) -> list[RunEvent]:
    return drop_superseded(read_events(layout, max_bytes=_WHOLE_FILE).events)


def _curve(events: Sequence[RunEvent], metric: str) -> dict[int, float]:
    points = {}
    for event in events:
        if isinstance(event.payload, StepDone | Evaluated):
            value = event.payload.metrics.get(metric)
            if value is not None:
                points[event.step] = value
    return points
