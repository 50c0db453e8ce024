"""Folder of a study: file layout, datasets and splits shared by its variants, and results loaded without a model.

::

    DIR/study.json   DIR/train/   DIR/test/   DIR/logs/   DIR/runs/<run_id>/
    DIR/seed_0/split.json   DIR/seed_0/<variant>/{run.json, results.jsonl, evaluate.log}
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hart_studio.data.sources import load_needle
from hart_studio.data.splits import SplitManifest, read_manifest, split_samples, write_manifest
from hart_studio.errors import DataError, HartError, InputError
from hart_studio.evaluation.records import SampleResult, read_records
from hart_studio.evaluation.statistics import FloatArray, draw_resamples
from hart_studio.experiments.miniature.variants import StudySize, StudyVariant, base_config
from hart_studio.files import write_json
from hart_studio.records import Protocol
from hart_studio.runs.config import RunConfig
from hart_studio.runs.events import Evaluated, RunEvent, Started, StepDone
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.provenance import Provenance
from hart_studio.runs.reader import drop_superseded, read_all_events

PHASES: Final = ("rollout", "reference", "update")
"""Timed phases of a training step; SFT has only the last one."""


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study.

    Attributes:
        folder: Absolute.
        size: Size of the study.
        model: Initial model; empty = the built-in one.
    """

    folder: Path
    size: StudySize
    model: str = ""

    @property
    def config(self) -> RunConfig:
        """Common settings of all variants."""
        return base_config(self.size, self.model, self.train)

    @property
    def train(self) -> Path:
        """Training questions of all variants and seeds."""
        return self.folder / "train"

    @property
    def test(self) -> Path:
        """Test questions for all models."""
        return self.folder / "test"

    @property
    def runs(self) -> Path:
        """Root of the training runs."""
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        """Logs of drawing the questions."""
        return self.folder / "logs"

    def variant_folder(self, variant: StudyVariant, seed: int) -> Path:
        """Files of a variant, except its run."""
        return self.folder / f"seed_{seed}" / variant.name

    def results_path(self, variant: StudyVariant, seed: int) -> Path:
        """Results of a variant; present = the variant is complete."""
        return self.variant_folder(variant, seed) / "results.jsonl"

    def find_run(self, variant: StudyVariant, seed: int) -> RunLayout | None:
        """Find the training run of a variant; None if it has not started.

        Raises:
            DataError: If the file with its id cannot be read.
            InputError: If there is no such run.
        """
        path = self.variant_folder(variant, seed) / "run.json"
        if not path.exists():
            return None
        try:
            run_id = str(json.loads(path.read_bytes())["run"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"Cannot read the run id in {path}: {error}. Remove the file.") from error
        return find_run(self.runs, run_id)

    def write_run_id(self, variant: StudyVariant, seed: int, layout: RunLayout) -> None:
        """Save the run id of a variant."""
        write_json(self.variant_folder(variant, seed) / "run.json", {"run": layout.run_id})

    def open(self) -> None:
        """Create the folder, or check that it contains a study with the same settings.

        Raises:
            InputError: If it contains another study.
        """
        plan = {
            "model": self.model,
            "test_questions": self.size.test_questions,
            "test_arguments": list(self.size.test_arguments),
            "settings": self.config.model_dump(mode="json"),
        }
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.folder / "study.json"
        if not path.exists():
            write_json(path, plan)
            return
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"Cannot read the study settings in {path}: {error}") from error
        if found != plan:
            raise InputError(f"{self.folder} contains a study with other settings. Choose another --out.")

    def split(self, seed: int) -> SplitManifest:
        """The split of a seed, shared by all its variants.

        Without a shared manifest, D_SFT of a run with one stage could overlap D_RL of another run; the manifest keeps
        them disjoint (paper, Sec. 4.3).

        Raises:
            HartError: If the training questions cannot be read, or are too few.
        """
        path = self.folder / f"seed_{seed}" / "split.json"
        if path.exists():
            return read_manifest(path)
        data = self.config.data
        samples = load_needle(self.train).samples
        split = split_samples(
            samples, data.rl_samples, data.sft_samples, data.eval_samples, seed=seed, split_by_image=data.split_by_image
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(path, split.manifest)
        return split.manifest


def publish_folder(draft: Path, folder: Path) -> None:
    """Rename a complete draft folder.

    Raises:
        HartError: If it has no samples, because drawing failed.
    """
    if not (draft / "samples.jsonl").exists():
        raise HartError(f"{draft} contains no questions; see the log in the same folder")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


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
    return drop_superseded(read_all_events(layout))


def _curve(events: Sequence[RunEvent], metric: str) -> dict[int, float]:
    points = {}
    for event in events:
        if isinstance(event.payload, StepDone | Evaluated):
            value = event.payload.metrics.get(metric)
            if value is not None:
                points[event.step] = value
    return points
