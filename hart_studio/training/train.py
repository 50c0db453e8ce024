"""A training run: samples, split, stages, checkpoints, and the final model."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import PrinterCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from hart_studio.algorithms.methods import Method, parse_stages
from hart_studio.data.run_samples import SampleSource, load_samples, split_run
from hart_studio.data.splits import Split, fingerprint
from hart_studio.errors import InputError, ModelError
from hart_studio.models.generation import is_out_of_memory
from hart_studio.progress import ProgressReporter
from hart_studio.runs.checkpoints import find_resume_checkpoint
from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.provenance import collect_provenance
from hart_studio.runs.rollouts import GroupImages
from hart_studio.runs.writer import RunWriter
from hart_studio.training.callbacks import Measure, RunCallback, StopRequested, StopSignals
from hart_studio.training.checkpoints import Stage, draft_folder, save_final_model
from hart_studio.training.hart_trainer import HartTrainer
from hart_studio.training.held_out_evaluation import evaluate_held_out
from hart_studio.training.initial_model import load_initial_model
from hart_studio.training.parallelism import check_sharding, gather_full_weights
from hart_studio.training.preflight import check_trackers
from hart_studio.training.sft import SftTrainer
from hart_studio.training.trl_args import rl_args, sft_args

MODEL_FOLDER = "model"
"""Folder of the final model in the run."""
TENSORBOARD_FOLDER = "tensorboard"
"""Folder of the run with TensorBoard's logs, one folder per stage, if that tracker is enabled."""
IMAGES_FOLDER = "images"
"""Folder of the run for images that are not files in the source."""

_TENSORBOARD_VARIABLE: Final = "TENSORBOARD_LOGGING_DIR"

SHOWN_METRICS: Final = ("loss", "reward", "kl")
"""Step metrics in the progress output of the command."""


@dataclass(frozen=True)
class TrainingResult:
    """Result of a run.

    Attributes:
        folder: Folder of the run.
        step: Completed steps.
        model: Folder of the trained model; None if steps are left.
    """

    folder: Path
    step: int
    model: Path | None


def run(config: RunConfig, run_dir: Path, resume: bool = False) -> TrainingResult:
    """Train; call it in every process.

    Args:
        config: Settings of the run.
        run_dir: Folder made by ``runs.writer.create_run``.
        resume: Resume from the newest complete checkpoint, or from step 0 if there is none.

    Returns:
        The result. A stop file ends it normally, with steps left.

    Raises:
        HartError: If settings, samples or model are invalid, or memory runs out.
        KeyboardInterrupt: After SIGINT without a stop file, after the step is completed and saved.
        SystemExit: After SIGTERM, in the same way.
    """
    layout = RunLayout(run_dir.resolve())
    state = PartialState(cpu=config.model.device == "cpu")
    device = torch.device("cpu") if state.device.type == "cpu" else state.device  # there is only one CPU device
    found, damaged = find_resume_checkpoint(layout)
    if found is not None and not resume:
        raise InputError(f"The run {layout.run_id} already has checkpoints. Resume it, or start a new run.")
    writer = None
    if state.is_main_process:
        schedule = config.schedule
        writer = RunWriter(
            layout,
            config.total_steps,
            save_total_limit=schedule.save_total_limit,
            image_mb=schedule.rollout_image_mb,
            progress=ProgressReporter("step", config.total_steps, SHOWN_METRICS),
        )
    with writer or nullcontext(), explain_out_of_memory(device):
        check_trackers(config.trackers)
        with StopSignals(_announce if writer is not None else _discard) as signals:
            job = _Job(config, layout, writer, signals, device, state.num_processes, damaged)
            step = job.train(found.manifest.step if found is not None else None)
        if step < config.total_steps:
            if writer is not None and not layout.stop.exists():  # otherwise it was stopped on request
                if signals.received is not None:
                    signal.raise_signal(signals.received)  # everything is saved: now handle the signal
                writer.leave_incomplete("another process of the run received a stop signal")
            return TrainingResult(layout.folder, step, None)
        model = layout.folder / MODEL_FOLDER
        if writer is not None:
            writer.set_phase("writing the model")
            save_final_model(layout.checkpoint_of(step), model)
        state.wait_for_everyone()
        return TrainingResult(layout.folder, step, model)


@contextmanager
def tracker_output(folder: Path) -> Iterator[None]:
    """Set the folder of TensorBoard inside the block; a folder set by the user is kept.

    The default folder is inside the checkpoint drafts, which the next attempt removes.

    Args:
        folder: Created by the tracker.
    """
    if _TENSORBOARD_VARIABLE in os.environ:
        yield
        return
    os.environ[_TENSORBOARD_VARIABLE] = str(folder)
    try:
        yield
    finally:
        del os.environ[_TENSORBOARD_VARIABLE]


