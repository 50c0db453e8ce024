"""Locks of a labeling project: one labeling run and one import at a time, in all processes that use its folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from hart_studio.errors import InputError
from hart_studio.labeling.calibration_lookup import CALIBRATION
from hart_studio.labeling.database import DATABASE
from hart_studio.labeling.project import IMAGES, RUNS, Project
from hart_studio.runs.processes import LockedError, LockHolder, hold_lock
from hart_studio.runs.reader import RunSummary, list_runs
from hart_studio.symlinks import reject_external_symlinks

RUN_LOCK: Final = "labeling.lock"
"""File in the folder of the runs. A labeling run holds its lock as long as it works."""

START_LOCK: Final = "start.lock"
"""File beside it. Its lock is held while a run is made and started."""

IMPORT_LOCK: Final = "import.lock"
"""File of the project's folder. An import holds its lock as long as it works."""

EXPORTS: Final = "exports"
"""Folder of the project that holds its exports."""

TRAINING: Final = "training"
"""Folder of the project that holds the samples for a training."""

_OWN_NAMES: Final = (DATABASE, RUNS, IMAGES, EXPORTS, TRAINING, CALIBRATION, IMPORT_LOCK)
_LOCK_TIMEOUT_SECONDS: Final = 5.0


def check_links(project: Project) -> None:
    """Check that no file or folder of a project is a link that leads out of it, before anything is written there.

    Other files of the user may lie in the folder, too, and be links.

    Raises:
        InputError: If there is one; the message names it.
    """
    reject_external_symlinks(project.folder, _OWN_NAMES)


@contextmanager
def hold_run_lock(project: Project, run_id: str) -> Iterator[None]:
    """Be the one labeling run that works on a project.

    Raises:
        InputError: If another one is; the message names it.
    """
    check_links(project)
    project.runs.mkdir(exist_ok=True)
    try:
        with hold_lock(project.runs / RUN_LOCK, _LOCK_TIMEOUT_SECONDS, work=run_id):
            yield
    except LockedError as error:
        raise InputError(_describe_run(error.holder)) from error


@contextmanager
def hold_import_lock(project: Project) -> Iterator[None]:
    """Be the one import that works on a project.

    Raises:
        InputError: If another one is; the message names it.
        DataError: If the project is gone.
    """
    _ = project.name  # a lock file must not be made in a folder that is a project no more
    check_links(project)
    try:
        with hold_lock(project.folder / IMPORT_LOCK, work="import"):
            yield
    except LockedError as error:
        raise InputError(_describe_import(error.holder)) from error


@contextmanager
def reserve_start(project: Project, resumed: str = "") -> Iterator[None]:
    """Make or resume a run inside the block: no other program starts one meanwhile, and none works now.

    Args:
        project: The project.
        resumed: Id of the run that is resumed.

    Raises:
        InputError: If a labeling run works or is about to; the message names it.
        DataError: If the project is gone.
    """
    _ = project.name
    check_links(project)
    project.runs.mkdir(exist_ok=True)
    try:
        with hold_lock(project.runs / START_LOCK, _LOCK_TIMEOUT_SECONDS, work="start"):
            _refuse_active_run(project, resumed)
            yield
    except LockedError as error:
        raise InputError("Another program is starting a labeling run on this project. Try again soon.") from error


@contextmanager
def hold_project(project: Project) -> Iterator[None]:
    """Rename, archive or delete a project inside the block: no run and no import works or starts meanwhile.

    Raises:
        InputError: If one does; the message names it.
        DataError: If the project is gone.
    """
    with reserve_start(project), ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(project.runs / RUN_LOCK))
        except LockedError as error:
            raise InputError(_describe_run(error.holder)) from error
        stack.enter_context(hold_import_lock(project))
        yield


def is_run_active(run: RunSummary) -> bool:
    """Whether a run works, or is about to."""
    return run.state in {"queued", "running", "stopping"}


def _refuse_active_run(project: Project, resumed: str) -> None:
    try:
        with hold_lock(project.runs / RUN_LOCK):
            pass
    except LockedError as error:
        raise InputError(_describe_run(error.holder)) from error
    for run in list_runs(project.runs):
        # A run that works holds the lock. One that says so without it works on the folder that this is a copy of.
        status = run.status
        if status and status.state == "queued" and is_run_active(run) and run.layout.run_id != resumed:
            process = f"process {status.pid}, starting" if status.pid else "waiting to start"
            raise InputError(
                f"Labeling run {run.layout.run_id} ({process}) is already working on this project. "
                "Stop it or wait until it ends."
            )


def _describe_run(holder: LockHolder | None) -> str:
    name = f"Labeling run {holder.work} ({holder.description})" if holder else "A labeling run"
    return f"{name} is already working on this project. Stop it or wait until it ends."


def _describe_import(holder: LockHolder | None) -> str:
    process = f" ({holder.description})" if holder else ""
    return f"An import into this project is already running{process}. Wait until it ends."
