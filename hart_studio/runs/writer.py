"""The writing end of a run: one process, the one that holds the lock, writes everything that others only read.

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
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Literal, NoReturn, Self

from pydantic import BaseModel

from hart_studio.errors import HartError
from hart_studio.files import write_atomically, write_json
from hart_studio.progress import ProgressReporter
from hart_studio.runs.attempt_settings import record_settings
from hart_studio.runs.checkpoints import begin_checkpoint, complete_checkpoint, prune_checkpoints
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
"""Environment variable by which a job knows that the launcher has already counted its attempt."""

RUN_VARIABLE: Final = "HART_STUDIO_RUN"
"""Environment variable with the id of the run that a page has made for the command it starts."""

KILLED_ON_REQUEST: Final = "ended at once, on request"
"""What a run says of its end when someone did not want to wait until it had saved."""

STATUS_PERIOD_SECONDS: Final = 1.0
"""Steps that are shorter than this do not each rewrite the status."""
_LOCK_TIMEOUT_SECONDS: Final = 5.0
"""The launcher holds the lock for the moment in which it starts the job."""
_MAX_ERROR_LENGTH: Final = 2000


class _Terminated(SystemExit):
    """SIGTERM, as an exception, so that the run can still say how it ended."""


def create_run(
    runs_root: Path,
    job: JobType,
    config: BaseModel,
    method: str,
    total: int,
    prepare: Callable[[RunLayout], object] | None = None,
) -> RunLayout:
    """Make the folder of a new run: ``queued``, with its settings, ready for a launcher or a writer.

    Args:
        runs_root: Folder of all runs, made when missing.
        job: Kind of job.
        config: Its settings, a ``RunConfig`` for training.
        method: The chain of stages, or a word for the job; becomes part of the id.
        total: Steps in all; 0 = not known.
        prepare: Does what else must be there before the run is in any list.

    Raises:
        InputError: If the method cannot be part of an id.
        OSError: If the folder cannot be made. Whatever is raised, also by ``prepare``, nothing is left behind.
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
        write_status(layout, RunStatus(job=job, state="queued", total=total))  # last: now it is in the list
    except BaseException:
        shutil.rmtree(layout.folder, ignore_errors=True)
        raise
    return layout


def record_end(
    layout: RunLayout,
    events: EventLog,
    status: RunStatus,
    state: Literal["completed", "stopped", "failed"],
    exit_code: int | None,
    error: str = "",
) -> RunStatus:
    """Write how an attempt ended: the event first, so that whoever sees the state can read everything."""
    error = redact(error)[:_MAX_ERROR_LENGTH]
    if not layout.events.is_symlink():  # in a run that was copied here; the status still says how it ended
        events.append(Finished(state=state, exit_code=exit_code, error=error), status.step)
    ended = status.replace(state=state, exit_code=exit_code, error=error, phase="")
    write_status(layout, ended)
    return ended


