"""Base class of the display components: data to the page, nothing back.

``gr.HTML`` evaluates its templates as code, so a template here is a constant and contains no value. The value is sent
as JSON to the script of the component, which builds the nodes with ``textContent``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from hart_studio.ui.theme import ASSETS


class Display(gr.HTML):
    """A read-only component drawn by ``assets/js/<script>``, or by several scripts that build on each other.

    Subclasses turn their value into JSON in ``postprocess``.
    """

    def __init__(self, template: str, script: str | tuple[str, ...], value: Any = None, **layout: Any) -> None:
        scripts = (script,) if isinstance(script, str) else script
        super().__init__(
            value,
            html_template=template,
            js_on_load="".join((ASSETS / "js" / name).read_text("utf-8") for name in ("dom.js", *scripts)),
            apply_default_css=False,
            container=False,
            padding=False,
            **layout,
        )

    def preprocess(self, payload: Any) -> None:
        """Ignore whatever the browser sends back."""
        return

    def api_info(self) -> dict[str, Any]:
        """The JSON type of the value."""
        return {"type": "object"}


def serve(path: Path) -> dict[str, Any]:
    """JSON of a file for the page; Gradio adds the URL.

    Args:
        path: A file written by this program inside Gradio's cache folder, so that it is served in place.
    """
    return FileData(path=str(path)).model_dump()
