"""Child processes of a study (draw questions, train, evaluate); each can be stopped and restarted."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hart_studio.data.run_samples import MANIFEST, SCENE_WH
from hart_studio.data.splits import write_manifest
from hart_studio.errors import HartError
from hart_studio.experiments.miniature.study_folder import StudyFolder, publish_folder
from hart_studio.experiments.miniature.variants import StudyVariant, variant_config
from hart_studio.runs.config import RunConfig
from hart_studio.runs.launcher import job_environment, start_run, stop_run
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.processes import get_process_start, signal_group
from hart_studio.runs.reader import read_log
from hart_studio.runs.status import DisplayState, get_state
from hart_studio.runs.writer import create_run
from hart_studio.training.train import MODEL_FOLDER

_POLL_SECONDS: Final = 0.2
_LOST_SECONDS: Final = 5.0
"""Grace period before a run counts as lost: its parent process records the end shortly after."""
_SAVE_SECONDS: Final = 120.0
"""Time limit for an interrupted training run to finish its step and save."""
_END_SECONDS: Final = 10.0
_LAST_LINES: Final = 12
"""Number of log lines that are shown if a process failed."""


class JobError(HartError):
    """A process of the study failed; the message ends with the last lines of its log."""


class StudyInterruptedError(HartError):
    """The study was stopped while the process ran; the process was ended, and its saved state is resumed next time."""


def train_command(layout: RunLayout) -> list[str]:
    """Command that trains a run, or resumes it."""
    root = str(layout.folder.parent)
    return [sys.executable, "-m", "hart_studio.training", "--resume", layout.run_id, "--runs-root", root]


def measure_command(model: str, data: Path, out: Path) -> list[str]:
    """Command that evaluates a model; empty = the built-in one."""
    named = ["--model", model] if model else []
    return [sys.executable, "-m", "hart_studio.evaluation.measurement", *named, "--data", str(data), "--out", str(out)]


def draw_command(split: str, count: int, out: Path, arguments: Sequence[str]) -> list[str]:
    """Command that draws questions."""
    fixed = ["--split", split, "--count", str(count), "--out", str(out)]
    return [sys.executable, "-m", "hart_studio.needle", *fixed, *arguments]


@dataclass(frozen=True)
class Commands:
    """Commands of the processes; replaced in tests.

    Attributes:
        train: Run -> argument list.
        measure: Model, test questions, file of records -> argument list.
        draw: Preset, number, folder, more arguments -> argument list.
    """

    train: Callable[[RunLayout], list[str]] = train_command
    measure: Callable[[str, Path, Path], list[str]] = measure_command
    draw: Callable[[str, int, Path, Sequence[str]], list[str]] = draw_command


class ProcessRunner:
    """Run the processes of variants, one at a time per calling thread."""

    def __init__(self, study: StudyFolder, commands: Commands, threads: int) -> None:
        """Create the runner.

        Args:
            study: The study.
            commands: Commands of the processes.
            threads: Threads of each process.
        """
        self._study = study
        self._commands = commands
        self._environment = {"OMP_NUM_THREADS": str(threads)}
        self._is_stopping = threading.Event()

    def stop(self) -> None:
        """End running processes, and start no more; training runs save first."""
        self._is_stopping.set()

    def generate_samples(self, split: str) -> None:
        """Draw the ``train`` or the ``test`` questions, unless they exist.

        Raises:
            JobError: If drawing failed.
            StudyInterruptedError: If the study was stopped.
        """
        study, config = self._study, self._study.config
        folder = study.train if split == "train" else study.test
        if folder.exists():
            return
        draft = folder.with_name(f".{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        extra: tuple[str, ...] = study.size.test_arguments
        count = study.size.test_questions
        if split == "train":
            count, seed = config.data.needle_samples, str(config.data.needle_seed)
            extra = ("--width", str(SCENE_WH[0]), "--height", str(SCENE_WH[1]), "--seed", seed)
        self._run(self._commands.draw(split, count, draft, extra), study.logs / f"draw_{split}.log")
        publish_folder(draft, folder)

    def train(self, variant: StudyVariant, seed: int, model: str) -> str:
        """Train a variant, or resume it.

        Args:
            variant: The variant.
            seed: The seed.
            model: Initial model; empty = the built-in one.

        Returns:
            Folder of the trained model.

        Raises:
            JobError: If the training run produced no model.
            StudyInterruptedError: If the study was stopped; the training run has saved.
        """
        if self._is_stopping.is_set():
            raise StudyInterruptedError(f"not started: {variant.name}")
        layout = self._study.find_run(variant, seed)
        if layout is None:
            layout = self._make_run(variant, seed, variant_config(variant, self._study.config, seed, model))
        state, status = get_state(layout)
        if state != "completed":
            is_running = status.is_active and status.pid is not None and state != "lost"
            if not is_running:  # otherwise it was started by an earlier study: wait for it
                start_run(layout, self._commands.train(layout), self._environment)
            state = self._wait_for_run(layout)
        if state != "completed":
            _, status = get_state(layout)
            lines = _last_lines(read_log(layout, status.attempt, offset=-8192).text)
            log = layout.log_of(status.attempt)
            reason = status.error or "no reason given"
            raise JobError(f"the training run is {state} at step {status.step}: {reason}\n{log}:\n{lines}")
        return str(layout.folder / MODEL_FOLDER)

    def measure(self, variant: StudyVariant, seed: int, model: str) -> None:
        """Evaluate a model on the test questions.

        Raises:
            JobError: If the evaluation failed.
            StudyInterruptedError: If the study was stopped.
        """
        folder = self._study.variant_folder(variant, seed)
        folder.mkdir(parents=True, exist_ok=True)
        out = self._study.results_path(variant, seed)
        self._run(self._commands.measure(model, self._study.test, out), folder / "evaluate.log")
        if not out.exists():
            raise JobError(f"{out} contains no results; see evaluate.log in the same folder")

    def _make_run(self, variant: StudyVariant, seed: int, config: RunConfig) -> RunLayout:
        manifest = self._study.split(seed)
        layout = create_run(self._study.runs, "training", config, config.method.stages, config.total_steps)
        write_manifest(layout.folder / MANIFEST, manifest)
        self._study.variant_folder(variant, seed).mkdir(parents=True, exist_ok=True)
        self._study.write_run_id(variant, seed, layout)
        return layout

    def _wait_for_run(self, layout: RunLayout) -> DisplayState:
        lost_since: float | None = None
        while True:
            if self._is_stopping.is_set():
                stop_run(layout, _SAVE_SECONDS, _END_SECONDS)
                raise StudyInterruptedError(f"stopped {layout.run_id}")
            state, status = get_state(layout)
            if not status.is_active:
                return state
            now = time.monotonic()
            lost_since = (lost_since or now) if state == "lost" else None
            if lost_since is not None and now - lost_since > _LOST_SECONDS:
                return state
            time.sleep(_POLL_SECONDS)

    def _run(self, argv: Sequence[str], log: Path) -> None:
        """Run a process to its end, in its own session, with output to a file."""
        if self._is_stopping.is_set():
            raise StudyInterruptedError(f"not started: {argv[:3]}")
        with log.open("wb") as file:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=job_environment(self._environment),
                start_new_session=True,
            )
        while process.poll() is None:
            if self._is_stopping.is_set():
                _end(process)
                raise StudyInterruptedError(f"ended: {argv[:3]}")
            time.sleep(_POLL_SECONDS)
        if process.returncode:
            lines = _last_lines(log.read_text(errors="replace"))
            raise JobError(f"ended with exit code {process.returncode}\n{log}:\n{lines}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a child process and its group: SIGTERM, then SIGKILL."""
    start = get_process_start(process.pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if start is None or not signal_group(process.pid, start, number):
            break
        try:
            process.wait(_END_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _last_lines(text: str) -> str:
    return "\n".join(text.replace("\r", "\n").rstrip().splitlines()[-_LAST_LINES:])
