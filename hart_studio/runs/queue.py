"""Runs that wait for their device: what is to be started lies in the run's folder, so a restart forgets nothing.

A run is ``queued`` with a launch plan until a processor that it needs is free. Any page's server may do the starting;
a lock makes sure that one does at a time. A run that waits keeps its devices for itself: no later one overtakes it on
them, so its place in the queue is true.
"""

from __future__ import annotations

import json
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import Field

from hart_studio.errors import HartError, InputError
from hart_studio.files import read_regular_file, write_json
from hart_studio.records import Record
from hart_studio.runs.config_file import config_variables, hash_config, read_config_file
from hart_studio.runs.devices import VISIBLE_VARIABLE
from hart_studio.runs.events import EventLog
from hart_studio.runs.launcher import start_run
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.processes import SHORT_LOCK_TIMEOUT_SECONDS, hold_lock
from hart_studio.runs.reader import RunSummary, list_runs, summarize_run
from hart_studio.runs.signing import is_signed, sign_plan
from hart_studio.runs.status import check_startable, read_status, write_status
from hart_studio.runs.stopping import resume_stop
from hart_studio.runs.writer import record_end

PERIOD_SECONDS: Final = 0.5
"""Between two looks at what waits."""

_LOCK: Final = ".queue.lock"
_ORDER: Final = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Makes CUDA count processors as the driver does; by itself it puts the fastest first."""

_FOREIGN: Final = "expected a launch plan that was made here, got another; resume the run to plan it again"
_CHANGED: Final = (
    "The settings of this run were changed after it was put into the queue, so it was not started. Resume the run to "
    "check and start it with the settings that it has now."
)


class LaunchPlan(Record):
    """What ``launch.json`` of a run holds."""

    argv: tuple[str, ...] = Field(min_length=1)
    """Program and arguments."""
    gpus: tuple[int, ...] = ()
    """Processors that it gets, by the driver's numbers; none = the CPU."""
    config_sha256: str = ""
    """SHA-256 of the ``config.json`` that was checked; the job refuses any other. Empty before the plan is written."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the job. Without a processor it must see none, or it would take the first."""
        return {VISIBLE_VARIABLE: ",".join(map(str, self.gpus)), **(_ORDER if self.gpus else {})}

    def job_variables(self, layout: RunLayout) -> dict[str, str]:
        """Variables with which the page starts the job."""
        return {**self.environment, **config_variables(layout.run_id, self.config_sha256)}

    def shares_device(self, other: LaunchPlan) -> bool:
        """Whether two jobs would be in each other's way."""
        return bool(set(self.gpus) & set(other.gpus)) or not (self.gpus or other.gpus)


def enqueue_launch(layout: RunLayout, plan: LaunchPlan) -> None:
    """Put the next attempt of a run into the queue: its first, or one that continues from where it ended.

    Raises:
        InputError: If the run is completed, or an attempt still runs.
        DataError: If the status of the run cannot be read, or plans cannot be signed.
    """
    with hold_lock(layout.lock, SHORT_LOCK_TIMEOUT_SECONDS):
        status = check_startable(layout)
        layout.stop.unlink(missing_ok=True)
        write_plan(layout, plan)
        write_status(
            layout, status.replace(state="queued", pid=None, pid_start=None, exit_code=None, error="", phase="")
        )


def write_plan(layout: RunLayout, plan: LaunchPlan, root: Path | None = None) -> LaunchPlan:
    """Write how a run is to be started, signed; a new run is then complete once it has a status.

    Args:
        layout: The run.
        plan: Whoever has checked a config gives its digest; without one, the config is signed as it is now.
        root: Folder with the signing key, above the run; None = the folder of all runs.

    Returns:
        The plan as it was written.

    Raises:
        DataError: If plans cannot be signed.
        InputError: If the run does not lie below the root.
        OSError: If the disk is full.
    """
    if not plan.config_sha256:
        plan = plan.model_copy(update={"config_sha256": hash_config(read_config_file(layout))})
    root = root or layout.folder.parent
    payload = plan.model_dump(mode="json")
    write_json(layout.launch, {**payload, "signature": sign_plan(root, _relative_name(layout, root), payload)})
    return plan


def read_unverified_plan(layout: RunLayout) -> LaunchPlan | None:
    """How a run is said to be started, whoever said it: tells which devices it wants, and is never to be started.

    None for a run from a terminal.
    """
    signed = _read_signed_plan(layout)
    return signed[0] if signed else None


def load_verified_plan(layout: RunLayout, root: Path | None = None) -> LaunchPlan | None:
    """How a run is to be started, or was; None for a run from a terminal, or when the plan was not made here.

    Args:
        layout: The run.
        root: As for ``write_plan``.

    Raises:
        InputError: If the run does not lie below the root.
        OSError: If it cannot be said now whether it was made here, because the key cannot be read.
    """
    signed = _read_signed_plan(layout)
    if signed is None:
        return None
    plan, signature = signed
    root = root or layout.folder.parent
    return plan if is_signed(root, _relative_name(layout, root), plan.model_dump(mode="json"), signature) else None


