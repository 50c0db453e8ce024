"""JSON API of the Watch and Runs tabs, read from run directories.

Requests are untrusted: run ids are checked against existing runs, image names against their folder. None means nothing
new.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import Field, TypeAdapter, ValidationError

from hart_studio.errors import InputError
from hart_studio.files import read_regular_file
from hart_studio.runs.config import RunConfig
from hart_studio.runs.devices import describe_device
from hart_studio.runs.history import Cursor, RunHistory
from hart_studio.runs.layout import RunLayout, find_run, read_step
from hart_studio.runs.overrides import load_config
from hart_studio.runs.processes import SHORT_LOCK_TIMEOUT_SECONDS, hold_lock
from hart_studio.runs.provenance import Provenance
from hart_studio.runs.queue import RunQueue, is_running, is_waiting
from hart_studio.runs.reader import RunSummary, list_runs, read_log, summarize_run
from hart_studio.runs.status import RunStatus
from hart_studio.ui.api.changes import StampedCache, delta, file_stamp
from hart_studio.ui.api.handler import PollRequest, Request
from hart_studio.ui.pages.train_form import SHORT_TITLES

MAX_LOG_BYTES: Final = 64 * 1024
"""Maximum bytes of the log per response; the first has as many from its end."""

MAX_DIGESTS: Final = 64
"""Runs whose metrics are kept in memory."""

MAX_SUMMARIES: Final = 10_000
"""Runs whose settings and summaries are kept in memory, some KB each."""

TIMEOUT_SECONDS: Final = 0.4
"""Time limit for reading events per response; the rest is read by the next request."""

SPARK_POINTS: Final = 48
"""Points of the sparkline in the list of runs."""

MAX_COMPARED: Final = 6
"""Runs in one comparison."""

EMPTY_SUMMARY: Final[dict[str, Any]] = {
    "spark": [], "reward": None, "reward_steps": 0, "held_out": None, "first": {}, "last": {}, "warnings": 0,
}  # fmt: skip
"""Summary of a run without events, or not read yet."""


class RunIdRequest(Request):
    """Request about a run."""

    run: str = ""
    """Id of the run."""


class RunPollRequest(RunIdRequest):
    """Poll of a run."""

    run: str = Field(max_length=200)
    cursor: dict[str, Any] | None = None
    """Cursor of the last response; None at first."""
    status: str = Field(default="", max_length=2000)
    """Status signature of the last response."""
    attempt: int = Field(default=0, ge=0)
    """Attempt of the last log."""
    log_offset: int = Field(default=0, ge=0)
    """Offset in the log."""


class CompareRequest(Request):
    """Request to compare runs."""

    messages: ClassVar[Mapping[str, str]] = {"runs": f"Select 1 to {MAX_COMPARED} runs to compare."}

    runs: tuple[str, ...] = Field(min_length=1, max_length=MAX_COMPARED)
    """Ids."""


_CURSOR: Final = TypeAdapter(Cursor)


class RunMonitor:
    """Reads runs for the pages.

    Attributes:
        runs_root: Folder of all runs; may be missing.
        image_folder: Served folder for copies of images.
    """

    def __init__(self, runs_root: Path, image_folder: Path) -> None:
        image_folder.mkdir(parents=True, exist_ok=True)
        self.runs_root = runs_root
        self.image_folder = image_folder
        self._digests: StampedCache[RunHistory] = StampedCache(MAX_DIGESTS)
        self._configs: StampedCache[RunConfig | None] = StampedCache(MAX_SUMMARIES)
        self._summaries: StampedCache[dict[str, Any]] = StampedCache(MAX_SUMMARIES)
        self._queue = RunQueue(runs_root)  # only for queue positions, never opened

    def poll(self, request: RunPollRequest) -> dict[str, Any] | None:
        """Changes of a run since the last poll.

        Returns:
            None if nothing has changed; else those of ``status``, ``delta`` with ``cursor`` (see ``RunHistory.delta``),
            and ``log`` that have changed, and ``about`` for the first poll and each new attempt.

        Raises:
            InputError: If there is no such run.
        """
        layout = find_run(self.runs_root, request.run)
        history = self._digest(layout)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while history.refresh() and time.monotonic() < deadline:
            pass
        answer: dict[str, Any] = {}
        found = history.delta(_read_cursor(request.cursor))
        if found is not None:
            answer["delta"], cursor = found
            answer["cursor"] = asdict(cursor)
            # A new attempt may run on another device.
            if answer["delta"]["is_full"] or any(kind == "started" for kind, *_ in answer["delta"]["markers"]["items"]):
                answer["about"] = self._about(layout)
        summary = summarize_run(layout)
        ahead = self._queue.position_of(layout) if is_waiting(summary) else None
        if status := delta(status_to_dict(summary, ahead), request.status):
            beat = summary.status and summary.status.heartbeat
            # An age, because the clock of the browser may differ.
            age = max(0.0, (datetime.now(UTC) - beat).total_seconds()) if beat else None
            answer["status"] = {**status, "age": age}
        if attempt := summary.status.attempt if summary.status else 0:
            is_first = attempt != request.attempt
            part = read_log(layout, attempt, -MAX_LOG_BYTES if is_first else request.log_offset, MAX_LOG_BYTES)
            if part.text or is_first:
                answer["log"] = {
                    "attempt": attempt,
                    "is_first": is_first,
                    "text": part.text,
                    "offset": part.offset,
                }
        return answer or None

    def list_runs(self, request: PollRequest) -> dict[str, Any] | None:
        """All training runs with their results, newest first; None if nothing has changed.

        Runs with an unreadable status are listed too.
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        found = [run for run in list_runs(self.runs_root) if run.status is None or run.status.job == "training"]
        return delta({"runs": [self._row(summary, deadline) for summary in found]}, request.signature)

    def delete(self, request: RunIdRequest) -> None:
        """Delete an ended run with all its files.

        Raises:
            InputError: If there is no such run, or it is still running.
        """
        layout = find_run(self.runs_root, request.run)
        with hold_lock(layout.lock, SHORT_LOCK_TIMEOUT_SECONDS):  # prevents a start meanwhile
            if is_running(summarize_run(layout)):
                raise InputError("The run is still active. Stop it before you delete it.")
            shutil.rmtree(layout.folder)
        for image in self.image_folder.glob(f"{layout.run_id}-*"):
            image.unlink(missing_ok=True)

    def compare(self, request: CompareRequest) -> list[dict[str, Any]]:
        """Full curves and settings of several runs, for comparison."""
        compared = []
        for run_id in request.runs:
            layout = find_run(self.runs_root, run_id)
            history = self._digest(layout)
            while history.refresh():
                pass
            compared.append({**self._about(layout), "id": layout.run_id, **history.curves()})
        return compared

    def describe_checkpoint(self, folder: Path) -> str:
        """Title of a checkpoint: name of the run and step."""
        return f"{self._about(RunLayout(folder.parents[1]))['title']}, step {read_step(folder.name)}"

    def config(self, layout: RunLayout) -> RunConfig | None:
        """Settings of a run, cached; None if they cannot be read."""

        def load() -> RunConfig | None:
            try:
                return load_config(layout.config)
            except InputError:
                return None

        return self._configs.get(layout.run_id, lambda: file_stamp(layout.config), load)

    def _digest(self, layout: RunLayout) -> RunHistory:
        """Metrics of a run; they follow its files themselves."""
        return self._digests.get(layout.run_id, lambda: True, lambda: RunHistory(layout))

    def _about(self, layout: RunLayout) -> dict[str, Any]:
        config = self.config(layout)
        if config is None:
            return {"title": layout.run_id, "stages": "", "model": "", "settings": {}}
        stages = SHORT_TITLES[config.method.stages]
        return {
            "title": config.name or f"{stages}, {format_run_time(layout.run_id)}",
            "stages": stages,
            "model": config.model.id or "built-in",
            "group_size": config.rollout.group_size,
            "device": describe_device(read_device(layout)),
            "settings": config.model_dump(mode="json"),
        }

    def _row(self, summary: RunSummary, deadline: float) -> dict[str, Any]:
        about = self._about(summary.layout)
        about.pop("settings")
        digest_summary = self._summary(summary.layout, deadline)
        status = status_to_dict(summary)
        status.pop("heartbeat", None)
        status.pop("phase", None)
        return {
            **about,
            **status,
            "id": summary.layout.run_id,
            **digest_summary,
            "first": _select_metrics(digest_summary["first"]),
            "last": _select_metrics(digest_summary["last"]),
        }

    def _summary(self, layout: RunLayout, deadline: float) -> dict[str, Any]:
        """Summary of the events of a run, cached until the file changes; after the deadline the last one."""
        stamp, known = file_stamp(layout.events), self._summaries.newest(layout.run_id)
        if stamp is None:
            return EMPTY_SUMMARY
        if (known and known[0] == stamp) or time.monotonic() >= deadline:
            return known[1] if known else EMPTY_SUMMARY
        history = self._digest(layout)
        while is_unread := history.refresh():
            if time.monotonic() >= deadline:
                break
        digest_summary = history.summary(SPARK_POINTS)
        if not is_unread:
            self._summaries.keep(layout.run_id, stamp, digest_summary)
        return digest_summary


