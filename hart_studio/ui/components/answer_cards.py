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
    """What the check means, in plain language."""


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
    """The option's or the extracted text; empty when nothing could be read."""
    verdict: Literal["right", "unproven", "wrong", ""]
    """``unproven``: right, which alone proves little. Empty when the known answer is not given."""
    verdict_text: str
    """The verdict in words, with the chance of guessing it."""
    note: str
    """What a reader must know about this answer: a fallback, a cut-off text, an error."""
    visual_tokens: int
    seconds: float
    turns: tuple[TranscriptTurn, ...]
    is_primary: bool
    """The card that the page is about: crops only."""


@dataclass(frozen=True)
class AnswersPanel:
    """All answers of one model."""

    model: str
    expected: str
    """The known answer as text, or empty."""
    checks: tuple[SelfCheckBadge, ...]
    cards: tuple[AnswerCard, ...]
    warnings: tuple[str, ...] = ()
    """Why the answers may mean nothing; shown above them."""


class AnswerCards(Display):
    """Shows an ``AnswersPanel``; ``None`` draws nothing."""

    def __init__(self, **layout: Any) -> None:
        super().__init__(_TEMPLATE, "answer_cards.js", **layout)

    def postprocess(self, value: AnswersPanel | None) -> dict[str, Any] | None:  # type: ignore[override]
        """The board as JSON."""
        return None if value is None else asdict(value)
