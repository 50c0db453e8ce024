"""Base classes of the display components, which send data to the page and take nothing back, and the status line.

``gr.HTML`` evaluates its templates as code, so a template here is a constant and contains no value. The value is sent
as JSON to the script of the component, which builds the nodes with ``textContent``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import gradio as gr
from gradio.data_classes import FileData

from hart_studio.records import Box
from hart_studio.ui.theme import ASSETS

QUIET: Final[dict[str, Any]] = {"api_visibility": "private", "show_progress": "hidden"}
"""Options of an event that is not part of the API and shows its own progress."""


class Display(gr.HTML):
    """A read-only component drawn by scripts; ``None`` draws nothing.

    Attributes:
        template: HTML, or the name of a file in ``assets/html``.
        scripts: Files in ``assets/js`` that build on each other, in loading order.
    """

    template: ClassVar[str]
    scripts: ClassVar[tuple[str, ...]]

    def __init__(self, value: Any = None, **layout: Any) -> None:
        template = self.template
        super().__init__(
            value,
            html_template=template if "<" in template else (ASSETS / "html" / template).read_text("utf-8"),
            js_on_load="".join((ASSETS / "js" / name).read_text("utf-8") for name in ("dom.js", *self.scripts)),
            apply_default_css=False,
            container=False,
            padding=False,
            **layout,
        )

    def preprocess(self, payload: Any) -> None:
        """Ignore whatever the browser sends back."""
        return

    def postprocess(self, value: Any) -> Any:
        """The value as JSON, see ``to_json``."""
        return to_json(value)

    def api_info(self) -> dict[str, Any]:
        """The JSON type of the value."""
        return {"type": "object"}


class PageComponent(Display):
    """Base class of whole-tab components, whose scripts call the given server functions."""

    def __init__(
        self, marker: Path, choices: object, answers: Sequence[Callable[..., Any]], *, is_open: bool, **layout: Any
    ) -> None:
        """Load the template and the scripts.

        Args:
            marker: A file in the served folder; the page derives the URLs of other files from it.
            choices: Options of the page, a data class.
            answers: Functions that the script may call by name.
            is_open: Whether visitors may create, start or change anything.
            **layout: As for ``gr.HTML``.
        """
        self._marker = marker
        self._is_open = is_open
        super().__init__(choices, server_functions=list(answers), **layout)

    def postprocess(self, value: object) -> Any:
        """The options and the URL of the marker file."""
        return {**vars(value), "marker": to_json(self._marker), "is_open": self._is_open}


@dataclass(frozen=True)
class Running:
    """Work in progress."""

    fraction: float
    """Done, in [0, 1]."""
    stage: str
    state: Literal["running"] = "running"


@dataclass(frozen=True)
class Failed:
    """An error, for the user."""

    title: str
    message: str
    state: Literal["failed"] = "failed"


class ProgressStatus(Display):
    """Status line above the results: shows ``Running`` or ``Failed``; ``None`` is idle."""

    template = '<div class="hs-status hs-status-idle" role="status" aria-live="polite"></div>'
    scripts = ("progress_status.js",)


def read_event(event: gr.EventData) -> dict[str, Any]:
    """Data that a script sent with its event, not validated; empty if it is no object."""
    data = event._data
    return data if isinstance(data, dict) else {}


def to_json(value: Any) -> Any:
    """Convert a value to JSON: data classes to objects, boxes to corners and label, paths to files with an address.

    Args:
        value: Its paths are files written by this program inside Gradio's cache folder, so that they are served in
            place; Gradio adds the URL.
    """
    if isinstance(value, Path):
        return FileData(path=str(value)).model_dump()
    if isinstance(value, Box):
        return value.model_dump(exclude={"score"})
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(each) for each in value]
    return value
