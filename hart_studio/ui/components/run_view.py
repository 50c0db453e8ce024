"""Component of the Watch tab; its script polls ``RunMonitor`` every second for what is new."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hart_studio.runs.metric_series import RECENT_STEPS
from hart_studio.ui.charts import chart_table
from hart_studio.ui.components.display import Display, serve

_TEMPLATE: Final = """
<section class="hs-component hs-run hs-run-empty" aria-label="Run">
  <div class="hs-run-bar">
    <label>Run <select class="hs-run-picker" aria-label="Run"></select></label>
    <span class="hs-run-message" role="status"></span>
    <span class="hs-offline-note">Server not responding. Retrying…</span>
  </div>
  <div class="hs-no-run">
    <svg viewBox="0 0 160 84" aria-hidden="true"><path d="M14 6v64h134"></path>
    <path class="hs-no-run-curve" d="M22 62c22-2 28-12 42-16s22-22 40-24 24-6 38-8"></path></svg>
    <strong>No runs yet</strong>
    <p>Runs appear here within seconds of their start, with status, rollouts, boxes, crops, curves and checkpoints.
    You can also start one in a terminal: <code>python -m hart_studio.training</code></p>
    <button type="button" class="hs-go-to-train">Train a model</button>
  </div>
  <div class="hs-run-body">
    <header class="hs-run-head">
      <div class="hs-run-names">
        <h2 class="hs-run-title"></h2><span class="hs-pill"></span>
        <p class="hs-run-facts hs-muted"></p>
      </div>
      <div class="hs-run-commands" role="toolbar" aria-label="Run">
        <span class="hs-open-checkpoint" hidden><select class="hs-checkpoints" aria-label="Checkpoint"></select>
        <button type="button" title="Compare this checkpoint with its base model on the Ask tab">Open in
        Ask</button></span> <button type="button" data-command="stop" hidden>Stop and save</button>
        <button type="button" data-command="resume" hidden>Resume</button>
        <button type="button" data-command="delete" hidden>Delete</button>
      </div>
      <div class="hs-run-progress" role="progressbar" aria-label="Steps" aria-valuemin="0" aria-valuemax="100">
      <div></div></div>
      <p class="hs-run-status-line"><span class="hs-run-steps"></span>
      <span class="hs-run-phase" role="status"></span><span class="hs-run-timing hs-muted"></span></p>
      <div class="hs-run-outcome" hidden></div>
      <details class="hs-run-warnings" hidden><summary></summary><ul></ul></details>
    </header>
    <section aria-label="Rollouts"><h3>Rollouts</h3><div class="hs-rollout-viewer-host"></div></section>
    <section aria-label="Curves">
      <div class="hs-section-bar"><h3>Curves</h3>
      <label class="hs-muted">Smoothing <input type="range" class="hs-smoothing" min="0" max="0.95" step="0.05"
      value="0.6"></label></div>
      <div class="hs-charts"></div>
      <p class="hs-no-charts hs-muted" hidden>Curves appear after the first step and the first evaluation.</p>
    </section>
    <section class="hs-log" aria-label="Log"><details><summary>Log</summary><pre tabindex="0"></pre></details></section>
  </div>
</section>
"""

_STAMPS = itertools.count()


@dataclass(frozen=True)
class RunChoice:
    """Selected run. The stamp makes each selection new, so that the same run can be selected again."""

    run: str
    stamp: int = field(default_factory=lambda: next(_STAMPS))


class RunView(Display):
    """Shows a run; fires ``open_model`` with ``run`` and ``step``."""

    def __init__(
        self, marker: Path, answers: Sequence[Callable[..., Any]], *, can_control: bool = True, **layout: Any
    ) -> None:
        """Load the template and the scripts.

        Args:
            marker: A file in the served folder of images; the page derives the URLs of other files from it.
            answers: Functions that the script may call by name: list_runs, poll, rollouts, track_question, gold_boxes,
                stop, resume, delete.
            can_control: Whether runs may be stopped, resumed and deleted here.
            **layout: As for ``gr.HTML``.
        """
        self._marker = marker
        self._may_act = can_control
        scripts = ("server_calls.js", "charts.js", "rollout_viewer.js", "run_view.js")
        super().__init__(_TEMPLATE, scripts, RunChoice(""), server_functions=list(answers), **layout)

    def postprocess(self, value: RunChoice) -> dict[str, Any]:  # type: ignore[override]
        """The selection and the chart definitions as JSON."""
        return {
            "run": value.run,
            "stamp": value.stamp,
            "marker": serve(self._marker),
            "can_control": self._may_act,
            "charts": chart_table(),
            "recent_steps": RECENT_STEPS,
        }
