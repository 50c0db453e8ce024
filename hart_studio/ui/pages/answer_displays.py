"""Displays of one answer on the Ask tab: the image with its regions, the model inputs, and the answer cards.

Coordinates are pixels of the ORIGINAL upright image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hart_studio.records import Box
from hart_studio.ui.pages.display import Display


@dataclass(frozen=True)
class ImageCopy:
    """A scaled copy of an image for the page."""

    path: Path
    width: int
    """Pixels; the height follows from the image's aspect ratio."""


@dataclass(frozen=True)
class ViewerImage:
    """An image and its predicted regions."""

    name: str
    width: int
    """Pixels of the ORIGINAL upright image."""
    height: int
    """Pixels of the ORIGINAL upright image."""
    preview: ImageCopy
    """Shown first."""
    detail: ImageCopy
    """Swapped in when the viewer zooms past the preview's resolution."""
    boxes: tuple[Box, ...] = ()
    """Predicted regions, numbered in this order."""
    crops: tuple[Box, ...] = ()
    """Cropped regions, drawn as thin outlines."""


class BoxViewer(Display):
    """Shows a ``ViewerImage`` with numbered boxes: zoom, pan, keyboard; ``None`` is the empty state."""

    template = "box_viewer.html"
    scripts = ("image_viewer.js", "box_viewer.js")


@dataclass(frozen=True)
class Overview:
    """The down-sampled image of the grounding turn."""

    path: Path
    width: int
    """Pixels after the model's image processor."""
    height: int
    """Pixels after the model's image processor."""


@dataclass(frozen=True)
class Crop:
    """One region cut from the original, not resized."""

    path: Path
    area: Box
    """Cropped rectangle, original pixels."""


@dataclass(frozen=True)
class ModelInputs:
    """All images the model got for one question."""

    original_wh: tuple[int, int]
    """(width, height) of the original image, pixels."""
    overview: Overview
    crops: tuple[Crop, ...]
    no_crops_reason: str = ""
    """Shown if there is no crop."""


class CropStrip(Display):
    """Shows ``ModelInputs``: the overview at its real size and the crops at native resolution."""

    template = '<section class="hs-model-inputs" aria-label="Model inputs"></section>'
    scripts = ("crop_strip.js",)


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
    """Shows an ``AnswersPanel``: answer cards side by side, one per protocol, under the self-check badges."""

    template = '<section class="hs-answers" aria-label="Answers" aria-live="polite"></section>'
    scripts = ("answer_cards.js",)