def status_to_dict(summary: RunSummary, ahead: int | None = None) -> dict[str, Any]:
    """Status of a run as JSON.

    Args:
        summary: The run.
        ahead: Runs before it on the same device; None if it is not waiting or unknown.
    """
    status = summary.status
    shown: dict[str, Any] = {"state": summary.state, "error": summary.problem}
    if status is None:
        return shown
    return shown | {
        "step": status.step,
        "total": status.total,
        "attempt": status.attempt,
        "error": status.error or summary.problem,
        "exit_code": status.exit_code,
        "phase": _describe_phase(status, ahead) if status.is_active else "",
        "heartbeat": status.heartbeat.isoformat() if status.heartbeat else None,
    }


def _describe_phase(status: RunStatus, ahead: int | None) -> str:
    """Phase of an active run outside its steps; empty during steps."""
    if status.phase or status.state != "queued":
        return status.phase
    return f"queued behind {ahead} {'run' if ahead == 1 else 'runs'} on this device" if ahead else "starting"


def read_device(layout: RunLayout) -> str:
    """Device of the newest attempt; empty if not recorded yet."""
    try:
        return Provenance.model_validate_json(read_regular_file(layout.provenance)).device
    except (OSError, ValidationError):
        return ""


def format_run_time(run_id: str) -> str:
    """``20260824-101500-...`` -> ``24 Aug 10:15:00 UTC``: start time in a run id."""
    return f"{datetime.strptime(run_id[:15], '%Y%m%d-%H%M%S'):%-d %b %H:%M:%S} UTC"


def _select_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics shown in the list of runs."""
    return {name: metrics[name] for name in ("accuracy", "iog_above_0.3", "iou", "area_share") if name in metrics}


def _read_cursor(value: dict[str, Any] | None) -> Cursor:
    try:
        return Cursor() if value is None else _CURSOR.validate_python(value)
    except ValidationError:
        return Cursor()
