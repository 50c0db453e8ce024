"""The Label page: its script asks ``LabelApi`` and ``ReviewApi``, and looks at the project every second or two."""

from __future__ import annotations

from dataclasses import dataclass

from hart_studio.ui.components.page_component import PageComponent


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
    """The one that is suggested for images that it was made for."""
    made_for: tuple[str, ...] = ()
    """Image domains of those images."""
    model_hint: str = ""
    """Why no model is suggested for other images."""
    model_label: str = "Model"
    """Label of its field: what may be named there."""
    note: str = ""
    """What visitors are told of projects that are theirs alone and go again; empty where projects stay."""
    max_rollouts: int = 64
    """Rollouts for each question."""


class LabelPage(PageComponent):
    """Shows projects, and the review over the whole window."""

    template = "label_page.html"
    scripts = (
        "image_viewer.js",
        "review.js",
        "svg_figure.js",
        "tabs.js",
        "label_import.js",
        "project_menu.js",
        "label_page.js",
    )
