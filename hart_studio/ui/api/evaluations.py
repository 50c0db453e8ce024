"""What the Evaluate page may ask for of evaluations: the list of them, starting, stopping, resuming and deleting them.

Every function takes what a browser sent, so nothing in it is trusted: ids are looked up, and have to be those of
evaluations. Evaluations wait in the same queue as training, so that both never take the same device.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import PureWindowsPath
from typing import Any, Final

from pydantic import Field, ValidationError, field_validator

from hart_studio.data.benchmarks.catalog import BENCHMARKS
from hart_studio.data.benchmarks.published_files import is_hub_id
from hart_studio.errors import HartError, InputError
from hart_studio.evaluation.config import MAX_QUESTIONS, EvaluationConfig, read_config
from hart_studio.evaluation.job import prepare_run
from hart_studio.evaluation.results import is_evaluation, is_unreadable, list_evaluations
from hart_studio.models.catalog import BUILT_IN_HART
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Protocol, Record
from hart_studio.runs.events import RunEvent, Started, StepDone, Warned
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.queue import LaunchPlan, enqueue_launch, read_unverified_plan, write_plan
from hart_studio.runs.reader import RunSummary, list_runs, read_events, summarize_run
from hart_studio.ui.api.labels import read_request
from hart_studio.ui.api.launch import DOUBLE_CLICK_SECONDS, RunLauncher
from hart_studio.ui.api.run_json import format_run_time, status_to_dict
from hart_studio.ui.api.runs import RunMonitor
from hart_studio.ui.error_reporting import describe
from hart_studio.ui.security.config_check import check_config, check_resumable, hash_new_config

MODULE: Final = "hart_studio.evaluation"
"""What ``python -m`` starts to evaluate."""

SHOWN_WARNINGS: Final = 20
"""Newest warnings that the list shows; the log has all of them."""

TAIL_BYTES: Final = 64 * 1024
"""How much of the end of the events is read: the last hundred steps or so."""

_MAX_SECONDS: Final = 1e9
"""Thirty years; a number that is much longer cannot be sent."""

_EMPTY_SUMMARY: Final[dict[str, Any]] = {"figures": {}, "pace": None, "warnings": []}


class EvaluationRequest(Record):
    """What a person wants measured. A served model is no choice here: it would let a page make the server call out."""

    benchmark: str = Field(max_length=80)
    """Name of the benchmark."""
    path: str = Field(default="", max_length=1000)
    """File, folder or hub id; empty = as ``EvaluationConfig.path``."""
    model: str = Field(default=BUILT_IN_HART, min_length=1, max_length=300)
    """A folder, a hub id, or a name of the catalogue."""
    title: str = Field(default="", max_length=200)
    """What tables call it."""
    protocols: tuple[Protocol, ...] = Field(default=("crops_only",), min_length=1)
    """How the answer turn sees the image."""
    limit: int | None = Field(default=None, ge=1, le=MAX_QUESTIONS)
    """Max questions."""
    fallback: bool = False
    """Whether a question without a usable box is answered from the full image."""
    gpu: int | None = Field(default=None, ge=0, le=1024)
    """The processor by the driver's number; None = the CPU."""

    @field_validator("path", "model", "title")
    @classmethod
    def _strip(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("expected text without NUL")
        return value.strip()

    @property
    def config(self) -> EvaluationConfig:
        """The settings of the run."""
        return EvaluationConfig(
            benchmark=self.benchmark,
            path=self.path,
            model=self.model,
            title=self.title,
            protocols=self.protocols,
            limit=self.limit,
            loop=LoopSettings(temperature=0.0, fallback="direct" if self.fallback else "none"),
            device="cpu" if self.gpu is None else "auto",
        )


class EvaluationApi:
    """Answers the list and the form of the Evaluate page.

    Attributes:
        launch: Places runs; says whether visitors may make anything here.
        watch: Deletes runs.
    """

    def __init__(self, launch: RunLauncher, watch: RunMonitor) -> None:
        """Read nothing yet.

        Args:
            launch: Its queue starts evaluations too.
            watch: Of the same runs.
        """
        self.launch = launch
        self.watch = watch
        self._lock = threading.Lock()
        self._last: tuple[EvaluationRequest, float, str] | None = None
        self._summaries: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}
        self._configs: dict[str, EvaluationConfig] = {}
        self._broken: set[str] = set()

    @property
    def is_open(self) -> bool:
        """Whether visitors may start and stop evaluations."""
        return self.launch.is_open

    def find(self, run_id: Any) -> RunLayout:
        """The evaluation of that id, which comes from a browser.

        Raises:
            InputError: If there is none.
        """
        layout = find_run(self.launch.runs_root, str(run_id))
        status = summarize_run(layout).status
        if status is None or status.job != "evaluation":
            raise InputError(f"expected an evaluation, got {layout.run_id}, which is none; choose one from the list")
        return layout

    def evaluations(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """All evaluations with their figures so far, newest first; None when nothing has changed.

        Args:
            request: ``signature`` from the last answer.

        Returns:
            ``signature``, ``evaluations``, and in ``unreadable`` how many could not be read: one that is broken must
            not take the others along.
        """
        runs = list_runs(self.launch.runs_root)
        found = [run for run in runs if is_evaluation(run)]
        unreadable = sum(is_unreadable(run) for run in runs)
        rows = []
        for run in found:
            try:
                rows.append(self._row(run))
            except Exception as error:
                unreadable += 1
                if run.layout.run_id not in self._broken:
                    self._broken.add(run.layout.run_id)
                    describe(error)  # its text goes to the log, once
        for gone in self._summaries.keys() - {run.layout.run_id for run in found}:
            self._summaries.pop(gone, None)
            self._configs.pop(gone, None)
        now = str(hash(str((rows, unreadable))))
        if now == request.get("signature"):
            return None
        return {"signature": now, "evaluations": rows, "unreadable": unreadable}

    def command(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What would be started.

        Args:
            request: An ``EvaluationRequest``.

        Returns:
            ``line``, the command that does the same in a terminal, to copy; ``count``, its questions, None until they
            have been read; ``seconds``, how long they took where the same was evaluated before, None where not.

        Raises:
            InputError: If nothing may be started here, where folders of this machine are no one's business, or the
                settings cannot be used.
        """
        self.launch.ensure_open()
        wanted = _read(request)
        config = wanted.config
        words = [sys.executable, "-m", MODULE, f"--benchmark={config.benchmark}", f"--model={config.model}"]
        words += [f"--protocol={name}" for name in config.protocols]
        words += [f"--path={config.path}"] if config.path else []
        words += [f"--title={config.title}"] if config.title else []
        words += [f"--limit={config.limit}"] if config.limit else []
        words += ["--fallback=direct"] if wanted.fallback else []
        words += [f"--device={config.device}", f"--runs-root={self.launch.runs_root}"]
        count, pace = config.known_count, self._find_pace(config)
        return {
            "line": self.launch.shell_line(LaunchPlan(argv=tuple(words), gpus=_gpus(wanted))),
            "count": count,
            "seconds": round(count * pace) if count and pace else None,
        }

    def start(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Make an evaluation and put it into the queue.

        Args:
            request: An ``EvaluationRequest``.

        Returns:
            The id of its run; that of the last one when the same was asked for a moment ago.

        Raises:
            InputError: If nothing may be started here, or the settings cannot be used.
        """
        self.launch.ensure_open()
        wanted = _read(request)
        check_config(wanted.config, self.launch.allowed)
        with self._lock:
            if self._last and self._last[0] == wanted and time.monotonic() - self._last[1] < DOUBLE_CLICK_SECONDS:
                return {"run": self._last[2]}
            try:
                layout = prepare_run(
                    self.launch.runs_root, wanted.config,
                    lambda new: write_plan(new, self._plan(new, _gpus(wanted), hash_new_config(wanted.config))),
                )  # fmt: skip
            except OSError as error:
                root = self.launch.runs_root
                raise InputError(f"expected a folder of runs at {root}, got {error.strerror}") from error
            self._last = (wanted, time.monotonic(), layout.run_id)
        return {"run": layout.run_id}

    def stop(self, request: Mapping[str, Any]) -> None:
        """Ask an evaluation to end after its batch; what is measured is kept.

        Args:
            request: ``run``, and ``now`` when it is not to be waited for.
        """
        self.launch.ensure_open()
        layout = self.find(request.get("run"))
        self.launch.stop({"run": layout.run_id, "now": request.get("now")})

    def resume(self, request: Mapping[str, Any]) -> None:
        """Put the next attempt of an evaluation that ended early into the queue: it continues with what is left.

        Raises:
            InputError: If there is none, it is complete or still runs, or its config may not be used here
                (``check_resumable``).
        """
        self.launch.ensure_open()
        layout = self.find(request.get("run"))
        origin = self.launch.origin(layout, MODULE)
        sha256 = check_resumable(layout, EvaluationConfig, self.launch.allowed, origin)
        earlier = read_unverified_plan(layout)
        enqueue_launch(layout, self._plan(layout, earlier.gpus if earlier else (), sha256))

    def delete(self, request: Mapping[str, Any]) -> None:
        """Remove an evaluation that has ended, with everything in it."""
        self.launch.ensure_open()
        self.watch.delete({"run": self.find(request.get("run")).run_id})

    def config(self, layout: RunLayout) -> EvaluationConfig:
        """The settings of an evaluation, which never change.

        Raises:
            InputError: If they cannot be read.
        """
        if layout.run_id not in self._configs:
            self._configs[layout.run_id] = read_config(layout)
        return self._configs[layout.run_id]

    def _find_pace(self, config: EvaluationConfig) -> float | None:
        """Seconds per question of the newest evaluation with the same model, questions, protocols and device."""
        wanted = (config.model_name, config.benchmark, config.path, set(config.protocols), config.device)
        for run in list_evaluations(self.launch.runs_root):
            with suppress(HartError):
                found = self.config(run.layout)
                same = (found.model_name, found.benchmark, found.path, set(found.protocols), found.device)
                pace: float | None = self._summary(run.layout)["pace"]
                if same == wanted and found.served is None and pace:
                    return pace
        return None

    def _plan(self, layout: RunLayout, gpus: tuple[int, ...], config_sha256: str) -> LaunchPlan:
        argv = (sys.executable, "-m", MODULE, "--resume", layout.run_id, "--runs-root", str(self.launch.runs_root))
        return LaunchPlan(argv=argv, gpus=gpus, config_sha256=config_sha256)

    def _row(self, run: RunSummary) -> dict[str, Any]:
        status = status_to_dict(run, self.launch.queue_position(run.layout.run_id) if run.state == "queued" else None)
        status.pop("signature")
        status.pop("heartbeat", None)
        glance = self._summary(run.layout)
        # The figures and their number of questions come from the same event; the status is written later, or not.
        answered = max(status["step"], int(glance["figures"].get("questions", 0)))
        pace = glance["pace"]
        left = max(0, status["total"] - answered) if run.state == "running" else 0
        return {
            **self._about(run.layout),
            **status,
            **glance,
            "id": run.layout.run_id,
            "step": answered,
            "eta_seconds": round(min(pace * left, _MAX_SECONDS)) if pace and left else None,
        }

    def _about(self, layout: RunLayout) -> dict[str, Any]:
        about: dict[str, Any] = {"time": format_run_time(layout.run_id)}
        try:
            config = self.config(layout)
        except HartError as error:
            return {**about, "title": layout.run_id, "problem": str(error), "protocols": []}
        benchmark = BENCHMARKS.get(config.benchmark)
        return {
            **about,
            "title": config.shown_title,
            "model": self.display_name(config.model),
            "is_served": config.served is not None,
            "benchmark": benchmark.title if benchmark else config.benchmark,
            "path": self.display_name(config.path),
            "protocols": list(config.protocols),
            "limit": config.limit,
        }

    def display_name(self, place: str) -> str:
        """A model or a benchmark's place; of a local path a public page tells the last part."""
        # os.path.exists, because Path.exists raises where a name is longer than the system allows.
        if self.is_open or (is_hub_id(place) and not os.path.exists(place)):  # noqa: PTH110
            return place
        return PureWindowsPath(place).name  # which knows both separators

    def _summary(self, layout: RunLayout) -> dict[str, Any]:
        """What the newest events say, kept until there are newer ones: a list of any length is quick."""
        try:
            file = layout.events.stat()
        except OSError:
            return _EMPTY_SUMMARY
        stamp = (file.st_size, file.st_mtime_ns)
        known = self._summaries.get(layout.run_id)
        if known is None or known[0] != stamp:
            events = read_events(layout, max(0, file.st_size - TAIL_BYTES)).events
            known = self._summaries[layout.run_id] = (stamp, _summarize_events(events))
        return known[1]


def _summarize_events(events: Sequence[RunEvent]) -> dict[str, Any]:
    """Figures so far, of any attempt; seconds per question and warnings of the last one; all from the newest events."""
    steps: list[RunEvent] = []
    start: RunEvent | None = None
    warnings: list[str] = []
    figures: dict[str, float] = {}
    for event in events:
        if isinstance(event.payload, Started):
            steps, start, warnings = [], event, []
        elif isinstance(event.payload, StepDone):
            steps.append(event)
            figures = {name: value for name, value in event.payload.metrics.items() if value is not None}
        elif isinstance(event.payload, Warned):
            warnings.append(event.payload.message)
    if not steps:
        return {**_EMPTY_SUMMARY, "figures": figures, "warnings": warnings[-SHOWN_WARNINGS:]}
    # The time of the first step has that of loading the model in it: good enough until there is a second one.
    first, last = (start or steps[0]) if len(steps) == 1 else steps[0], steps[-1]
    done = last.step - first.step
    return {
        "figures": figures,
        "pace": (last.at - first.at).total_seconds() / done if done > 0 else None,
        "warnings": warnings[-SHOWN_WARNINGS:],
    }


def _read(request: Mapping[str, Any]) -> EvaluationRequest:
    """What the form sent, whose settings can be used.

    Raises:
        InputError: If they cannot.
    """
    wanted: EvaluationRequest = read_request(EvaluationRequest, request)
    if wanted.benchmark not in BENCHMARKS:
        raise InputError(f"expected one of {', '.join(BENCHMARKS)}, got {wanted.benchmark!r}; choose one from the list")
    try:
        _ = wanted.config
    except ValidationError as error:
        raise InputError(f"expected settings of an evaluation, got: {error.errors()[0]['msg']}; change them") from error
    return wanted


def _gpus(wanted: EvaluationRequest) -> tuple[int, ...]:
    return () if wanted.gpu is None else (wanted.gpu,)
