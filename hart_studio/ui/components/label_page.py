"""Component of the Label tab; its script polls ``LabelApi`` and ``ReviewApi``."""

from __future__ import annotations

from dataclasses import dataclass

from hart_studio.ui.components.page_component import PageComponent


@dataclass(frozen=True)
class LabelChoices:
    """Options shown on the page."""

    formats: list[tuple[str, str]]
    """(title, name) of the export formats."""
    kinds: list[tuple[str, str]]
    """(title, name) of the source types."""
    models: list[tuple[str, str]]
    """(title, name) of the models."""
    model: str
    """Model suggested for images of its own domain."""
    made_for: tuple[str, ...] = ()
    """Image domains of the suggested model."""
    domain_hint: str = ""
    """Why no model is suggested for other images."""
    model_hint: str = ""
    """Placeholder of the model field."""
    note: str = ""
    """Notice about temporary projects of visitors; empty where projects are kept."""
    max_rollouts: int = 64
    """Greatest number of rollouts per question."""


class LabelPage(PageComponent):
    """Shows projects, and the full-screen review."""

    template = "label_page.html"
    scripts = (
        "server_calls.js",
        "image_viewer.js",
        "review.js",
        "svg_figure.js",
        "tabs.js",
        "label_import.js",
        "project_menu.js",
        "label_page.js",
    )