class RunWriter:
    """Writes one attempt of a run, as a context manager; how the block is left decides the final state.

    Left normally: ``completed``, or ``stopped`` when a stop was asked for and steps are left, or when
    ``leave_incomplete`` names
    some. By ``KeyboardInterrupt`` or SIGTERM: ``stopped``. By another exception: ``failed``, with its text. Only rank 0
    of a job has a writer.

    Attributes:
        layout: The run.
        attempt: Number of this attempt, from 1; known inside the block.
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
        """Prepare; nothing is touched before the block is entered.

        Args:
            layout: A run made by ``create_run``.
            total: Steps in all; 0 = not known.
            save_total_limit: As ``ScheduleConfig.save_total_limit``.
            image_mb: As ``ScheduleConfig.rollout_image_mb``.
            progress: Shows in the terminal or the log what is recorded; closed with the block. None = nothing is shown.
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
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the last words are being written
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
        """Whether someone asked the run to stop; the job then saves a checkpoint and leaves the block."""
        if not self._is_stopping and self.layout.stop.exists():
            self.mark_stopping()
        return self._is_stopping

    def mark_stopping(self) -> None:
        """Stop as if someone had asked for it: a signal came from elsewhere, and the record says so in the end."""
        if not self._is_stopping:
            self._is_stopping = True
            self._update(state="stopping")

    def start(self, provenance: Provenance, resumed_from: int | None = None) -> None:
        """Say where the attempt begins, once model and data are there.

        Args:
            provenance: From ``collect_provenance``.
            resumed_from: Step of the checkpoint that was loaded; None = from the beginning.
        """
        write_json(self.layout.provenance, provenance.model_dump(mode="json"))
        self._update(step=resumed_from or 0)
        if self._progress is not None:
            self._progress.begin(resumed_from or 0, self._total)
        self._log(Started(attempt=self.attempt, resumed_from=resumed_from, provenance=provenance))
        for change in record_settings(self.layout, self.attempt):
            self.warn(change)

    def set_total(self, total: int) -> None:
        """Say how many steps there are, for a job that learns it from its data."""
        self._total = total
        self._update(total=total)

    def leave_incomplete(self, reason: str) -> None:
        """Say that work is left which a later attempt may do: the run then ends as ``stopped``, and can be resumed.

        Args:
            reason: What is left; empty = nothing.
        """
        self._incomplete_reason = reason

    def heartbeat(self) -> None:
        """Show that the job gets on, in work without steps."""
        if time.monotonic() - self._written_at >= STATUS_PERIOD_SECONDS:
            self._update()

    def set_phase(self, phase: str) -> None:
        """Say what the job does beside its steps; a new count of the same work is written about once a second.

        Args:
            phase: For people, such as ``loading the model``; behind a comma, how far it is. Empty = its steps again.
        """
        if self._progress is not None:
            self._progress.set_phase(phase)
        if phase.partition(",")[0] != self._status.phase.partition(",")[0]:
            self._update(phase=phase)
        else:
            self._status = self._status.replace(phase=phase)
            self.heartbeat()

    def log_step(self, step: int, stage: str, metrics: Mapping[str, float]) -> None:
        """Record a step that is done.

        Args:
            step: Number of the step, counted from 1 through all stages.
            stage: Stage of the chain; empty for jobs without stages.
            metrics: Name -> number. One that is not finite becomes null, with a warning.
        """
        self._status = self._status.replace(step=step)
        clean, non_finite = clean_metrics(metrics)
        self._log(StepDone(stage=stage, metrics=clean))
        if self._progress is not None:
            self._progress.update(step, clean, stage)
        self._warn_non_finite(non_finite)
        # The period counts from the last step that was written, not from the last write: a phase or a heartbeat that
        # was written a moment ago must not hide a step until the next one is done.
        if time.monotonic() - self._step_written_at >= STATUS_PERIOD_SECONDS:
            self._update()
            self._step_written_at = self._written_at

    def log_evaluation(self, step: int, metrics: Mapping[str, float], samples: int, fingerprint: str) -> None:
        """Record figures on the held-out samples; a number that is not finite becomes null, with a warning.

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
        """Record rollouts with their images, as far as the space for images goes; warns once when it is full."""
        was_full = self._images.is_full
        save_groups(self.layout, step, groups, self._images, is_held_out=is_held_out)
        self._log(RolloutsSaved(groups=len(groups), is_held_out=is_held_out), step)
        if self._images.is_full and not was_full:
            self.warn(
                f"the images of rollouts fill their {self._image_bytes // 1_000_000} MB; records continue without"
            )
        self.heartbeat()

    def warn(self, message: str) -> None:
        """Record something that a person should know."""
        message = redact(message)[:_MAX_ERROR_LENGTH]
        self._log(Warned(message=message))
        if self._progress is not None:
            self._progress.warn(message)

    @contextmanager
    def saving_checkpoint(self, step: int, stage: str, *, is_kept: bool = False) -> Iterator[Path]:
        """The folder to save a checkpoint into. It counts once the block is left without an exception.

        Args:
            step: Steps done.
            stage: Stage of the chain.
            is_kept: Whether it stays when newer ones come, as the end of a stage should.

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
        """The status of this attempt; the one that the launcher counted, or the next."""
        status = read_status(self.layout)
        is_launched = (
            status.state == "queued" and status.pid and os.environ.get(ATTEMPT_VARIABLE) == str(status.attempt)
        )
        if is_launched:  # a stop that was asked for since then stands
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
