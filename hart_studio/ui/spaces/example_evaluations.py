"""Public evaluations on a Space: built-in models on the examples."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from hart_studio.errors import InputError
from hart_studio.evaluation.config import EvaluationConfig, read_config
from hart_studio.evaluation.job import prepare_run
from hart_studio.evaluation.results import list_evaluations
from hart_studio.files import append_jsonl
from hart_studio.models.catalog import BUILT_IN_FOLDERS
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import PROTOCOLS
from hart_studio.runs.launcher import start_run
from hart_studio.ui.api.evaluations import MODULE, EvaluationApi
from hart_studio.ui.api.handler import Request
from hart_studio.ui.api.launch import RunLauncher, stop_immediately
from hart_studio.ui.api.runs import RunMonitor, format_run_time
from hart_studio.ui.components.example_picker import Example

_TITLE: Final = "{model} on the examples"


class ExampleRequest(Request):
    """Request to evaluate a model on the examples."""

    messages: ClassVar[Mapping[str, str]] = {"model": f"Choose one of {', '.join(BUILT_IN_FOLDERS)}."}

    model: str = ""
    """A name of ``BUILT_IN_FOLDERS``."""


class ExampleEvaluations:
    """Evaluates built-in models on the examples, one at a time and once per model.

    Attributes:
        api: Lists the evaluations.
        count: Number of questions.
    """

    def __init__(self, root: Path, served: Path, examples: Sequence[Example]) -> None:
        """Write the questions to a dataset.

        Args:
            root: Existing private folder of this server.
            served: Served folder.
            examples: The questions.
        """
        self.count = len(examples)
        self._questions = root / "questions"
        self._questions.mkdir()
        for example in examples:
            shutil.copyfile(example.image, self._questions / example.image.name)
            row = {
                "id": example.image.stem,
                "image": example.image.name,
                "question": example.question,
                "choices": list(example.choices),
                "answer": example.answer or None,
                "category": example.title,
            }
            append_jsonl(self._questions / "samples.jsonl", row)
        launch = RunLauncher(root / "runs", is_open=False)
        self.api = EvaluationApi(launch, RunMonitor(launch.runs_root, served / "example_runs"))
        self._lock = threading.Lock()

    def evaluate_examples(self, request: ExampleRequest) -> dict[str, str]:
        """Evaluate a built-in model, or return its finished evaluation.

        Returns:
            ``run``, the id of the evaluation, and ``message``, when it was made.

        Raises:
            InputError: If it is not a built-in model, or another evaluation is running.
        """
        model = request.model
        if model not in BUILT_IN_FOLDERS:
            raise InputError(f"expected one of {', '.join(BUILT_IN_FOLDERS)}, got {model[:40]!r}; choose one")
        with self._lock:
            found = list_evaluations(self.api.launch.runs_root)
            for run in found:
                if run.state in {"queued", "running", "stopping"}:
                    raise InputError("Another evaluation of the examples is running. Wait until it is done.")
                if run.state == "completed" and read_config(run.layout).model == model:
                    return {
                        "run": run.layout.run_id,
                        "message": f"Already evaluated at {format_run_time(run.layout.run_id)}.",
                    }
            config = EvaluationConfig(
                benchmark="needle",
                path=str(self._questions),
                model=model,
                title=_TITLE.format(model=model),
                protocols=PROTOCOLS,
                loop=LoopSettings(temperature=0.0),
                device="cpu",
            )
            root = self.api.launch.runs_root
            layout = prepare_run(root, config)
            start_run(layout, [sys.executable, "-m", MODULE, "--resume", layout.run_id, "--runs-root", str(root)])
        return {"run": layout.run_id, "message": ""}

    def close(self) -> None:
        """Stop running evaluations."""
        for run in list_evaluations(self.api.launch.runs_root):
            stop_immediately(run.layout)
