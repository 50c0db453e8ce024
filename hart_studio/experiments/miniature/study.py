"""Run the variants of a study in order of what they need; what is complete is not done again."""

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
"""How a variant ended; ``found``: it was complete already; ``skipped``: what it is trained from failed."""


@dataclass(frozen=True)
class StudyJob:
    """A variant of one seed."""

    variant: StudyVariant
    seed: int

    @property
    def label(self) -> str:
        """For people."""
        return f"seed {self.seed} {self.variant.name}"


@dataclass
class Progress:
    """What the study knows while it runs.

    Attributes:
        statuses: How each job ended.
        seconds: Variant -> seconds of its finished jobs.
    """

    statuses: dict[StudyJob, JobStatus] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def estimate(self, study_jobs: Sequence[StudyJob], jobs: int) -> float | None:
        """Seconds that the rest will take, from the variants that are done; None before the first one."""
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
        """Count a job that ended, and say so."""
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
    """All jobs, seed by seed, so that an interrupted study has a full table of the first seeds.

    The model that the study begins with is not trained and is read out greedily: it is measured once, with seed 0.

    Raises:
        ValueError: If a variant is there without the one that it is trained from.
    """
    names = {variant.name for variant in variants}
    missing_parent = [
        variant.name
        for variant in variants
        if variant.parent and VARIANTS[variant.parent].method and variant.parent not in names
    ]
    if missing_parent:
        raise ValueError(
            f"expected variants with what they are trained from, got {missing_parent[0]} without; use select_variants"
        )
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
        variants: Variants, parents before children and among them.
        seeds: Number of seeds, counted from 0.
        jobs: Variants at a time.
        report: Takes one line of progress.
        commands: How processes are started; None = this project's own commands.

    Returns:
        How each variant of each seed ended.

    Raises:
        HartError: If the questions cannot be drawn, or the folder holds another study.
        KeyboardInterrupt: After SIGINT or SIGTERM, once every child has saved and ended.
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
            worker.stop()  # the pool's end waits for the threads, and these for their processes
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
        report(f"{len(progress.statuses)} of {len(study_jobs)} variants are complete already")
    running: dict[Future[float], StudyJob] = {}
    while len(progress.statuses) < len(study_jobs):
        for job in study_jobs:
            if job in progress.statuses or job in running.values():
                continue
            parent = _parent_job(job)
            status = progress.statuses.get(parent) if parent else "found"
            if parent is not None and status in ("failed", "skipped"):
                progress.statuses[job] = "skipped"
                report(f"skipped  {job.label}: there is no {parent.variant.name} to train further")
            elif status is not None and len(running) < jobs:
                report(f"started  {job.label}")
                running[pool.submit(_run_job, study, worker, job)] = job
        done, _ = wait(running, timeout=_WAIT_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            progress.finish(running.pop(future), future, study_jobs, jobs, report)
    return progress.statuses


def _run_job(study: StudyFolder, worker: ProcessRunner, job: StudyJob) -> float:
    """Train and measure a variant; returns the seconds that this took."""
    began = time.monotonic()
    model = study.model
    if job.variant.method is not None:
        model = worker.train(job.variant, job.seed, _model_of_parent(study, job))
    worker.measure(job.variant, job.seed, model)
    return time.monotonic() - began


def _parent_job(job: StudyJob) -> StudyJob | None:
    """The job whose model this one trains further; None when that is the model that the study begins with."""
    parent = VARIANTS[job.variant.parent] if job.variant.parent else None
    return None if parent is None or parent.method is None else StudyJob(parent, job.seed)


def _model_of_parent(study: StudyFolder, job: StudyJob) -> str:
    parent = _parent_job(job)
    if parent is None:
        return study.model
    layout = study.find_run(parent.variant, parent.seed)
    if layout is None:
        raise DataError(f"expected the run of {parent.label}, got none; remove its results.jsonl to train it again")
    return str(layout.folder / MODEL_FOLDER)


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the study as Ctrl-C does; only the main thread can say so."""
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
