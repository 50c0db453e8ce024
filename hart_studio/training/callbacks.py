"""Trainer callback: logs metrics and rollouts, saves checkpoints, runs held-out evaluation, handles stop requests."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Any, Final, Self

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hart_studio.runs.checkpoints import newest_checkpoint
from hart_studio.runs.config import RunConfig
from hart_studio.runs.rollouts import GroupImages
from hart_studio.runs.writer import RunWriter
from hart_studio.training.checkpoints import Stage
from hart_studio.training.hart_trainer import HartTrainer
from hart_studio.training.non_finite import WEIGHTS, NonFiniteError, describe_failure, describe_non_finite
from hart_studio.training.rollouts import TrainingGroup
from hart_studio.training.sft import SftTrainer
from hart_studio.training.step_warnings import StepWarnings

NON_METRICS: Final = ("epoch", "total_flos", "step_time", "num_tokens")
"""Keys that the libraries log in addition to the step metrics."""

FIRST_LOGGED_STEPS: Final = 2
"""Number of first steps of a stage whose rollouts are always recorded, so that the Watch tab shows rollouts from step
1. Project default."""

Measure = Callable[
    [HartTrainer | SftTrainer, Callable[[int], bool], Callable[[list[GroupImages]], None]], dict[str, float] | None
]
"""Evaluates the held-out samples. The second argument is called with the number of evaluated samples and returns
whether to continue; the third records some samples with images as soon as they are evaluated. None = cancelled."""


class StopRequested(Exception):  # noqa: N818 - control flow, not an error
    """Ends a trainer before its first step: a stop was requested while the model was loaded or evaluated."""


class StopSignals:
    """Context manager: the first SIGINT or SIGTERM is a stop request; the second one has its default effect.

    Attributes:
        received: Number of the first signal; None = none.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        """Create the handler.

        Args:
            announce: Called with a message on the first signal.
        """
        self.received: int | None = None
        self._announce = announce
        self._before: dict[int, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
            self._stack.callback(self._restore)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._announce(
            f"{signal.Signals(number).name}: stopping after this step and saving; send it again to end at once"
        )
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class RunCallback(TrainerCallback):
    """Connect a trainer to its run. Used on every process, because stopping and evaluation are synchronized.

    Attributes:
        trainer: Set once the trainer is created.
        was_stopped: Whether a stop request ended the stage, or the evaluation after its last step.
    """

    def __init__(
        self,
        stage: Stage,
        config: RunConfig,
        signals: StopSignals,
        measure: Measure | None,
        evaluation_size: int,
        evaluation_fingerprint: str,
    ) -> None:
        """Create the callback.

        Args:
            stage: The stage of the run.
            config: Settings of the run.
            signals: Stop signals of this process.
            measure: Evaluates the held-out samples; None = there are none.
            evaluation_size: Number of those samples.
            evaluation_fingerprint: Identity of those samples, as in ``runs.events.Evaluated``.
        """
        self.trainer: HartTrainer | SftTrainer | None = None
        self.was_stopped = False
        self._stage = stage
        self._schedule = config.schedule
        self._optim = config.optim
        self._signals = signals
        self._measure = measure
        self._evaluation_size = evaluation_size
        self._evaluation_fingerprint = evaluation_fingerprint
        self._warned_of: str | None = None
        self._step_warnings = StepWarnings(config)
        self._non_finite: tuple[str, ...] = ()
        self._non_finite_since: int | None = None

    @property
    def _writer(self) -> RunWriter | None:
        return self._stage.writer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate the initial model of the run.

        Raises:
            StopRequested: If a stop was requested already: there is nothing to save.
        """
        is_first = self._stage.first_step == 0 and state.global_step == 0
        if (is_first and not self._evaluate_model(0)) or self._sync_stop_request():
            raise StopRequested
        self._set_phase("")

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the time of the last progress."""
        self._send_heartbeat()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Decide whether to save and to stop, and record rollouts if due."""
        is_last = state.global_step >= self._stage.steps
        is_stopping = self._sync_stop_request() and not is_last and self._has_used_rollouts(state.global_step)
        step = self._stage.first_step + state.global_step
        self._non_finite = () if self.trainer is None else self.trainer.check_weights()
        if is_last or is_stopping:
            control.should_save = WEIGHTS not in self._non_finite
        elif _is_due(step, self._schedule.save_steps):
            control.should_save = not self._non_finite  # finite weights may still give a non-finite loss
        if is_stopping:
            self.was_stopped = True
            control.should_training_stop = True
        if self._writer is not None and self.trainer is not None:
            groups = [made for group in self.trainer.last_groups if (made := with_images(group)) is not None]
            if groups and self._is_recorded(state.global_step):
                self._writer.log_rollouts(step, groups)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record the metrics of a step, and evaluate the model if due.

        Raises:
            NonFiniteError: If too many consecutive steps were not finite, or the final weights of the stage are not
                finite.
        """
        if logs is None or "loss" not in logs:  # the libraries' summary at the end
            return
        step = self._stage.first_step + state.global_step
        metrics = {name: float(value) for name, value in logs.items() if name not in NON_METRICS and value is not None}
        if self._writer is not None:
            self._writer.log_step(step, self._stage.name, metrics)
            self._warn_once()
            for message in self._step_warnings.check(step, metrics):
                self._writer.warn(message)
        is_last = state.global_step >= self._stage.steps
        self._check_finite(step, is_last=is_last)
        is_due = _is_due(step, self._schedule.eval_steps) or is_last
        if is_due and not self._evaluate_model(step):
            if self._writer is not None:
                self._writer.warn(f"the stop request cancelled the evaluation at step {step}: its metrics are missing")
            if self._has_used_rollouts(state.global_step):
                self.was_stopped = True
                control.should_save = WEIGHTS not in self._non_finite
                control.should_training_stop = True

    def _check_finite(self, step: int, *, is_last: bool) -> None:
        """Count consecutive non-finite steps, and fail after too many; all processes agree."""
        if not self._non_finite:
            self._non_finite_since = None
            return
        if self._non_finite_since is None:
            self._non_finite_since = step
            if self._writer is not None:
                what = describe_non_finite(self._non_finite)
                self._writer.warn(f"step {step}: {what} not finite; its update is skipped, and no checkpoint is saved")
        limit = self._optim.max_nonfinite_steps
        is_too_many = 0 < limit <= step - self._non_finite_since + 1
        if is_too_many or (is_last and WEIGHTS in self._non_finite):
            name = "sft_learning_rate" if self._stage.name == "sft" else "learning_rate"
            saved = None if self._writer is None else newest_checkpoint(self._writer.layout)
            raise NonFiniteError(
                describe_failure(
                    self._non_finite,
                    step,
                    self._non_finite_since,
                    rate_setting=f"optim.{name}",
                    rate=getattr(self._optim, name),
                    run_id="RUN" if self._writer is None else self._writer.layout.run_id,
                    saved=None if saved is None else saved.manifest.step,
                )
            )

    def _evaluate_model(self, step: int) -> bool:
        """Record the metrics on the held-out samples; False if a stop was requested meanwhile."""
        if self._measure is None or self.trainer is None or not self._schedule.eval_steps:
            return True

        def record(groups: list[GroupImages]) -> None:
            if self._writer is not None:
                self._writer.log_rollouts(step, groups, is_held_out=True)

        metrics = self._measure(self.trainer, self._should_continue, record)
        if metrics is None:
            return False
        if self._writer is not None:
            self._writer.log_evaluation(step, metrics, self._evaluation_size, self._evaluation_fingerprint)
        self._set_phase("")
        return True

    def _should_continue(self, done: int) -> bool:
        """Report the evaluation progress, and check for a stop request."""
        self._set_phase(f"evaluating held-out questions, {done:,} of {self._evaluation_size:,}")
        return not self._sync_stop_request()

    def _has_used_rollouts(self, step_of_stage: int) -> bool:
        """Whether all optimizer steps on a batch of rollouts are done: a resumed run samples new ones."""
        return self._stage.name == "sft" or step_of_stage % self._schedule.num_iterations == 0

    def _is_recorded(self, step_of_stage: int) -> bool:
        """Whether the rollouts of a step are recorded: the first steps of a stage, then every n-th step of the run.

        With several optimizer steps per batch of rollouts, a batch is recorded if any of its steps is due.
        """
        every = self._schedule.rollout_log_steps
        is_first = every > 0 and step_of_stage <= FIRST_LOGGED_STEPS
        step = self._stage.first_step + step_of_stage
        return is_first or any(_is_due(step + later, every) for later in range(self._schedule.num_iterations))

    def _set_phase(self, phase: str) -> None:
        if self._writer is not None:
            self._writer.set_phase(phase)

    def _send_heartbeat(self) -> None:
        if self._writer is not None:
            self._writer.heartbeat()

    def _sync_stop_request(self) -> bool:
        """Whether any process has a stop request; all processes agree."""
        is_asked = self._signals.received is not None
        if self._writer is not None and is_asked:
            self._writer.mark_stopping()
        if self._writer is not None:
            is_asked = self._writer.is_stop_requested
        if self.trainer is None or self.trainer.accelerator.num_processes == 1:
            return is_asked
        accelerator = self.trainer.accelerator
        asked = torch.tensor(int(is_asked), device=accelerator.device)
        is_agreed = int(accelerator.reduce(asked, reduction="sum")) > 0
        if self._writer is not None and is_agreed:  # another process may have received the signal
            self._writer.mark_stopping()
        return is_agreed

    def _warn_once(self) -> None:
        blocker = None if self.trainer is None else self.trainer.prefix_sharing_blocker
        if blocker is not None and blocker != self._warned_of and self._writer is not None:
            self._writer.warn(f"prefix sharing is disabled, which is slower: {blocker}")
            self._warned_of = blocker


def with_images(group: TrainingGroup) -> GroupImages | None:
    """Convert a group to a record with images; None if its image could not be opened."""
    if group.image_wh is None:
        return None
    return GroupImages(
        sample=group.sample,
        group=group.group,
        image_wh=group.image_wh,
        overview=None if group.overview is None else group.overview.pixels,
        crops=[[image.pixels for image in crops] for crops in group.crops],
    )


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
