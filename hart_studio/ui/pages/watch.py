"""The Watch and Runs tabs: components and the functions that their scripts call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from hart_studio.ui.api.handler import api_handler
from hart_studio.ui.api.launch import RunLauncher
from hart_studio.ui.api.rollouts import RolloutApi
from hart_studio.ui.api.runs import RunMonitor
from hart_studio.ui.components.run_view import RunChoice, RunView
from hart_studio.ui.components.runs_table import RunsTable
from hart_studio.ui.security.permissions import Permissions


@dataclass(frozen=True)
class RunComponents:
    """Components of both tabs, created before they are placed."""

    view: RunView
    table: RunsTable


def build_run_components(watch: RunMonitor, launcher: RunLauncher, permissions: Permissions) -> RunComponents:
    """Create the components of both tabs; call ``render`` where they belong.

    Args:
        watch: Reads runs.
        launcher: Stops and resumes them.
        permissions: Who may see and control runs.
    """
    marker = Path(watch.image_folder) / "marker.txt"
    marker.write_text("Images of rollouts are next to this file.\n", encoding="utf-8")
    redact_paths = permissions.is_public or not launcher.is_open
    recorded = RolloutApi(watch)
    readers = (watch.list_runs, watch.poll, recorded.rollouts, recorded.track_question, recorded.gold_boxes)
    actions = (launcher.stop, launcher.resume, watch.delete) if launcher.is_open else ()
    answers = [api_handler(each, permissions.require_owner, redact_paths=redact_paths) for each in readers]
    answers += [api_handler(each, permissions.require_write_access) for each in actions]
    view = RunView(marker, answers, can_control=launcher.is_open, render=False, elem_id="run-view")
    lists = [
        api_handler(each, permissions.require_owner, redact_paths=redact_paths)
        for each in (watch.list_runs, watch.compare)
    ]
    table = RunsTable(lists, render=False, elem_id="runs-table")
    return RunComponents(view, table)


def read_run(event: gr.EventData) -> str:
    """Run id from the browser, not validated."""
    return str(event._data.get("run", "")) if isinstance(event._data, dict) else ""


def read_step(event: gr.EventData) -> int | None:
    """Checkpoint step from the browser, or None if invalid."""
    step = event._data.get("step") if isinstance(event._data, dict) else None
    return step if isinstance(step, int) and step >= 0 else None


def show_run(pages: RunComponents, tabs: gr.Tabs, run_id: str) -> dict[Any, Any]:
    """Updates that show a run on the Watch tab."""
    return {tabs: gr.update(selected="watch"), pages.view: RunChoice(run_id)}
