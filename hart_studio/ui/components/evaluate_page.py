"""Component of the Evaluate tab; its script polls ``EvaluationApi`` and ``EvaluationResultsApi``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hart_studio.ui.components.page_component import PageComponent


@dataclass(frozen=True)
class EvaluateChoices:
    """Options shown on the page."""

    benchmarks: list[dict[str, Any]]
    """``name``, ``title``, ``hub_id`` and ``has_boxes`` of each benchmark."""
    benchmark: str
    """Name of the preselected benchmark."""
    models: list[tuple[str, str]]
    """(title, name) of the models."""
    model: str
    """Preselected model."""
    protocols: list[tuple[str, str]]
    """(name, title) of the protocols; the first is preselected."""
    gpus: list[tuple[int, str]]
    """(index, title) of the GPUs; empty = CPU only."""
    model_hint: str = ""
    """Placeholder of the model field."""
    examples: list[tuple[str, str]] = field(default_factory=list)
    """(title, name) of the models that every visitor may evaluate on the examples; empty = none."""
    example_count: int = 0
    """Number of examples."""


class EvaluatePage(PageComponent):
    """Shows evaluations; fires ``open_ask`` with ``run`` and ``sample``."""

    template = "evaluate_page.html"
    scripts = (
        *("server_calls.js", "image_viewer.js", "image_viewer_controls.js", "svg_figure.js", "tabs.js"),
        *("evaluate_failures.js", "evaluate_page.js"),
    )
