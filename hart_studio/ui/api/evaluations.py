"""JSON API of the Evaluate tab: list, start, stop, resume and delete evaluations.

Requests are untrusted: run ids are checked against existing evaluations. Evaluations share the queue of training runs,
so that both do not use the same device.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PureWindowsPath
from typing import Any, Final, Self

from pydantic import Field, field_validator, model_validator

from hart_studio.data.benchmarks.catalog import BENCHMARKS
from hart_studio.data.benchmarks.published_files import is_hub_id
from hart_studio.errors import HartError, InputError
from hart_studio.evaluation.config import MAX_QUESTIONS, EvaluationConfig, read_config
from hart_studio.evaluation.job import prepare_run
from hart_studio.evaluation.results import is_evaluation, is_unreadable, list_evaluations
from hart_studio.models.catalog import BUILT_IN_HART
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Protocol
from hart_studio.runs.events import RunEvent, Started, StepDone, Warned
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.queue import LaunchPlan, enqueue_launch, read_unverified_plan, write_plan
from hart_studio.runs.reader import RunSummary, list_runs, read_events, summarize_run
from hart_studio.ui.api.changes import StampedCache, delta, file_stamp
from hart_studio.ui.api.handler import PollRequest, Request
from hart_studio.ui.api.launch import RunLauncher, StopRequest
from hart_studio.ui.api.runs import MAX_SUMMARIES, RunIdRequest, RunMonitor, format_run_time, status_to_dict
from hart_studio.ui.error_reporting import describe
from hart_studio.ui.security.config_check import check_config, check_resumable, hash_new_config

MODULE: Final = "hart_studio.evaluation"
"""Module that ``python -m`` runs for evaluation."""

SHOWN_WARNINGS: Final = 20
"""Number of newest warnings in the list; the log has all."""

TAIL_BYTES: Final = 64 * 1024
"""Bytes read from the end of the events, about a hundred steps."""

_MAX_SECONDS: Final = 1e9
"""About thirty years; bounds the estimate so that it can be sent as JSON."""

_EMPTY_SUMMARY: Final[dict[str, Any]] = {"figures": {}, "pace": None, "warnings": []}


class EvaluationRequest(Request, extra="forbid"):
    """Request for an evaluation. Served models cannot be chosen: the page would make the server contact any URL."""

    benchmark: str = Field(max_length=80)
    """Name of the benchmark."""
    path: str = Field(default="", max_length=1000)
    """File, folder or hub id; empty = as ``EvaluationConfig.path``."""
    model: str = Field(default=BUILT_IN_HART, min_length=1, max_length=300)
    """A folder, a hub id, or a name in the catalog."""
    title: str = Field(default="", max_length=200)
    """Display name in tables."""
    protocols: tuple[Protocol, ...] = Field(default=("crops_only",), min_length=1)
    """Protocols to evaluate."""
    limit: int | None = Field(default=None, ge=1, le=MAX_QUESTIONS)
    """Max questions."""
    fallback: bool = False
    """Whether to answer from the full image if no valid box is predicted."""
    allow_dropped: bool = False
    """Whether to evaluate although more than 1 % of the rows are invalid."""
    gpu: int | None = Field(default=None, ge=0, le=1024)
    """GPU index of the driver; None = CPU."""

    @field_validator("path", "model", "title")
    @classmethod
    def _strip(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("expected text without NUL")
        return value.strip()

    @field_validator("benchmark")
    @classmethod
    def _check_benchmark(cls, value: str) -> str:
        if value not in BENCHMARKS:
            raise ValueError(f"expected one of {', '.join(BENCHMARKS)}, got {value!r}; choose one from the list")
        return value

    @model_validator(mode="after")
    def _check_config(self) -> Self:
        _ = self.config
        return self

    @property
    def config(self) -> EvaluationConfig:
        """Settings of the evaluation."""
        return EvaluationConfig(
            benchmark=self.benchmark,
            path=self.path,
            model=self.model,
            title=self.title,
            protocols=self.protocols,
            limit=self.limit,
            allow_dropped=self.allow_dropped,
            loop=LoopSettings(temperature=0.0, fallback="direct" if self.fallback else "none"),
            device="cpu" if self.gpu is None else "auto",
        )

    @property
    def gpus(self) -> tuple[int, ...]:
        """GPU indices of the driver; empty = CPU."""
        return () if self.gpu is None else (self.gpu,)


class EvaluationApi:
    """Lists and starts evaluations.

    Attributes:
        launch: Queues runs, also evaluations; knows whether runs may be started.
        watch: Monitor of the same runs; deletes them.
    """

    def __init__(self, launch: RunLauncher, watch: RunMonitor) -> None:
        self.launch = launch
        self.watch = watch
        self._summaries: StampedCache[dict[str, Any]] = StampedCache(MAX_SUMMARIES)
        self._configs: StampedCache[EvaluationConfig] = StampedCache(MAX_SUMMARIES)
        self._broken: set[str] = set()

    @property
    def is_open(self) -> bool:
        """Whether evaluations may be started and stopped."""
        return self.launch.is_open

    def find(self, run_id: str) -> RunLayout:
        """Find an evaluation by its untrusted id.

        Raises:
            InputError: If there is none.
        """
        layout = find_run(self.launch.runs_root, run_id)
        status = summarize_run(layout).status
        if status is None or status.job != "evaluation":
            raise InputError(f"Run {layout.run_id} is not an evaluation. Choose one from the list.")
        return layout

    def evaluations(self, request: PollRequest) -> dict[str, Any] | None:
        """All evaluations with their current metrics, newest first; None if nothing has changed.

        Returns:
            ``signature``, ``evaluations``, and ``unreadable``, the number of evaluations that could not be read.
        """
        runs = list_runs(self.launch.runs_root)
        unreadable = sum(is_unreadable(run) for run in runs)
        rows = []
        for run in filter(is_evaluation, runs):
            try:
                rows.append(self._row(run))
            except Exception as error:
                unreadable += 1
                if run.layout.run_id not in self._broken:
                    self._broken.add(run.layout.run_id)
                    describe(error)  # logs it, once per run
        return delta({"evaluations": rows, "unreadable": unreadable}, request.signature)

    def command(self, request: EvaluationRequest) -> dict[str, Any]:
        """Preview of an evaluation before it is started.

        Returns:
            ``line``, the equivalent terminal command; ``count``, the number of questions, None if not known before the
            start; ``seconds``, an estimate from the last similar evaluation, None without one.

        Raises:
            InputError: If evaluations may not be started here, or the settings are invalid.
        """
        self.launch.ensure_open()
        config = request.config
        words = [sys.executable, "-m", MODULE, f"--benchmark={config.benchmark}", f"--model={config.model}"]
        words += [f"--protocol={name}" for name in config.protocols]
        words += [f"--path={config.path}"] if config.path else []
        words += [f"--title={config.title}"] if config.title else []
        words += [f"--limit={config.limit}"] if config.limit else []
        words += ["--allow-dropped"] if config.allow_dropped else []
        words += ["--fallback=direct"] if request.fallback else []
        words += [f"--device={config.device}", f"--runs-root={self.launch.runs_root}"]
        count, pace = config.known_count, self._find_pace(config)
        return {
            "line": self.launch.shell_line(LaunchPlan(argv=tuple(words), gpus=request.gpus)),
            "count": count,
            "seconds": round(count * pace) if count and pace else None,
        }

    def start(self, request: EvaluationRequest) -> dict[str, str]:
        """Create an evaluation and queue it.

        Returns:
            The run id; that of the last run if the same request was sent a moment ago.

        Raises:
            InputError: If evaluations may not be started here, or the settings are invalid.
        """
        self.launch.ensure_open()
        check_config(request.config, self.launch.allowed)
        run = self.launch.create_once(
            request,
            lambda: prepare_run(
                self.launch.runs_root, request.config,
                lambda new: write_plan(new, self._plan(new, request.gpus, hash_new_config(request.config))),
            ),
        )  # fmt: skip
        return {"run": run}

    def stop(self, request: StopRequest) -> None:
        """Request an evaluation to stop after its batch; results are kept."""
        self.launch.ensure_open()
        self.find(request.run)
        self.launch.stop(request)

    def resume(self, request: RunIdRequest) -> None:
        """Queue the next attempt of an evaluation that ended early; it continues with the remaining questions.

        Raises:
            InputError: If there is none, it is complete or still runs, or its config may not be used here
                (``check_resumable``).
        """
        self.launch.ensure_open()
        layout = self.find(request.run)
        origin = self.launch.origin(layout, MODULE)
        sha256 = check_resumable(layout, EvaluationConfig, self.launch.allowed, origin)
        earlier = read_unverified_plan(layout)
        enqueue_launch(layout, self._plan(layout, earlier.gpus if earlier else (), sha256))

    def delete(self, request: RunIdRequest) -> None:
        """Delete an ended evaluation with all its files."""
        self.launch.ensure_open()
        self.find(request.run)
        self.watch.delete(request)

    def config(self, layout: RunLayout) -> EvaluationConfig:
        """Settings of an evaluation, cached.

        Raises:
            InputError: If they cannot be read.
        """
        return self._configs.get(layout.run_id, lambda: file_stamp(layout.config), lambda: read_config(layout))

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
        status.pop("heartbeat", None)
        summary = self._summary(run.layout)
        # Metrics and their number of questions come from the same event; the status may be older.
        answered = max(status["step"], int(summary["figures"].get("questions", 0)))
        pace = summary["pace"]
        left = max(0, status["total"] - answered) if run.state == "running" else 0
        return {
            **self._about(run.layout),
            **status,
            **summary,
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

    def display_name(self, name: str) -> str:
        """Name of a model or dataset; on a public page only the last part of a local path."""
        # os.path.exists, because Path.exists raises where a name is longer than the system allows.
        if self.is_open or (is_hub_id(name) and not os.path.exists(name)):  # noqa: PTH110
            return name
        return PureWindowsPath(name).name  # handles both separators

    def _summary(self, layout: RunLayout) -> dict[str, Any]:
        """Summary of the newest events, cached until the file changes."""

        def summarize() -> dict[str, Any]:
            size = layout.events.stat().st_size
            return _summarize_events(read_events(layout, max(0, size - TAIL_BYTES)).events)

        try:
            return self._summaries.get(layout.run_id, lambda: file_stamp(layout.events), summarize)
        except OSError:
            return _EMPTY_SUMMARY


def _summarize_events(events: Sequence[RunEvent]) -> dict[str, Any]:
    """Newest metrics of any attempt, and seconds per question and warnings of the last attempt."""
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
    # The first step includes loading the model; its time is used until there is a second step.
    first, last = (start or steps[0]) if len(steps) == 1 else steps[0], steps[-1]
    done = last.step - first.step
    return {
        "figures": figures,
        "pace": (last.at - first.at).total_seconds() / done if done > 0 else None,
        "warnings": warnings[-SHOWN_WARNINGS:],
    }
