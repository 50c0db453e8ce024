"""The Evaluate page: its script asks ``EvaluationDesk`` and ``EvaluationOutputs``, and looks every second or two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart_studio.ui.components.display import Display, serve
from hart_studio.ui.theme import ASSETS


@dataclass(frozen=True)
class EvaluateChoices:
    """What the page offers."""

    benchmarks: list[dict[str, Any]]
    """``name``, ``title``, ``hub_id``, ``has_boxes`` and ``expected`` of each benchmark."""
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


class EvaluatePage(Display):
    """Shows evaluations; fires ``open_ask`` with ``run`` and ``sample``."""

    def __init__(
        self,
        marker: Path,
        choices: EvaluateChoices,
        answers: Sequence[Callable[..., Any]],
        *,
        is_open: bool,
        **layout: Any,
    ) -> None:
        """Prepare.

        Args:
            marker: A file in the folder of served files; the page finds the others beside its address.
            choices: What the page offers.
            answers: What the script may call, by their names.
            is_open: Whether visitors may start anything here.
            **layout: As for ``gr.HTML``.
        """
        self._marker = marker
        self._is_open = is_open
        template = (ASSETS / "evaluate_page.html").read_text("utf-8")
        scripts = ("picture_stage.js", "stage_controls.js", "drawing.js", "evaluate_failures.js", "evaluate_page.js")
        super().__init__(template, scripts, choices, server_functions=list(answers), **layout)

    def postprocess(self, value: EvaluateChoices) -> dict[str, Any]:  # type: ignore[override]
        """The choices, with where served files lie."""
        return {**vars(value), "marker": serve(self._marker), "is_open": self._is_open}
