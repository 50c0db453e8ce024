"""What every display component shares: data out to the page, nothing back.

``gr.HTML`` evaluates its templates as code, so a template here is a constant and never sees a value. The value
travels as JSON to the component's script, which builds the nodes with ``textContent``.
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
        """Nothing that the browser sends back for a display is used."""
        return

    def api_info(self) -> dict[str, Any]:
        """The JSON type of the value."""
        return {"type": "object"}


def serve(path: Path) -> dict[str, Any]:
    """A file as the page gets it: Gradio adds the URL on the way out.

    Args:
        path: A file that this program wrote, inside Gradio's cache folder, so that it is served in place.
    """
    return FileData(path=str(path)).model_dump()
