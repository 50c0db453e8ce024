"""Answer cards side by side, one per protocol, under the self-check badges."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from hart_studio.ui.components.display import Display

_TEMPLATE: Final = '<section class="hs-answers" aria-label="Answers" aria-live="polite"></section>'


@dataclass(frozen=True)
class SelfCheckBadge:
    """One self-check as a badge."""

    name: str
    value: str
    state: Literal["good", "bad", "neutral"]
    help: str
    """Tooltip that explains the check."""


@dataclass(frozen=True)
class TranscriptTurn:
    """One turn's raw text."""

    title: str
    text: str
    """Untrusted model output."""


@dataclass(frozen=True)
class AnswerCard:
    """One protocol's answer."""

    protocol: str
    title: str
    subtitle: str
    letter: str
    """The option letter, or empty for an open question or no answer."""
    answer: str
    """Text of the option or the extracted text; empty if none could be parsed."""
    verdict: Literal["right", "unproven", "wrong", ""]
    """``unproven``: right, but possibly by guessing. Empty without a known answer."""
    verdict_text: str
    """The verdict in words, with the chance of guessing it."""
    note: str
    """Caveat of this answer: a fallback, a truncated output, an error."""
    visual_tokens: int
    seconds: float
    turns: tuple[TranscriptTurn, ...]
    is_primary: bool
    """Whether this is the highlighted card, crops only."""


@dataclass(frozen=True)
class AnswersPanel:
    """All answers of one model."""

    model: str
    expected: str
    """The known answer as text, or empty."""
    checks: tuple[SelfCheckBadge, ...]
    cards: tuple[AnswerCard, ...]
    warnings: tuple[str, ...] = ()
    """Why the answers may be meaningless; shown above them."""


class AnswerCards(Display):
    """Shows an ``AnswersPanel``; ``None`` draws nothing."""

    def __init__(self, **layout: Any) -> None:
        super().__init__(_TEMPLATE, "answer_cards.js", **layout)

    def postprocess(self, value: AnswersPanel | None) -> dict[str, Any] | None:  # type: ignore[override]
        """The panel as JSON."""
        return None if value is None else asdict(value)
