"""The Watch and Runs tabs: what scripts of the page look at, and the few things that they start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from hart_studio.ui.api.handler import api_handler
from hart_studio.ui.api.launch import RunLauncher
from hart_studio.ui.api.runs import RunMonitor
from hart_studio.ui.components.run_view import RunChoice, RunView
from hart_studio.ui.components.runs_table import RunsTable
from hart_studio.ui.security.permissions import Permissions


@dataclass(frozen=True)
class RunComponents:
    """The displays of both tabs, made before they are placed."""

    view: RunView
    table: RunsTable


def build_run_components(watch: RunMonitor, launcher: RunLauncher, permissions: Permissions) -> RunComponents:
    """Make the displays of both tabs; ``render`` them where they belong.

    Args:
        watch: Knows the runs.
        launcher: Stops and resumes them.
        permissions: Says who may see runs, and who may act on them.
    """
    marker = Path(watch.image_folder) / "marker.txt"
    marker.write_text("Images of rollouts lie beside this file.\n", encoding="utf-8")
    redact_paths = permissions.is_public or not launcher.is_open
    looks = (watch.list_runs, watch.poll, watch.rollouts, watch.track_question, watch.gold_boxes)
    acts = (launcher.stop, launcher.resume, watch.delete) if launcher.is_open else ()
    answers = [api_handler(look, permissions.require_owner, redact_paths=redact_paths) for look in looks]
    answers += [api_handler(act, permissions.require_write_access) for act in acts]
    view = RunView(marker, answers, can_control=launcher.is_open, render=False, elem_id="run-view")
    lists = [
        api_handler(look, permissions.require_owner, redact_paths=redact_paths)
        for look in (watch.list_runs, watch.compare)
    ]
    table = RunsTable(lists, render=False, elem_id="runs-table")
    return RunComponents(view, table)


def read_run(event: gr.EventData) -> str:
    """The id of a run from the browser; whoever uses it looks it up."""
    return str(event._data.get("run", "")) if isinstance(event._data, dict) else ""


def read_step(event: gr.EventData) -> int | None:
    """The step of a checkpoint from the browser."""
    step = event._data.get("step") if isinstance(event._data, dict) else None
    return step if isinstance(step, int) and step >= 0 else None


def show_run(pages: RunComponents, tabs: gr.Tabs, run_id: str) -> dict[Any, Any]:
    """Updates that show a run on the Watch tab."""
    return {tabs: gr.update(selected="watch"), pages.view: RunChoice(run_id)}
