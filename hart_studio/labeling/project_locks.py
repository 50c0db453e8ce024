"""Locks of a labeling project: one labeling run and one import at a time, across processes."""

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
"""Lock file in the runs folder, held by the active labeling run."""

START_LOCK: Final = "start.lock"
"""Lock file beside it, held while a run is created and started."""

IMPORT_LOCK: Final = "import.lock"
"""Lock file in the project folder, held by the active import."""

EXPORTS: Final = "exports"
"""Project folder of exports."""

TRAINING: Final = "training"
"""Project folder of training samples."""

_OWN_NAMES: Final = (DATABASE, RUNS, IMAGES, EXPORTS, TRAINING, CALIBRATION, IMPORT_LOCK)
_LOCK_TIMEOUT_SECONDS: Final = 5.0


def check_links(project: Project) -> None:
    """Check that no file or folder that the project writes to is a link out of the project.

    Unrelated files in the folder may be links.

    Raises:
        InputError: If there is such a link; it is named.
    """
    reject_external_symlinks(project.folder, _OWN_NAMES)


@contextmanager
def hold_run_lock(project: Project, run_id: str) -> Iterator[None]:
    """Hold the lock of the active labeling run.

    Raises:
        InputError: If another run holds it; the message names it.
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
    """Hold the lock of the active import.

    Raises:
        InputError: If another import holds it; the message names it.
        DataError: If the project is gone.
    """
    _ = project.name  # do not create a lock file in a folder that is no project anymore
    check_links(project)
    try:
        with hold_lock(project.folder / IMPORT_LOCK, work="import"):
            yield
    except LockedError as error:
        raise InputError(_describe_import(error.holder)) from error


@contextmanager
def reserve_start(project: Project, resumed: str = "") -> Iterator[None]:
    """Hold the start lock while a run is created or resumed: no other run may start or be active.

    Args:
        project: The project.
        resumed: Id of the run to resume.

    Raises:
        InputError: If a labeling run is active or starting; the message names it.
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
        raise InputError(
            "Another program is starting a labeling run on this project. Try again in a moment."
        ) from error


@contextmanager
def hold_project(project: Project) -> Iterator[None]:
    """Block runs and imports while a project is renamed, archived or deleted.

    Raises:
        InputError: If one is active; the message names it.
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
    """Whether a run is active or starting."""
    return run.state in {"queued", "running", "stopping"}


def _refuse_active_run(project: Project, resumed: str) -> None:
    try:
        with hold_lock(project.runs / RUN_LOCK):
            pass
    except LockedError as error:
        raise InputError(_describe_run(error.holder)) from error
    for run in list_runs(project.runs):
        # An active run holds the lock. Without the lock, its status was copied from another project.
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
