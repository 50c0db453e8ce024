"""The Evaluate page: its script asks ``EvaluationApi`` and ``EvaluationResultsApi``, and looks every second or two."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hart_studio.ui.components.page_component import PageComponent


@dataclass(frozen=True)
class EvaluateChoices:
    """What the page offers."""

    benchmarks: list[dict[str, Any]]
    """``name``, ``title``, ``hub_id`` and ``has_boxes`` of each benchmark."""
    benchmark: str
    """Name of the one that is chosen at first."""
    models: list[tuple[str, str]]
    """(title, name) of the models."""
    model: str
    """The one that is chosen at first."""
    protocols: list[tuple[str, str]]
    """(name, title) of the protocols; the first is chosen at first."""
    gpus: list[tuple[int, str]]
    """(number, title) of the processors; none = everything runs on the CPU."""
    model_label: str = "Model"
    """Label of its field: what may be named there."""
    examples: list[tuple[str, str]] = field(default_factory=list)
    """(title, name) of the models that everyone may evaluate on the shipped examples; none = no one may."""
    example_count: int = 0
    """Number of those examples."""


class EvaluatePage(PageComponent):
    """Shows evaluations; fires ``open_ask`` with ``run`` and ``sample``."""

    template = "evaluate_page.html"
    scripts = (
        *("image_viewer.js", "image_viewer_controls.js", "svg_figure.js", "tabs.js"),
        *("evaluate_failures.js", "evaluate_page.js"),
    )
