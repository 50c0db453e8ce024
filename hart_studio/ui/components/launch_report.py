"""What is known of a run before it starts: what the settings mean, what is wrong with them, what the check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from hart_studio.ui.api.sample_preview import Preview
from hart_studio.ui.components.display import Display, serve

_TEMPLATE: Final = '<div class="hs-report" role="status" aria-live="polite"></div>'
_SAMPLES_TEMPLATE: Final = '<div class="hs-samples"></div>'


@dataclass(frozen=True)
class LaunchState:
    """What the report shows."""

    headline: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    """(name, value) of what the settings come to."""
    problems: tuple[tuple[str, str], ...] = ()
    """(label, text) of settings that are refused."""
    notes: tuple[str, ...] = ()
    """What is allowed but probably not meant."""
    findings: tuple[dict[str, str], ...] = ()
    """Of the check, as they come."""
    is_checking: bool = False
    outcome: str = ""
    """How the last order ended, for people."""
    is_refused: bool = False
    """Whether it ended without a run."""


class LaunchReport(Display):
    """Shows a ``LaunchState``."""

    def __init__(self, value: LaunchState, **layout: Any) -> None:
        super().__init__(_TEMPLATE, "launch_report.js", value, **layout)

    def postprocess(self, value: LaunchState | None) -> dict[str, Any] | None:  # type: ignore[override]
        """The state as JSON."""
        return None if value is None else asdict(value)


class SampleCards(Display):
    """Shows a ``Preview``; ``None`` takes no room."""

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
