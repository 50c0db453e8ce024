"""The notice above the answers of the Ask tab: the chosen model was not made for the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hart_studio.ui.components.display import Display

_TEMPLATE: Final = '<div class="hs-model-notice" role="status" aria-live="polite"></div>'


class ModelNotice(Display):
    """Shows a list of warnings; an empty one takes no room."""

    def __init__(self, **layout: Any) -> None:
        super().__init__(_TEMPLATE, "model_notice.js", **layout)

    def postprocess(self, value: Sequence[str] | None) -> list[str]:  # type: ignore[override]
        """The warnings as JSON."""
        return list(value or ())
