"""Status line above the results: idle, running with a stage, or failed with advice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from hart_studio.ui.components.display import Display

_TEMPLATE: Final = '<div class="hs-status hs-status-idle" role="status" aria-live="polite"></div>'


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
    """Shows ``Running`` or ``Failed``; ``None`` is idle and draws nothing."""

    def __init__(self, **layout: Any) -> None:
        super().__init__(_TEMPLATE, "progress_status.js", **layout)

    def postprocess(self, value: Running | Failed | None) -> dict[str, Any] | None:  # type: ignore[override]
        """The status as JSON."""
        return None if value is None else asdict(value)
