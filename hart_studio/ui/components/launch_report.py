"""Report on a run before it starts: summary of the settings, problems, and findings of the preflight check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hart_studio.ui.components.display import Display, serve

_TEMPLATE: Final = '<div class="hs-report" role="status" aria-live="polite"></div>'
_SAMPLES_TEMPLATE: Final = '<div class="hs-samples"></div>'


@dataclass(frozen=True)
class LaunchState:
    """Content of the report."""

    headline: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    """(name, value) pairs that summarize the settings."""
    problems: tuple[tuple[str, str], ...] = ()
    """(label, text) of invalid settings."""
    notes: tuple[str, ...] = ()
    """Valid but unusual settings."""
    findings: tuple[dict[str, str], ...] = ()
    """Findings of the preflight check so far."""
    is_checking: bool = False
    outcome: str = ""
    """Result of the last start or check."""
    is_refused: bool = False
    """Whether no run can be started."""


@dataclass(frozen=True)
class PreviewCard:
    """One sample without gold boxes, which training does not get either."""

    question: str
    choices: tuple[str, ...]
    answer: str
    part: str
    """Stage that uses the sample."""
    image: Path | None
    """Scaled copy; None if the image cannot be opened."""
    problem: str = ""


@dataclass(frozen=True)
class Preview:
    """Preview of a data source."""

    headline: str
    cards: tuple[PreviewCard, ...]
    left_out: tuple[str, ...]
    """Reasons for skipped rows, with counts."""


class LaunchReport(Display):
    """Shows a ``LaunchState``."""

    def __init__(self, value: LaunchState, **layout: Any) -> None:
        super().__init__(_TEMPLATE, "launch_report.js", value, **layout)

    def postprocess(self, value: LaunchState | None) -> dict[str, Any] | None:  # type: ignore[override]
        """The state as JSON."""
        return None if value is None else asdict(value)


class SampleCards(Display):
    """Shows a ``Preview``; ``None`` draws nothing."""

    def __init__(self, **layout: Any) -> None:
        super().__init__(_SAMPLES_TEMPLATE, "sample_cards.js", **layout)

    def postprocess(self, value: Preview | None) -> dict[str, Any] | None:  # type: ignore[override]
        """The preview as JSON."""
        if value is None:
            return None
        return {
            "headline": value.headline,
            "left_out": value.left_out,
            "cards": [
                {
                    "question": card.question,
                    "choices": card.choices,
                    "answer": card.answer,
                    "part": card.part,
                    "problem": card.problem,
                    "image": serve(card.image) if card.image else None,
                }
                for card in value.cards
            ],
        }