def _relative_name(layout: RunLayout, root: Path) -> str:
    """Path of the run below the root, with every link resolved: a linked folder belongs to where it leads."""
    try:
        return layout.folder.resolve().relative_to(root.resolve()).as_posix()
    except ValueError as error:
        raise InputError(
            f"Run {layout.run_id} is linked to a folder outside of {root}. Copy its folder there instead."
        ) from error


def _is_unchanged(layout: RunLayout, plan: LaunchPlan) -> bool:
    """Whether the config of a run is the one that its plan was made for."""
    try:
        return hash_config(read_config_file(layout)) == plan.config_sha256
    except OSError:
        return False


def _read_signed_plan(layout: RunLayout) -> tuple[LaunchPlan, object] | None:
    """The plan and its signature as they stand in the run's folder."""
    try:
        payload = json.loads(read_regular_file(layout.launch))
        signature = payload.pop("signature", None)
        return LaunchPlan.model_validate(payload), signature
    except (OSError, ValueError, RecursionError, AttributeError):
        return None


class RunQueue:
    """Starts what waits, in a thread of this process.

    Attributes:
        runs_root: Folder of all runs.
    """

    def __init__(self, runs_root: Path) -> None:
        """Start nothing yet."""
        self.runs_root = runs_root
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begin to look, every half second."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._poll, name="run-queue", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop looking. Jobs continue, and what waits stays in the queue."""
        self._is_over.set()

    def start_next(self) -> list[str]:
        """Start every waiting run whose device is free, the oldest first; returns their ids.

        One that cannot be started has failed, and says why; one that was stopped meanwhile stays so.
        """
        if not self.runs_root.is_dir():
            return []
        started = []
        with suppress(InputError), hold_lock(self.runs_root / _LOCK):
            runs = list_runs(self.runs_root)
            for run in runs:
                if run.state == "stopping":  # asked for before this server was started, perhaps
                    resume_stop(run.layout)
            busy = [_plan_of(run) for run in runs if is_running(run)]
            for run in reversed(runs):
                try:
                    plan = load_verified_plan(run.layout) if is_waiting(run) else None
                except (OSError, InputError):  # the key is another user's, or cannot be read now: whoever can starts it
                    continue
                if plan is None:
                    if is_waiting(run) and run.layout.launch.exists():
                        _fail(run.layout, _FOREIGN)
                    continue
                if not _is_unchanged(run.layout, plan):
                    _fail(run.layout, _CHANGED)
                    continue
                if not any(plan.shares_device(other) for other in busy):
                    if shutil.which(plan.argv[0]) is None:
                        _fail(run.layout, f"expected a program to start at {plan.argv[0]}, found none; resume the run")
                        continue
                    try:
                        start_run(run.layout, plan.argv, plan.job_variables(run.layout), is_queued=True)
                    except (HartError, OSError):  # OSError: its folder was deleted a moment ago
                        continue
                    started.append(run.layout.run_id)
                busy.append(plan)
        return started

    def position_of(self, layout: RunLayout) -> int | None:
        """How many runs are on its device or come before it; None when it does not wait."""
        plan = read_unverified_plan(layout)
        if plan is None or not is_waiting(summarize_run(layout)):
            return None
        runs = list_runs(self.runs_root)
        ahead = [run for run in runs if is_running(run) or (is_waiting(run) and run.layout.run_id < layout.run_id)]
        return sum(plan.shares_device(_plan_of(run)) for run in ahead)

    def _poll(self) -> None:
        while not self._is_over.wait(PERIOD_SECONDS):
            with suppress(OSError):
                self.start_next()


def _fail(layout: RunLayout, cause: str) -> None:
    """Say of a run that waits why it never begins: there is no process that could."""
    with suppress(HartError, OSError), hold_lock(layout.lock):
        if is_waiting(summarize_run(layout)):
            record_end(layout, EventLog(layout.events), read_status(layout), "failed", None, cause)


def _plan_of(run: RunSummary) -> LaunchPlan:
    """A run from a terminal counts as one on the CPU: what it has on a GPU shows in the check of its memory."""
    return read_unverified_plan(run.layout) or LaunchPlan(argv=("terminal",))


def is_running(run: RunSummary) -> bool:
    """Whether a process works on the run now."""
    return run.state in {"running", "stopping"} or (
        run.state == "queued" and run.status is not None and run.status.pid is not None
    )


def is_waiting(run: RunSummary) -> bool:
    """Whether the run was made, and no one has begun it."""
    return run.state == "queued" and run.status is not None and run.status.pid is None and not run.layout.stop.exists()
