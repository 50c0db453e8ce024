"""Example cards with thumbnails; the ``pick`` event carries the index of the chosen example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hart_studio.ui.components.display import Display, serve

_TEMPLATE: Final = '<div class="hs-examples" role="group" aria-label="Examples"></div>'


@dataclass(frozen=True)
class Example:
    """An example question about an image."""

    title: str
    image: Path
    """The full image."""
    thumbnail: Path
    question: str
    choices: tuple[str, ...]
    answer: str


class ExamplePicker(Display):
    """Shows examples and fires ``pick``."""

    def __init__(self, value: tuple[Example, ...], **layout: Any) -> None:
        super().__init__(_TEMPLATE, "example_picker.js", value, **layout)

    def postprocess(self, value: tuple[Example, ...]) -> list[dict[str, Any]]:  # type: ignore[override]
        """Title, question and thumbnail of each example."""
        return [
            {"title": example.title, "question": example.question, "image": serve(example.thumbnail)}
            for example in value
        ]

    def api_info(self) -> dict[str, Any]:
        """The JSON type of the value."""
        return {"type": "array"}
