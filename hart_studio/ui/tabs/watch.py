"""The Watch and Runs tabs: what scripts of the page look at, and the few things that they start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from hart_studio.ui.components.run_view import RunChoice, RunView
from hart_studio.ui.components.runs_table import RunsTable
from hart_studio.ui.launch_desk import LaunchDesk
from hart_studio.ui.page_calls import guarded
from hart_studio.ui.rights import Rights
from hart_studio.ui.run_watch import RunWatch


@dataclass(frozen=True)
class RunPages:
    """The displays of both tabs, made before they are placed."""

    view: RunView
    table: RunsTable


def make_run_pages(watch: RunWatch, desk: LaunchDesk, rights: Rights) -> RunPages:
    """Make the displays of both tabs; ``render`` them where they belong.

    Args:
        watch: Knows the runs.
        desk: Stops and resumes them.
        rights: Says who may see runs, and who may act on them.
    """
    marker = Path(watch.pictures) / "marker.txt"
    marker.write_text("Pictures of rollouts lie beside this file.\n", encoding="utf-8")
    is_discreet = rights.is_public or not desk.is_open
    looks = (watch.index, watch.look, watch.rollouts, watch.follow, watch.gold)
    acts = (desk.stop, desk.resume, watch.delete) if desk.is_open else ()
    answers = [guarded(look, rights.ensure_owner, is_discreet=is_discreet) for look in looks]
    answers += [guarded(act, rights.ensure_maker) for act in acts]
    view = RunView(marker, answers, may_act=desk.is_open, render=False, elem_id="run-view")
    lists = [guarded(look, rights.ensure_owner, is_discreet=is_discreet) for look in (watch.index, watch.compare)]
    table = RunsTable(lists, render=False, elem_id="runs-table")
    return RunPages(view, table)


def read_run(event: gr.EventData) -> str:
    """The id of a run from the browser; whoever uses it looks it up."""
    return str(event._data.get("run", "")) if isinstance(event._data, dict) else ""


def read_step(event: gr.EventData) -> int | None:
    """The step of a checkpoint from the browser."""
    step = event._data.get("step") if isinstance(event._data, dict) else None
    return step if isinstance(step, int) and step >= 0 else None


def show_run(pages: RunPages, tabs: gr.Tabs, run_id: str) -> dict[Any, Any]:
    """Updates that show a run on the Watch tab."""
    return {tabs: gr.update(selected="watch"), pages.view: RunChoice(run_id)}
