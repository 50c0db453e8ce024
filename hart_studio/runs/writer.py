"""Write a run: only the process that holds the lock writes; others only read.

::

    with RunWriter(layout, total=config.total_steps) as run:
        run.start(collect_provenance(device), resumed_from)
        for step in ...:
            run.log_step(step, "ap_grpo", metrics)
            if run.is_stop_requested: break
        with run.saving_checkpoint(step, "ap_grpo") as folder: ...
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Literal, NoReturn, Self

from pydantic import BaseModel

from hart_studio.errors import DataError, HartError
from hart_studio.files import write_atomically, write_json
from hart_studio.progress import ProgressReporter
from hart_studio.runs.checkpoints import begin_checkpoint, complete_checkpoint, prune_checkpoints
from hart_studio.runs.config_file import record_settings
from hart_studio.runs.events import (
    CheckpointSaved,
    Evaluated,
    EventLog,
    Finished,
    Payload,
    RolloutsSaved,
    Started,
    StepDone,
    Warned,
    clean_metrics,
)
from hart_studio.runs.layout import RunLayout, make_run_id
from hart_studio.runs.overrides import dump_config
from hart_studio.runs.processes import get_process_start, hold_lock
from hart_studio.runs.provenance import Provenance
from hart_studio.runs.reader import read_all_events
from hart_studio.runs.redaction import redact
from hart_studio.runs.rollouts import GroupImages, ImageStore, save_groups
from hart_studio.runs.status import (
    JobType,
    RunStatus,
    check_startable,
    get_folder_identity,
    read_status,
    recorded_signals,
    write_status,
)

ATTEMPT_VARIABLE: Final = "HART_STUDIO_ATTEMPT"
"""Environment variable that marks that the launcher has already counted its attempt."""

RUN_VARIABLE: Final = "HART_STUDIO_RUN"
"""Environment variable with the id of the run that the server has created for the command it starts."""

KILLED_ON_REQUEST: Final = "ended at once, on request"
"""Recorded cause if a run was ended before it could save."""

STATUS_PERIOD_SECONDS: Final = 1.0
"""Minimum interval between status updates of short steps."""
_LOCK_TIMEOUT_SECONDS: Final = 5.0
"""The launcher holds the lock while it starts the job."""
_MAX_ERROR_CHARS: Final = 2000

_WORK: Final = (StepDone, Evaluated, RolloutsSaved, CheckpointSaved)


class _Terminated(SystemExit):
    """SIGTERM as an exception, so that the run can record its end."""


def create_run(
    runs_root: Path,
    job: JobType,
    config: BaseModel,
    method: str,
    total: int,
    prepare: Callable[[RunLayout], object] | None = None,
) -> RunLayout:
    """Create the folder of a new run: ``queued``, with its settings, ready for a launcher or a writer.

    Args:
        runs_root: Folder of all runs, created if missing.
        job: Kind of job.
        config: Its settings, a ``RunConfig`` for training.
        method: The stages, or a word for the job; becomes part of the id.
        total: Total steps; 0 = unknown.
        prepare: Called before the run appears in any list.

    Raises:
        InputError: If the method cannot be part of an id.
        OSError: If the folder cannot be created. On any error, also of ``prepare``, nothing is left behind.
    """
    layout = RunLayout(runs_root.resolve() / make_run_id(method))
    runs_root.mkdir(parents=True, exist_ok=True)
    layout.folder.mkdir()
    try:
        for folder in (layout.images, layout.checkpoints, layout.logs):
            folder.mkdir(parents=True)
        write_atomically(layout.config, dump_config(config))
        if prepare is not None:
            prepare(layout)
        write_status(layout, RunStatus(job=job, state="queued", total=total))  # last: now the run is listed
    except BaseException:
        shutil.rmtree(layout.folder, ignore_errors=True)
        raise
    return layout


def has_done_work(layout: RunLayout) -> bool:
    """Whether a run has a step, metrics, rollouts or a checkpoint."""
    return any(isinstance(event.payload, _WORK) for event in read_all_events(layout))


@contextmanager
def removing_empty_run(layout: RunLayout, report: Callable[[str], object]) -> Iterator[None]:
    """Remove a run created by the same command if the block fails before the run has done any work.

    Such a failure is, for example, a missing model or file.

    Args:
        layout: A run that no other process manages.
        report: Called with a message if the run is removed.

    Raises:
        HartError: The error raised in the block.
    """
    try:
        yield
    except HartError:
        with suppress(DataError):
            if read_status(layout).state in ("failed", "queued") and not has_done_work(layout):
                shutil.rmtree(layout.folder, ignore_errors=True)
                report(f"Run {layout.run_id} had done no work and was removed")
        raise


def record_end(
    layout: RunLayout,
    events: EventLog,
    status: RunStatus,
    state: Literal["completed", "stopped", "failed"],
    exit_code: int | None,
    error: str = "",
) -> RunStatus:
    """Record the end of an attempt: the event first, so that all events are readable once the state changes."""
    error = redact(error)[:_MAX_ERROR_CHARS]
    if not layout.events.is_symlink():  # in a copied run; the status still records the end
        events.append(Finished(state=state, exit_code=exit_code, error=error), status.step)
    ended = status.replace(state=state, exit_code=exit_code, error=error, phase="")
    write_status(layout, ended)
    return ended


class RunWriter:
    """Context manager that writes one attempt of a run; the exit from the block determines the final state.

    Normal exit: ``completed``, or ``stopped`` if a stop was requested and steps are left, or if ``leave_incomplete``
        was called. ``KeyboardInterrupt`` or SIGTERM: ``stopped``. Other exceptions: ``failed``, with the message. Only
        rank 0 of a job has a writer.

    Attributes:
        layout: The run.
        attempt: Number of this attempt, from 1; available inside the block.
    """

    def __init__(
        self,
        layout: RunLayout,
        total: int,
        *,
        save_total_limit: int = 2,
        image_mb: int = 256,
        progress: ProgressReporter | None = None,
    ) -> None:
        """Create the writer; nothing is written before the block is entered.

        Args:
            layout: A run made by ``create_run``.
            total: Total steps; 0 = unknown.
            save_total_limit: See ``ScheduleConfig.save_total_limit``.
            image_mb: See ``ScheduleConfig.rollout_image_mb``.
            progress: Prints progress to the terminal or the log; closed with the block. None = no output.
        """
        self.layout = layout
        self.attempt = 0
        self._total = total
        self._keep_checkpoints = save_total_limit
        self._image_bytes = image_mb * 1_000_000
        self._progress = progress
        self._stack = ExitStack()
        self._is_stopping = False
        self._incomplete_reason = ""
        self._written_at = 0.0
        self._step_written_at = -math.inf

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(hold_lock(self.layout.lock, _LOCK_TIMEOUT_SECONDS))
            self._status = self._next_attempt_status()
            self._events = EventLog(self.layout.events)
            self._images = ImageStore(self.layout.images, self._image_bytes)
            self.attempt = self._status.attempt
            if threading.current_thread() is threading.main_thread():
                before = signal.signal(signal.SIGTERM, _raise_terminated)
                stack.callback(signal.signal, signal.SIGTERM, before or signal.SIG_DFL)
            self._update(state="running")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stack:
            if self._progress is not None:
                self._progress.close()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is being recorded
            if error is None:
                is_done = not self._is_stopping or (0 < self._status.total <= self._status.step)
                self._end(
                    "completed" if is_done and not self._incomplete_reason else "stopped", 0, self._incomplete_reason
                )
            elif isinstance(error, _Terminated):
                cause = KILLED_ON_REQUEST if signal.SIGTERM in recorded_signals(self.layout) else "ended by SIGTERM"
                self._end("stopped", 128 + signal.SIGTERM, cause)
            elif isinstance(error, KeyboardInterrupt):
                self._end("stopped", 128 + signal.SIGINT, "interrupted from the keyboard")
            else:
                text = str(error) if isinstance(error, HartError) else f"{type(error).__name__}: {error}"
                self._end("failed", 1, text)

    @property
    def is_stop_requested(self) -> bool:
        """Whether a stop was requested; the job then saves a checkpoint and leaves the block."""
        if not self._is_stopping and self.layout.stop.exists():
            self.mark_stopping()
        return self._is_stopping

    def mark_stopping(self) -> None:
        """Stop as if requested: a signal came from elsewhere, and is recorded as the cause."""
        if not self._is_stopping:
            self._is_stopping = True
            self._update(state="stopping")

    def start(self, provenance: Provenance, resumed_from: int | None = None) -> None:
        """Record the start of the attempt, after model and data are loaded.

        Args:
            provenance: From ``collect_provenance``.
            resumed_from: Step of the checkpoint that was loaded; None = from step 0.
        """
        write_json(self.layout.provenance, provenance.model_dump(mode="json"))
        self._update(step=resumed_from or 0)
        if self._progress is not None:
            self._progress.begin(resumed_from or 0, self._total)
        self._log(Started(attempt=self.attempt, resumed_from=resumed_from, provenance=provenance))
        for change in record_settings(self.layout, self.attempt):
            self.warn(change)

    def set_total(self, total: int) -> None:
        """Set the total number of steps, for a job that determines it from its data."""
        self._total = total
        self._update(total=total)

    def leave_incomplete(self, reason: str) -> None:
        """Record that work is left for a later attempt: the run then ends as ``stopped``, and can be resumed.

        Args:
            reason: Remaining work; empty = none.
        """
        self._incomplete_reason = reason

    def heartbeat(self) -> None:
        """Update the time of the last progress, during work without steps."""
        if time.monotonic() - self._written_at >= STATUS_PERIOD_SECONDS:
            self._update()

    def set_phase(self, phase: str) -> None:
        """Set the current activity other than steps; repeated updates are written about once a second.

        Args:
            phase: Such as ``loading the model``; details follow a comma. Empty = back to steps.
        """
        if self._progress is not None:
            self._progress.set_phase(phase)
        if phase.partition(",")[0] != self._status.phase.partition(",")[0]:
            self._update(phase=phase)
        else:
            self._status = self._status.replace(phase=phase)
            self.heartbeat()

    def log_step(self, step: int, stage: str, metrics: Mapping[str, float]) -> None:
        """Record a completed step.

        Args:
            step: Number of the step, counted from 1 across all stages.
            stage: Training stage; empty for jobs without stages.
            metrics: Name -> number. Non-finite values become null, with a warning.
        """
        self._status = self._status.replace(step=step)
        clean, non_finite = clean_metrics(metrics)
        self._log(StepDone(stage=stage, metrics=clean))
        if self._progress is not None:
            self._progress.update(step, clean, stage)
        self._warn_non_finite(non_finite)
        # The interval counts from the last written step, not from the last write: a phase or a heartbeat that
        # was just written must not delay a step until the next one.
        if time.monotonic() - self._step_written_at >= STATUS_PERIOD_SECONDS:
            self._update()
            self._step_written_at = self._written_at

    def log_evaluation(self, step: int, metrics: Mapping[str, float], samples: int, fingerprint: str) -> None:
        """Record metrics on the held-out samples; non-finite values become null, with a warning.

        Args:
            step: Steps done.
            metrics: Name -> number.
            samples: Number of held-out samples.
            fingerprint: Identity of those samples, from ``data.splits.fingerprint``.
        """
        clean, non_finite = clean_metrics(metrics)
        self._log(Evaluated(metrics=clean, samples=samples, fingerprint=fingerprint), step)
        self._warn_non_finite(non_finite)
        self.heartbeat()

    def log_rollouts(self, step: int, groups: Sequence[GroupImages], *, is_held_out: bool = False) -> None:
        """Record rollouts with their images, up to the size limit; warns once when it is reached."""
        was_full = self._images.is_full
        save_groups(self.layout, step, groups, self._images, is_held_out=is_held_out)
        self._log(RolloutsSaved(groups=len(groups), is_held_out=is_held_out), step)
        if self._images.is_full and not was_full:
            self.warn(
                f"rollout images have reached {self._image_bytes // 1_000_000} MB; recording continues without images"
            )
        self.heartbeat()

    def warn(self, message: str) -> None:
        """Record a warning."""
        message = redact(message)[:_MAX_ERROR_CHARS]
        self._log(Warned(message=message))
        if self._progress is not None:
            self._progress.warn(message)

    @contextmanager
    def saving_checkpoint(self, step: int, stage: str, *, is_kept: bool = False) -> Iterator[Path]:
        """Yield the folder of a checkpoint, which is complete when the block exits without an exception.

        Args:
            step: Steps done.
            stage: Training stage.
            is_kept: Whether pruning keeps it, such as the end of a stage.

        Yields:
            An empty folder.
        """
        self._update(step=step)
        self.set_phase("saving a checkpoint")
        yield begin_checkpoint(self.layout, step)
        complete_checkpoint(self.layout, step, stage, is_kept)
        self._log(CheckpointSaved(stage=stage, is_kept=is_kept), step)
        prune_checkpoints(self.layout, self._keep_checkpoints)
        self.set_phase("")

    def _next_attempt_status(self) -> RunStatus:
        """Status of this attempt: the one counted by the launcher, or the next."""
        status = read_status(self.layout)
        is_launched = (
            status.state == "queued" and status.pid and os.environ.get(ATTEMPT_VARIABLE) == str(status.attempt)
        )
        if is_launched:  # a stop request since then remains valid
            return status.replace(total=self._total, phase="")
        status = check_startable(self.layout)
        self.layout.stop.unlink(missing_ok=True)
        return RunStatus(
            job=status.job,
            state="running",
            pid=os.getpid(),
            pid_start=get_process_start(os.getpid()),
            folder_identity=get_folder_identity(self.layout),
            attempt=status.attempt + 1,
            step=status.step,
            total=self._total,
        )

    def _log(self, payload: Payload, step: int | None = None) -> None:
        self._events.append(payload, self._status.step if step is None else step)

    def _warn_non_finite(self, non_finite: Sequence[str]) -> None:
        if non_finite:
            self.warn(f"not a finite number at step {self._status.step}: {', '.join(non_finite)}")

    def _update(self, **changes: object) -> None:
        self._status = self._status.replace(**changes, heartbeat=datetime.now(UTC))
        write_status(self.layout, self._status)
        self._written_at = time.monotonic()

    def _end(self, state: Literal["completed", "stopped", "failed"], exit_code: int, error: str = "") -> None:
        self._update()
        record_end(self.layout, self._events, self._status, state, exit_code, error)


def _raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated(128 + number)
