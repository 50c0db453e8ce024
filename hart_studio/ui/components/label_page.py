"""The Label page: its script asks ``LabelDesk`` and ``ReviewCalls``, and looks at the project every second or two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart_studio.ui.components.display import Display, serve
from hart_studio.ui.theme import ASSETS


@dataclass(frozen=True)
class LabelChoices:
    """What the page offers."""

    formats: list[tuple[str, str]]
    """(title, name) of the formats that can be written."""
    kinds: list[str]
    """What a source can be."""
    models: list[tuple[str, str]]
    """(title, name) of the models."""
    model: str
    """The one that is chosen at first."""


class LabelPage(Display):
    """Shows projects, and the review over the whole window."""

    def __init__(
        self,
        marker: Path,
        choices: LabelChoices,
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
            is_open: Whether visitors may make anything here.
            **layout: As for ``gr.HTML``.
        """
        self._marker = marker
        self._is_open = is_open
        template = (ASSETS / "label_page.html").read_text("utf-8")
        scripts = ("picture_stage.js", "review.js", "drawing.js", "label_page.js")
        super().__init__(template, scripts, choices, server_functions=list(answers), **layout)

    def postprocess(self, value: LabelChoices) -> dict[str, Any]:  # type: ignore[override]
        """The choices, with where served files lie."""
        return {**vars(value), "marker": serve(self._marker), "is_open": self._is_open}
