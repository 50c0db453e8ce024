"""Run the variants of a study in dependency order; completed variants are skipped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Final, Literal, NoReturn

from hart_studio.errors import DataError, HartError
from hart_studio.experiments.miniature.processes import Commands, ProcessRunner
from hart_studio.experiments.miniature.study_folder import StudyFolder
from hart_studio.experiments.miniature.variants import VARIANTS, StudyVariant
from hart_studio.training.train import MODEL_FOLDER

_WAIT_SECONDS: Final = 0.5

JobStatus = Literal["done", "found", "failed", "skipped"]
"""Result of a variant; ``found``: it was already complete; ``skipped``: its parent failed."""


@dataclass(frozen=True)
class StudyJob:
    """A variant of one seed."""

    variant: StudyVariant
    seed: int

    @property
    def label(self) -> str:
        """Display name."""
        return f"seed {self.seed} {self.variant.name}"


@dataclass
class Progress:
    """Progress of the study.

    Attributes:
        statuses: Result of each job.
        seconds: Variant -> seconds of its finished jobs.
    """

    statuses: dict[StudyJob, JobStatus] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def estimate(self, study_jobs: Sequence[StudyJob], jobs: int) -> float | None:
        """Estimate the remaining seconds from finished variants; None before the first one."""
        known = [value for values in self.seconds.values() for value in values]
        if not known:
            return None
        typical = sum(known) / len(known)
        left = [job for job in study_jobs if job not in self.statuses]
        per_variant = {name: sum(values) / len(values) for name, values in self.seconds.items()}
        return sum(per_variant.get(job.variant.name, typical) for job in left) / min(jobs, max(1, len(left)))

    def finish(
        self,
        job: StudyJob,
        future: Future[float],
        study_jobs: Sequence[StudyJob],
        jobs: int,
        report: Callable[[str], None],
    ) -> None:
        """Record a finished job, and report it."""
        try:
            seconds = future.result()
        except HartError as error:
            self.statuses[job] = "failed"
            report(f"failed   {job.label}: {error}")
            return
        self.statuses[job] = "done"
        self.seconds.setdefault(job.variant.name, []).append(seconds)
        rest = self.estimate(study_jobs, jobs)
        ahead = f", about {rest / 60:.0f} min to go" if rest else ""
        report(f"finished {job.label} in {seconds:.0f} s; {len(self.statuses)} of {len(study_jobs)}{ahead}")


def plan_jobs(variants: Sequence[StudyVariant], seeds: int) -> list[StudyJob]:
    """List all jobs by seed, so that an interrupted study has complete results of the first seeds.

    The initial model is not trained and is decoded greedily, so it is evaluated once, with seed 0.

    Raises:
        ValueError: If the parent of a variant is missing.
    """
    names = {variant.name for variant in variants}
    missing_parent = [
        variant.name
        for variant in variants
        if variant.parent and VARIANTS[variant.parent].method and variant.parent not in names
    ]
    if missing_parent:
        raise ValueError(f"the parent of {missing_parent[0]} is missing; use select_variants")
    return [
        StudyJob(variant, seed)
        for seed in range(seeds)
        for variant in variants
        if seed == 0 or variant.method is not None
    ]


def run_study(
    study: StudyFolder,
    variants: Sequence[StudyVariant],
    seeds: int,
    jobs: int,
    report: Callable[[str], None],
    commands: Commands | None = None,
) -> dict[StudyJob, JobStatus]:
    """Run all variants.

    Args:
        study: Folder and size of the study.
        variants: Variants, with all parents, parents first.
        seeds: Number of seeds, counted from 0.
        jobs: Number of concurrent variants.
        report: Called with one line of progress.
        commands: Commands of the processes; None = the commands of this project.

    Returns:
        Result of each variant and seed.

    Raises:
        HartError: If the questions cannot be drawn, or the folder contains another study.
        KeyboardInterrupt: After SIGINT or SIGTERM, after all child processes have saved and ended.
    """
    study.open()
    worker = ProcessRunner(study, commands or Commands(), threads=max(1, (os.cpu_count() or 1) // jobs))
    study_jobs = plan_jobs(variants, seeds)
    with _terminate_as_interrupt(), ThreadPoolExecutor(max_workers=max(jobs, 2)) as pool:
        try:
            for future in [pool.submit(worker.generate_samples, split) for split in ("test", "train")]:
                future.result()
            return _run_jobs(study, worker, study_jobs, jobs, report, pool)
        except BaseException:
            worker.stop()  # closing the pool waits for the threads, which wait for their processes
            raise


def _run_jobs(
    study: StudyFolder,
    worker: ProcessRunner,
    study_jobs: Sequence[StudyJob],
    jobs: int,
    report: Callable[[str], None],
    pool: ThreadPoolExecutor,
) -> dict[StudyJob, JobStatus]:
    progress = Progress({job: "found" for job in study_jobs if study.results_path(job.variant, job.seed).exists()})
    if progress.statuses:
        report(f"{len(progress.statuses)} of {len(study_jobs)} variants are already complete")
    running: dict[Future[float], StudyJob] = {}
    while len(progress.statuses) < len(study_jobs):
        for job in study_jobs:
            if job in progress.statuses or job in running.values():
                continue
            parent = _parent_job(job)
            status = progress.statuses.get(parent) if parent else "found"
            if parent is not None and status in ("failed", "skipped"):
                progress.statuses[job] = "skipped"
                report(f"skipped  {job.label}: its parent {parent.variant.name} is missing")
            elif status is not None and len(running) < jobs:
                report(f"started  {job.label}")
                running[pool.submit(_run_job, study, worker, job)] = job
        done, _ = wait(running, timeout=_WAIT_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            progress.finish(running.pop(future), future, study_jobs, jobs, report)
    return progress.statuses


def _run_job(study: StudyFolder, worker: ProcessRunner, job: StudyJob) -> float:
    """Train and evaluate a variant; return the elapsed seconds."""
    began = time.monotonic()
    model = study.model
    if job.variant.method is not None:
        model = worker.train(job.variant, job.seed, _model_of_parent(study, job))
    worker.measure(job.variant, job.seed, model)
    return time.monotonic() - began


def _parent_job(job: StudyJob) -> StudyJob | None:
    """The parent job; None if the parent is the initial model."""
    parent = VARIANTS[job.variant.parent] if job.variant.parent else None
    return None if parent is None or parent.method is None else StudyJob(parent, job.seed)


def _model_of_parent(study: StudyFolder, job: StudyJob) -> str:
    parent = _parent_job(job)
    if parent is None:
        return study.model
    layout = study.find_run(parent.variant, parent.seed)
    if layout is None:
        raise DataError(f"The run of {parent.label} is missing. Remove its results.jsonl to train it again.")
    return str(layout.folder / MODEL_FOLDER)


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _raise_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
