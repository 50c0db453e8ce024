"""JSON API of the Watch and Runs tabs, read from run directories.

Requests are untrusted: run ids are checked against existing runs, image names against their folder. None means nothing
new.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from hart_studio.errors import InputError
from hart_studio.files import copy_regular_file, read_regular_file
from hart_studio.records import Record
from hart_studio.runs.config import RunConfig
from hart_studio.runs.devices import describe_device
from hart_studio.runs.history import Cursor, RunHistory
from hart_studio.runs.layout import RunLayout, find_run, read_step
from hart_studio.runs.overrides import load_config
from hart_studio.runs.processes import SHORT_LOCK_TIMEOUT_SECONDS, hold_lock
from hart_studio.runs.queue import RunQueue, is_running, is_waiting
from hart_studio.runs.reader import RunSummary, list_runs, read_log, summarize_run
from hart_studio.runs.rollouts import SavedGroup, find_image, list_rollout_steps, read_groups
from hart_studio.ui.api.gold_boxes import GoldBoxLoader
from hart_studio.ui.api.run_json import (
    format_run_time,
    read_device,
    rollout_to_dict,
    select_metrics,
    status_to_dict,
)
from hart_studio.ui.pages.train_form import SHORT_TITLES

FIRST_LOG_BYTES: Final = 64 * 1024
"""Bytes of the log in the first response."""

MAX_LOG_BYTES: Final = 64 * 1024
"""Maximum bytes of the log per response."""

MAX_DIGESTS: Final = 64
"""Runs whose metrics are kept in memory."""

TIMEOUT_SECONDS: Final = 0.4
"""Time limit for reading events per response; the rest is read by the next request."""

SPARK_POINTS: Final = 48
"""Points of the sparkline in the list of runs."""

EMPTY_SUMMARY: Final[dict[str, Any]] = {
    "spark": [], "reward": None, "reward_steps": 0, "held_out": None, "first": {}, "last": {}, "warnings": 0,
}  # fmt: skip
"""Summary of a run without events, or not read yet."""

MAX_TRACKED_RECORDS: Final = 400
"""Number of newest records searched for a tracked question."""

MAX_TRACKED_BYTES: Final = 512 * 2**20
"""Largest record file that is searched. Project default."""


class PollRequest(Record):
    """Poll of a run."""

    run: str = Field(max_length=200)
    """Id of the run."""
    cursor: dict[str, Any] | None = None
    """Cursor of the last response; None at first."""
    status: str = Field(default="", max_length=2000)
    """Status signature of the last response."""
    attempt: int = Field(default=0, ge=0)
    """Attempt of the last log."""
    log_offset: int = Field(default=0, ge=0)
    """Offset in the log."""


class RolloutsRequest(Record):
    """Request for recorded rollouts."""

    run: str = Field(max_length=200)
    """Id of the run."""
    step: int = Field(ge=0)
    """The step."""
    is_held_out: bool = False
    """Whether to load rollouts of held-out questions."""


_CURSOR: Final = TypeAdapter(Cursor)


class RunMonitor:
    """Reads runs for the pages.

    Attributes:
        runs_root: Folder of all runs.
        image_folder: Served folder for copies of images.
    """

    def __init__(self, runs_root: Path, image_folder: Path) -> None:
        """Create the monitor.

        Args:
            runs_root: May be missing.
            image_folder: Created if missing.
        """
        image_folder.mkdir(parents=True, exist_ok=True)
        self.runs_root = runs_root
        self.image_folder = image_folder
        self._lock = threading.Lock()
        self._digests: OrderedDict[str, RunHistory] = OrderedDict()
        self._configs: dict[str, RunConfig | None] = {}
        self._summaries: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}
        self._gold = GoldBoxLoader()
        self._queue = RunQueue(runs_root)  # only for queue positions, never opened

    def poll(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Changes of a run since the last poll.

        Args:
            request: A ``PollRequest``.

        Returns:
            None if nothing has changed; else those of ``status``, ``delta`` with ``cursor`` (see ``RunHistory.delta``),
            and ``log`` that have changed, and ``about`` for the first poll and each new attempt.

        Raises:
            InputError: If there is no such run.
        """
        query = _read(PollRequest, request)
        layout = find_run(self.runs_root, query.run)
        history = self._digest(layout)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while history.refresh() and time.monotonic() < deadline:
            pass
        answer: dict[str, Any] = {}
        found = history.delta(_read_cursor(query.cursor))
        if found is not None:
            answer["delta"], cursor = found
            answer["cursor"] = asdict(cursor)
            # A new attempt may run on another device.
            if answer["delta"]["is_full"] or any(kind == "started" for kind, *_ in answer["delta"]["markers"]["items"]):
                answer["about"] = self._about(layout)
        summary = summarize_run(layout)
        status = status_to_dict(summary, self._queue.position_of(layout) if is_waiting(summary) else None)
        if status["signature"] != query.status:
            beat = summary.status and summary.status.heartbeat
            # An age, because the clock of the browser may differ.
            age = max(0.0, (datetime.now(UTC) - beat).total_seconds()) if beat else None
            answer["status"] = {**status, "age": age}
        attempt = summary.status.attempt if summary.status else 0
        if attempt:
            is_first = attempt != query.attempt
            offset = -FIRST_LOG_BYTES if is_first else query.log_offset
            part = read_log(layout, attempt, offset, MAX_LOG_BYTES)
            if part.text or is_first:
                answer["log"] = {
                    "attempt": attempt,
                    "is_first": is_first,
                    "text": part.text,
                    "offset": part.offset,
                }
        return answer or None

    def list_runs(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """All training runs with their results, newest first; None if nothing has changed.

        Runs with an unreadable status are listed too.

        Args:
            request: ``signature`` of the last response.
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        found = [run for run in list_runs(self.runs_root) if run.status is None or run.status.job == "training"]
        rows = [self._row(summary, deadline) for summary in found]
        for gone in self._summaries.keys() - {summary.layout.run_id for summary in found}:
            self._summaries.pop(gone, None)
        now = str(hash(json.dumps(rows)))
        return None if now == request.get("signature") else {"signature": now, "runs": rows}

    def rollouts(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The recorded groups of a step, with the names of their images.

        Args:
            request: A ``RolloutsRequest``.

        Raises:
            InputError: If there is no such run.
            DataError: If nothing is recorded for that step.
        """
        query = _read(RolloutsRequest, request)
        layout = find_run(self.runs_root, query.run)
        groups = read_groups(layout, query.step, is_held_out=query.is_held_out)
        return [self._show_group(layout, group) for group in groups]

    def track_question(self, request: Mapping[str, Any]) -> list[list[Any]]:
        """Records of a question as (step, is held out), in order.

        Args:
            request: ``run``, and ``sample``, the id of the question.
        """
        layout = find_run(self.runs_root, str(request.get("run")))
        wanted = f'"id":{json.dumps(str(request.get("sample")), ensure_ascii=False)}'.encode()
        found = []
        for is_held_out in (True, False):
            for step in list_rollout_steps(layout, is_held_out=is_held_out)[-MAX_TRACKED_RECORDS:]:
                with suppress(OSError):  # deleted or not a regular file
                    if wanted in read_regular_file(
                        layout.rollouts_of(step, is_held_out=is_held_out), MAX_TRACKED_BYTES
                    ):
                        found.append([step, is_held_out])
        return sorted(found)

    def gold_boxes(self, request: Mapping[str, Any]) -> list[list[float]]:
        """Gold boxes of a question, ``[x_min, y_min, x_max, y_max]`` in original pixels; empty if there are none.

        For display only; training does not use them.

        Args:
            request: ``run``, and ``sample``, the id of the question.
        """
        layout = find_run(self.runs_root, str(request.get("run")))
        config = self._config(layout)
        boxes = self._gold.find(layout, config, str(request.get("sample"))) if config else ()
        return [list(box.xyxy) for box in boxes]

    def delete(self, request: Mapping[str, Any]) -> None:
        """Delete an ended run with all its files.

        Raises:
            InputError: If there is no such run, or it is still running.
        """
        layout = find_run(self.runs_root, str(request.get("run")))
        with hold_lock(layout.lock, SHORT_LOCK_TIMEOUT_SECONDS):  # prevents a start meanwhile
            if is_running(summarize_run(layout)):
                raise InputError("The run is still active. Stop it before you delete it.")
            shutil.rmtree(layout.folder)
        for image in self.image_folder.glob(f"{layout.run_id}-*"):
            image.unlink(missing_ok=True)
        with self._lock:
            self._digests.pop(layout.run_id, None)
            self._configs.pop(layout.run_id, None)

    def compare(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Full curves and settings of several runs, for comparison.

        Args:
            request: ``runs``, up to six ids.
        """
        ids = request.get("runs")
        if not isinstance(ids, list) or not 1 <= len(ids) <= 6:
            raise InputError("Select 1 to 6 runs to compare.")
        compared = []
        for run_id in ids:
            layout = find_run(self.runs_root, str(run_id))
            history = self._digest(layout)
            while history.refresh():
                pass
            compared.append({**self._about(layout), "id": layout.run_id, **history.curves()})
        return compared

    def describe_checkpoint(self, folder: Path) -> str:
        """Title of a checkpoint: name of the run and step."""
        return f"{self._about(RunLayout(folder.parents[1]))['title']}, step {read_step(folder.name)}"

    def _digest(self, layout: RunLayout) -> RunHistory:
        with self._lock:
            history = self._digests.setdefault(layout.run_id, RunHistory(layout))
            self._digests.move_to_end(layout.run_id)
            while len(self._digests) > MAX_DIGESTS:
                self._digests.popitem(last=False)
            return history

    def _config(self, layout: RunLayout) -> RunConfig | None:
        """Settings of a run, cached; None if they cannot be read."""
        if layout.run_id not in self._configs:
            try:
                self._configs[layout.run_id] = load_config(layout.config)
            except InputError:
                self._configs[layout.run_id] = None
        return self._configs[layout.run_id]

    def _about(self, layout: RunLayout) -> dict[str, Any]:
        config = self._config(layout)
        if config is None:
            return {"title": layout.run_id, "chain": "", "model": "", "settings": {}}
        chain = SHORT_TITLES[config.method.chain]
        return {
            "title": config.name or f"{chain}, {format_run_time(layout.run_id)}",
            "chain": chain,
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
        status.pop("signature")
        status.pop("heartbeat", None)
        status.pop("phase", None)
        return {
            **about,
            **status,
            "id": summary.layout.run_id,
            **digest_summary,
            "first": select_metrics(digest_summary["first"]),
            "last": select_metrics(digest_summary["last"]),
        }

    def _summary(self, layout: RunLayout, deadline: float) -> dict[str, Any]:
        """Summary of the events of a run, cached until the file changes."""
        try:
            file = layout.events.stat()
        except OSError:
            return EMPTY_SUMMARY
        stamp = (file.st_size, file.st_mtime_ns)
        known = self._summaries.get(layout.run_id)
        if (known and known[0] == stamp) or time.monotonic() >= deadline:
            return known[1] if known else EMPTY_SUMMARY
        history = self._digest(layout)
        while is_unread := history.refresh():
            if time.monotonic() >= deadline:
                break
        digest_summary = history.summary(SPARK_POINTS)
        if not is_unread:
            self._summaries[layout.run_id] = (stamp, digest_summary)
        return digest_summary

    def _show_group(self, layout: RunLayout, saved: SavedGroup) -> dict[str, Any]:
        group = saved.group
        credits = group.credits or (None,) * len(group.rollouts)
        return {
            "sample": saved.sample.model_dump(include={"id", "question", "choices", "answer", "category"}),
            "wh": saved.image_wh,
            "overview": self._serve(layout, saved.overview),
            "protocol": group.protocol,
            "rollouts": [
                {
                    **rollout_to_dict(rollout),
                    "images": [self._serve(layout, name) for name in crops],
                    "credit": credit and credit.model_dump(),
                }
                for rollout, crops, credit in zip(group.rollouts, saved.crops, credits, strict=True)
            ],
        }

    def _serve(self, layout: RunLayout, name: str | None) -> str | None:
        """Copy an image to the served folder; returns its name there, or None if it is missing."""
        if name is None:
            return None
        served = f"{layout.run_id}-{Path(name).name}"
        target = self.image_folder / served
        try:
            source = find_image(layout, name)
        except InputError:
            return None
        if not target.exists():
            draft = target.with_suffix(f".{threading.get_ident()}.draft")
            copy_regular_file(source, draft)
            draft.replace(target)
        return served


def _read(kind: type[Any], request: Mapping[str, Any]) -> Any:
    try:
        return kind.model_validate(request)
    except ValidationError as error:
        raise InputError(f"Invalid request ({kind.__name__}): {error.errors()[0]['msg']}. Reload the page.") from error


def _read_cursor(value: dict[str, Any] | None) -> Cursor:
    try:
        return Cursor() if value is None else _CURSOR.validate_python(value)
    except ValidationError:
        return Cursor()
