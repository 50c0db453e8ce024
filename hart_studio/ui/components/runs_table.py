"""Component of the Runs tab: a table of all runs to search, filter and compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from hart_studio.runs.metric_series import RECENT_STEPS
from hart_studio.ui.charts import chart_table
from hart_studio.ui.components.display import Display

_TEMPLATE: Final = """
<section class="hs-component hs-runs" aria-label="Runs">
  <div class="hs-runs-bar">
    <input type="search" class="hs-runs-search" placeholder="Search name, model, method" aria-label="Search runs">
    <select class="hs-runs-state" aria-label="State"><option value="">All states</option></select>
    <span class="hs-muted hs-runs-count" role="status"></span>
    <button type="button" class="hs-compare" disabled>Compare</button>
  </div>
  <div class="hs-table-host"><table><thead></thead><tbody></tbody></table></div>
  <div class="hs-comparison" hidden></div>
</section>
"""


class RunsTable(Display):
    """Shows all runs; fires ``open_run`` with ``run``."""

    def __init__(self, answers: Sequence[Callable[..., Any]], **layout: Any) -> None:
        """Load the template and the scripts.

        Args:
            answers: Functions that the script may call by name: list_runs, compare.
            **layout: As for ``gr.HTML``.
        """
        super().__init__(
            _TEMPLATE, ("server_calls.js", "charts.js", "runs_table.js"), {}, server_functions=list(answers), **layout
        )

    def postprocess(self, value: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Chart definitions, and the number of steps that current values are averaged over."""
        return {"charts": chart_table(), "recent_steps": RECENT_STEPS}
