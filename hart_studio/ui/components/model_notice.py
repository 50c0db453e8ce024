"""Warning above the answers of the Ask tab: a chosen model does not support the domain of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hart_studio.ui.components.display import Display

_TEMPLATE: Final = '<div class="hs-model-notice" role="status" aria-live="polite"></div>'


class ModelNotice(Display):
    """Shows the warnings of the two selected models; empty without warnings."""

    def __init__(self, **layout: Any) -> None:
        super().__init__(_TEMPLATE, "model_notice.js", **layout)

    def postprocess(self, value: Mapping[str, str] | None) -> dict[str, str]:  # type: ignore[override]
        """Text of a model field -> warning, as JSON."""
        return dict(value or {})
