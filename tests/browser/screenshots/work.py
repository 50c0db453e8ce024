"""What the images show: runs, labels and evaluations that the project's own commands make."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

PROJECT_ROOT: Final = Path(__file__).resolve().parents[3]

TRAINING: Final = {
    "schedule.rl_steps": 30,
    "schedule.rollout_log_steps": 2,
    "schedule.rollout_log_questions": 4,
    "schedule.eval_steps": 10,
    "data.needle_samples": 300,
    "data.rl_samples": 240,
    "data.eval_samples": 40,
}
"""A run that is short, and long enough for the curves to rise."""

QUESTIONS: Final = 60
"""Of each evaluation."""

ITEMS: Final = 40
"""Of the labeling project."""

PROJECT: Final = "needles"
"""The labeling project."""

_START_SECONDS: Final = 300
"""How long the app may take to answer, on a machine that is busy with something else."""

_STOP_SECONDS: Final = 60
"""How long the app may take to end."""

_QUIET: Final = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(PROJECT_ROOT),
}


@dataclass(frozen=True)
class Work:
    """A folder with everything that the page shows."""

    folder: Path
    """The folder; what is in it already is not made again."""

    @property
    def runs(self) -> Path:
        """Folder of runs."""
        return self.folder / "runs"

    @property
    def labels(self) -> Path:
        """Folder of labeling projects."""
        return self.folder / "labels"

    def commands(self) -> list[tuple[str, list[str]]]:
        """(what is made, arguments of ``python -m``), in order."""
        runs = ["--runs-root", str(self.runs)]
        settings = [f"--set={name}={value}" for name, value in TRAINING.items()]
        train = ["hart_studio.training", *runs, *settings]
        needles, project = self.folder / "needle-val", str(self.labels / PROJECT)
        draw = ["hart_studio.needle", "--split", "val", "--count", str(ITEMS), "--out", str(needles)]
        evaluate = [
            "hart_studio.evaluation",
            *runs,
            "--limit",
            str(QUESTIONS),
            "--protocol",
            "all",
            "--max-new-tokens",
            "96",
        ]
        return [
            ("AP-GRPO", [*train, "--set=name=AP-GRPO on needles"]),
            ("GRPO", [*train, "--set=name=GRPO on needles", "--set=method.stages=grpo"]),
            ("images", draw),
            ("project", ["hart_studio.labeling", "create", project, "--name", "Needles"]),
            ("items", ["hart_studio.labeling", "import", project, str(needles / "samples.jsonl")]),
            ("labels", ["hart_studio.labeling", "run", project]),
            ("evaluation of the base model", [*evaluate, "--model", "built-in"]),
            ("evaluation of the trained model", [*evaluate, "--model", "built-in-hart"]),
        ]

    def prepare(self) -> Iterator[str]:
        """Make what is missing; names each part when it begins.

        Raises:
            CalledProcessError: If a command fails.
        """
        marks = self.folder / "made"
        marks.mkdir(parents=True, exist_ok=True)
        for number, (name, arguments) in enumerate(self.commands()):
            mark = marks / str(number)
            if not mark.exists():
                yield name
                subprocess.run([sys.executable, "-m", *arguments], cwd=self.folder, env=self._environment(), check=True)
                mark.touch()

    @contextmanager
    def serve(self, port: int) -> Iterator[str]:
        """The app with these runs and labels, as ``python app.py`` starts it; its address, once it answers.

        Raises:
            RuntimeError: If it ends, or does not answer.
        """
        flags = ["--port", str(port), "--runs-root", str(self.runs), "--labels-root", str(self.labels)]
        app = [sys.executable, str(PROJECT_ROOT / "app.py"), *flags]
        process = subprocess.Popen(app, cwd=self.folder, env=self._environment())
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_up(url, process)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **_QUIET}


def _wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            httpx.get(url, timeout=10)
        except httpx.TransportError:
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"expected the app to answer at {url} within {_START_SECONDS} s, it did not; see what it wrote")