@contextmanager
def explain_out_of_memory(device: torch.device) -> Iterator[None]:
    """Convert out-of-memory errors to a ``ModelError`` that names the settings to lower; other errors pass.

    Raises:
        ModelError: If memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError, ModelError) as error:
        if not (is_out_of_memory(error) or (error.__cause__ is not None and is_out_of_memory(error.__cause__))):
            raise
        raise ModelError(
            f"Out of memory on {device} during training. Lower "
            "schedule.rl_micro_batch_size, schedule.sft_micro_batch_size, rollout.group_size, "
            "rollout.overview_max_pixels, rollout.crop_max_pixels or rollout.max_answer_tokens, "
            "set model.lora=on and model.gradient_checkpointing=on, "
            "or use a smaller model. The run can be resumed from its last checkpoint."
        ) from error


class _Job:
    """One attempt of a run on one process."""

    def __init__(
        self,
        config: RunConfig,
        layout: RunLayout,
        writer: RunWriter | None,
        signals: StopSignals,
        device: torch.device,
        processes: int,
        damaged: Sequence[str],
    ) -> None:
        self._config = config
        self._layout = layout
        self._writer = writer
        self._signals = signals
        self._device = device
        self._processes = processes
        self._damaged = damaged

    def train(self, resumed_from: int | None) -> int:
        """Train the remaining steps; return the completed steps."""
        config, writer = self._config, self._writer
        self._set_phase("reading the samples")
        source = load_samples(config.data, self._layout.folder / IMAGES_FOLDER)
        split = split_run(config, source, self._layout.folder, is_writer=writer is not None)
        if writer is not None:
            shutil.rmtree(draft_folder(self._layout), ignore_errors=True)
            writer.start(collect_provenance(self._describe_device(), split.manifest.fingerprint), resumed_from)
            skipped = [
                f"The checkpoint {name} is damaged (files are missing or have another size) and was skipped; the run "
                f"resumes from step {resumed_from}."
                for name in self._damaged
            ]
            for message in (*skipped, *config.warnings, *_describe_invalid_rows(source)):
                writer.warn(message)
        step = resumed_from or 0
        first_step = 0
        for method in parse_stages(config.method.stages):
            steps = config.schedule.rl_steps if method.is_rl else config.schedule.sft_steps
            stage = Stage(method.name, first_step, steps, writer)
            first_step = stage.last_step
            if step >= stage.last_step:
                continue
            step, was_stopped = self._train_stage(method, stage, step, source, split)
            gc.collect()
            if was_stopped:
                break
        return step

    def _train_stage(
        self, method: Method, stage: Stage, step: int, source: SampleSource, split: Split
    ) -> tuple[int, bool]:
        """Train the remaining steps of a stage; return all completed steps, and whether a stop was requested."""
        config = self._config
        self._set_phase("loading the model")
        previous = self._layout.checkpoint_of(stage.first_step) if stage.first_step else None
        # The sharding of the previous stage would split the model while it is loaded.
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
        initial = load_initial_model(config, self._device, previous)
        measure = self._measure(method, source, split) if split.evaluation else None
        held_out = (len(split.evaluation), fingerprint(split.evaluation))
        callback = RunCallback(stage, config, self._signals, measure, *held_out)
        common: dict[str, Any] = {"config": config, "stage": stage, "callbacks": [callback]}
        common["open_image"] = source.open_image
        output = draft_folder(self._layout)
        share: dict[str, Any] = {
            "processes": self._processes,
            "uses_gradient_checkpointing": initial.uses_gradient_checkpointing,
        }
        trainer: HartTrainer | SftTrainer
        with tracker_output(self._layout.folder / TENSORBOARD_FOLDER / stage.name):
            if method.is_rl:
                trainer = HartTrainer(
                    initial.model,
                    initial.processor,
                    rl_args(config, output, self._device, **share),
                    method=method,
                    samples=split.rl,
                    peft_config=initial.new_adapters,
                    **common,
                )
            else:
                trainer = SftTrainer(
                    initial.with_adapters(config.seed),
                    initial.processor,
                    sft_args(config, output, self._device, **share),
                    samples=split.sft,
                    **common,
                )
        check_sharding(trainer, trainer.policy.model)
        trainer.remove_callback(PrinterCallback)
        if isinstance(trainer.model, PeftModel):
            trainer.model.peft_config["default"].base_model_name_or_path = initial.base_name
        callback.trainer = trainer
        checkpoint = str(self._layout.checkpoint_of(step)) if step > stage.first_step else None
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except StopRequested:
            return step, True
        finally:
            callback.trainer = None
        return stage.first_step + int(trainer.state.global_step), callback.was_stopped

    def _measure(self, method: Method, source: SampleSource, split: Split) -> Measure:
        def measure(
            trainer: HartTrainer | SftTrainer,
            should_continue: Callable[[int], bool],
            record: Callable[[list[GroupImages]], None],
        ) -> dict[str, float] | None:
            with gather_full_weights(trainer), trainer.accelerator.autocast():
                return evaluate_held_out(
                    trainer.policy,
                    split.evaluation,
                    method,
                    self._config,
                    source.open_image,
                    trainer.accelerator,
                    self._config.schedule.rollout_log_questions,
                    should_continue,
                    record,
                )

        return measure

    def _set_phase(self, phase: str) -> None:
        if self._writer is not None:
            self._writer.set_phase(phase)

    def _describe_device(self) -> str:
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else ""
        return f"{self._processes} x {self._device.type}{': ' + name if name else ''}"


def _describe_invalid_rows(source: SampleSource) -> list[str]:
    return source.loaded.describe_reasons(5)


def _announce(text: str) -> None:
    sys.stderr.write(f"\n{text}\n")


def _discard(text: str) -> None:
    """Discard the output of processes other than the first."""
