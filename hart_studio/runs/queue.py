"""Queue of runs that wait for a device. Launch plans are saved in the run folders, so a restart loses nothing.

A run is ``queued`` with a launch plan until its device is free. Any server process may start it;
a lock ensures that only one does. A queued run reserves its devices: no later run overtakes it on
them, so its queue position is correct.
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
from hart_studio.runs.launcher import resume_stop, start_run
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.processes import SHORT_LOCK_TIMEOUT_SECONDS, hold_lock
from hart_studio.runs.reader import RunSummary, list_runs, summarize_run
from hart_studio.runs.signing import is_signed, sign_plan
from hart_studio.runs.status import check_startable, read_status, write_status
from hart_studio.runs.writer import record_end

PERIOD_SECONDS: Final = 0.5
"""Poll interval of the queue."""

_LOCK: Final = ".queue.lock"
_ORDER: Final = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Makes CUDA number GPUs like the driver; by default it puts the fastest first."""

_FOREIGN: Final = "This queued run was not queued by this server, so it was not started. Click Resume to queue it here."
_CHANGED: Final = (
    "The settings of this run were changed after it was queued, so it was not started. Resume the run to "
    "check and start it with its current settings."
)


class LaunchPlan(Record):
    """Content of ``launch.json``."""

    argv: tuple[str, ...] = Field(min_length=1)
    """Program and arguments."""
    gpus: tuple[int, ...] = ()
    """Assigned GPUs, by driver number; empty = the CPU."""
    config_sha256: str = ""
    """SHA-256 of the checked ``config.json``; the job refuses any other. Empty before the plan is written."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the job. Without an assigned GPU it must see none, or it would use the first."""
        return {VISIBLE_VARIABLE: ",".join(map(str, self.gpus)), **(_ORDER if self.gpus else {})}

    def job_variables(self, layout: RunLayout) -> dict[str, str]:
        """Environment variables with which the server starts the job."""
        return {**self.environment, **config_variables(layout.run_id, self.config_sha256)}

    def shares_device(self, other: LaunchPlan) -> bool:
        """Whether two jobs use the same device."""
        return bool(set(self.gpus) & set(other.gpus)) or not (self.gpus or other.gpus)


def enqueue_launch(layout: RunLayout, plan: LaunchPlan) -> None:
    """Queue the next attempt of a run: the first one, or one that resumes it.

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
    """Sign and write a launch plan; a new run is complete once it has a status.

    Args:
        layout: The run.
        plan: With the digest of a checked config; without a digest, the current config is signed.
        root: Folder with the signing key, above the run; None = the folder of all runs.

    Returns:
        The written plan.

    Raises:
        DataError: If plans cannot be signed.
        InputError: If the run is not below the root.
        OSError: If the disk is full.
    """
    if not plan.config_sha256:
        plan = plan.model_copy(update={"config_sha256": hash_config(read_config_file(layout))})
    root = root or layout.folder.parent
    payload = plan.model_dump(mode="json")
    write_json(layout.launch, {**payload, "signature": sign_plan(root, _relative_name(layout, root), payload)})
    return plan


def read_unverified_plan(layout: RunLayout) -> LaunchPlan | None:
    """Read a launch plan without verifying it: only to show its devices, never to start it.

    None for a run started from a terminal.
    """
    signed = _read_signed_plan(layout)
    return signed[0] if signed else None


def load_verified_plan(layout: RunLayout, root: Path | None = None) -> LaunchPlan | None:
    """Load a launch plan; None for a run started from a terminal, or if the signature is invalid.

    Args:
        layout: The run.
        root: See ``write_plan``.

    Raises:
        InputError: If the run is not below the root.
        OSError: If the signing key cannot be read.
    """
    signed = _read_signed_plan(layout)
    if signed is None:
        return None
    plan, signature = signed
    root = root or layout.folder.parent
    return plan if is_signed(root, _relative_name(layout, root), plan.model_dump(mode="json"), signature) else None


def _relative_name(layout: RunLayout, root: Path) -> str:
    """Path of the run below the root, with all links resolved."""
    try:
        return layout.folder.resolve().relative_to(root.resolve()).as_posix()
    except ValueError as error:
        raise InputError(
            f"Run {layout.run_id} is linked to a folder outside of {root}. Copy the run folder into {root}."
        ) from error


def _is_unchanged(layout: RunLayout, plan: LaunchPlan) -> bool:
    """Whether the config of a run matches its plan."""
    try:
        return hash_config(read_config_file(layout)) == plan.config_sha256
    except OSError:
        return False


def _read_signed_plan(layout: RunLayout) -> tuple[LaunchPlan, object] | None:
    """Read the plan and its signature from the folder of the run."""
    try:
        payload = json.loads(read_regular_file(layout.launch))
        signature = payload.pop("signature", None)
        return LaunchPlan.model_validate(payload), signature
    except (OSError, ValueError, RecursionError, AttributeError):
        return None


class RunQueue:
    """Starts queued runs, in a thread of this process.

    Attributes:
        runs_root: Folder of all runs.
    """

    def __init__(self, runs_root: Path) -> None:
        """Create the queue without starting the thread."""
        self.runs_root = runs_root
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start polling, every half second."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._poll, name="run-queue", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop polling. Jobs continue, and queued runs stay queued."""
        self._is_over.set()

    def start_next(self) -> list[str]:
        """Start every queued run whose device is free, the oldest first; return their ids.

        A run that cannot be started fails with a reason; a run that was stopped meanwhile stays stopped.
        """
        if not self.runs_root.is_dir():
            return []
        started = []
        with suppress(InputError), hold_lock(self.runs_root / _LOCK):
            runs = list_runs(self.runs_root)
            for run in runs:
                if run.state == "stopping":  # perhaps requested before this server was started
                    resume_stop(run.layout)
            busy = [_plan_of(run) for run in runs if is_running(run)]
            for run in reversed(runs):
                try:
                    plan = load_verified_plan(run.layout) if is_waiting(run) else None
                except (
                    OSError,
                    InputError,
                ):  # the key belongs to another user or cannot be read: another server starts the run
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
                        _fail(run.layout, f"The program {plan.argv[0]} does not exist. Resume the run.")
                        continue
                    try:
                        start_run(run.layout, plan.argv, plan.job_variables(run.layout), is_queued=True)
                    except (HartError, OSError):  # OSError: its folder was deleted meanwhile
                        continue
                    started.append(run.layout.run_id)
                busy.append(plan)
        return started

    def position_of(self, layout: RunLayout) -> int | None:
        """Number of runs on its device or before it in the queue; None if it is not queued."""
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
    """Record why a queued run cannot start; it has no process that could."""
    with suppress(HartError, OSError), hold_lock(layout.lock):
        if is_waiting(summarize_run(layout)):
            record_end(layout, EventLog(layout.events), read_status(layout), "failed", None, cause)


def _plan_of(run: RunSummary) -> LaunchPlan:
    """A run from a terminal counts as a CPU run: its GPU use is visible in the memory check."""
    return read_unverified_plan(run.layout) or LaunchPlan(argv=("terminal",))


def is_running(run: RunSummary) -> bool:
    """Whether a process executes the run now."""
    return run.state in {"running", "stopping"} or (
        run.state == "queued" and run.status is not None and run.status.pid is not None
    )


def is_waiting(run: RunSummary) -> bool:
    """Whether the run is created but not started."""
    return run.state == "queued" and run.status is not None and run.status.pid is None and not run.layout.stop.exists()
