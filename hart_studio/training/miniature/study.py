"""Run the cells of a study in order of what they need; what is complete is not done again."""

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
from hart_studio.training.miniature.cells import CELLS, Cell
from hart_studio.training.miniature.jobs import Commands, Jobs
from hart_studio.training.miniature.workplace import Workplace
from hart_studio.training.train import MODEL_FOLDER

_WAIT_SECONDS: Final = 0.5

Ending = Literal["done", "found", "failed", "skipped"]
"""How a cell ended; ``found``: it was complete already; ``skipped``: what it is trained from failed."""


@dataclass(frozen=True)
class Task:
    """A cell of one seed."""

    cell: Cell
    seed: int

    @property
    def label(self) -> str:
        """For people."""
        return f"seed {self.seed} {self.cell.name}"


@dataclass
class Progress:
    """What the study knows while it runs.

    Attributes:
        endings: How each task ended.
        seconds: Cell -> seconds of its finished tasks.
    """

    endings: dict[Task, Ending] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def estimate(self, tasks: Sequence[Task], jobs: int) -> float | None:
        """Seconds that the rest will take, from the cells that are done; None before the first one."""
        known = [value for values in self.seconds.values() for value in values]
        if not known:
            return None
        typical = sum(known) / len(known)
        left = [task for task in tasks if task not in self.endings]
        per_cell = {name: sum(values) / len(values) for name, values in self.seconds.items()}
        return sum(per_cell.get(task.cell.name, typical) for task in left) / min(jobs, max(1, len(left)))

    def conclude(
        self, task: Task, future: Future[float], tasks: Sequence[Task], jobs: int, say: Callable[[str], None]
    ) -> None:
        """Count a task that ended, and say so."""
        try:
            seconds = future.result()
        except HartError as error:
            self.endings[task] = "failed"
            say(f"failed   {task.label}: {error}")
            return
        self.endings[task] = "done"
        self.seconds.setdefault(task.cell.name, []).append(seconds)
        rest = self.estimate(tasks, jobs)
        ahead = f", about {rest / 60:.0f} min to go" if rest else ""
        say(f"finished {task.label} in {seconds:.0f} s; {len(self.endings)} of {len(tasks)}{ahead}")


def plan_tasks(cells: Sequence[Cell], seeds: int) -> list[Task]:
    """All tasks, seed by seed, so that an interrupted study has a full table of the first seeds.

    The model that the study begins with is not trained and is read out greedily: it is measured once, with seed 0.

    Raises:
        ValueError: If a cell is there without the one that it is trained from.
    """
    names = {cell.name for cell in cells}
    lonely = [cell.name for cell in cells if cell.parent and CELLS[cell.parent].method and cell.parent not in names]
    if lonely:
        raise ValueError(f"expected cells with what they are trained from, got {lonely[0]} without; use choose_cells")
    return [Task(cell, seed) for seed in range(seeds) for cell in cells if seed == 0 or cell.method is not None]


def run_study(
    place: Workplace,
    cells: Sequence[Cell],
    seeds: int,
    jobs: int,
    say: Callable[[str], None],
    commands: Commands | None = None,
) -> dict[Task, Ending]:
    """Run all cells.

    Args:
        place: Folder and size of the study.
        cells: Cells, parents before children and among them.
        seeds: Number of seeds, counted from 0.
        jobs: Cells at a time.
        say: Takes one line of progress.
        commands: How processes are started; None = this project's own commands.

    Returns:
        How each cell of each seed ended.

    Raises:
        HartError: If the questions cannot be drawn, or the folder holds another study.
        KeyboardInterrupt: After SIGINT or SIGTERM, once every child has saved and ended.
    """
    place.open()
    worker = Jobs(place, commands or Commands(), threads=max(1, (os.cpu_count() or 1) // jobs))
    tasks = plan_tasks(cells, seeds)
    with _terminate_as_interrupt(), ThreadPoolExecutor(max_workers=max(jobs, 2)) as pool:
        try:
            for future in [pool.submit(worker.generate_samples, split) for split in ("test", "train")]:
                future.result()
            return _run_tasks(place, worker, tasks, jobs, say, pool)
        except BaseException:
            worker.stop()  # the pool's end waits for the threads, and these for their processes
            raise


def _run_tasks(
    place: Workplace,
    worker: Jobs,
    tasks: Sequence[Task],
    jobs: int,
    say: Callable[[str], None],
    pool: ThreadPoolExecutor,
) -> dict[Task, Ending]:
    progress = Progress({task: "found" for task in tasks if place.measured(task.cell, task.seed).exists()})
    if progress.endings:
        say(f"{len(progress.endings)} of {len(tasks)} cells are complete already")
    running: dict[Future[float], Task] = {}
    while len(progress.endings) < len(tasks):
        for task in tasks:
            if task in progress.endings or task in running.values():
                continue
            parent = _find_parent(task)
            ending = progress.endings.get(parent) if parent else "found"
            if parent is not None and ending in ("failed", "skipped"):
                progress.endings[task] = "skipped"
                say(f"skipped  {task.label}: there is no {parent.cell.name} to train further")
            elif ending is not None and len(running) < jobs:
                say(f"started  {task.label}")
                running[pool.submit(_run_task, place, worker, task)] = task
        done, _ = wait(running, timeout=_WAIT_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            progress.conclude(running.pop(future), future, tasks, jobs, say)
    return progress.endings


def _run_task(place: Workplace, worker: Jobs, task: Task) -> float:
    """Train and measure a cell; returns the seconds that this took."""
    began = time.monotonic()
    model = place.model
    if task.cell.method is not None:
        model = worker.train(task.cell, task.seed, _model_of_parent(place, task))
    worker.measure(task.cell, task.seed, model)
    return time.monotonic() - began


def _find_parent(task: Task) -> Task | None:
    """The task whose model this one trains further; None when that is the model that the study begins with."""
    parent = CELLS[task.cell.parent] if task.cell.parent else None
    return None if parent is None or parent.method is None else Task(parent, task.seed)


def _model_of_parent(place: Workplace, task: Task) -> str:
    parent = _find_parent(task)
    if parent is None:
        return place.model
    layout = place.find_run(parent.cell, parent.seed)
    if layout is None:
        raise DataError(f"expected the run of {parent.label}, got none; remove its measured.jsonl to train it again")
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
