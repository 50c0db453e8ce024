"""Core data model: frozen, validated records, exchanged as JSON.

Frame rule: a ``Box`` is ALWAYS in float pixels of the original, EXIF-upright image. Coordinates of
the overview or of a model's own frame exist only inside ``geometry`` and ``models.families``.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from hart_studio.files import to_printable
from hart_studio.prompts import OPTION_LETTERS

Protocol = Literal["direct", "crops_only", "full_and_crops"]
"""Input of the answer turn: full image, crops with the image withheld, or both."""

Outcome = Literal["ok", "no_box", "bad_box", "truncated", "error"]
"""How a rollout ended. ``bad_box``: coordinates were written but none is valid. ``truncated``: a turn hit its
token limit. ``error``: the sample failed; the reason is in ``Rollout.error``."""

MAX_QUESTION_CHARS: Final = 20_000
"""Maximum number of characters of a question with its choices and answer. Project default."""

PROTOCOLS: tuple[Protocol, ...] = ("crops_only", "direct", "full_and_crops")


class Record(BaseModel):
    """Base of frozen records; unknown keys and non-finite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Box(Record):
    """A rectangle in float pixels of the ORIGINAL upright image; ``max`` edges are exclusive."""

    x_min: float
    """Left edge, pixels."""
    y_min: float
    """Top edge, pixels."""
    x_max: float
    """Right edge, pixels; greater than ``x_min``."""
    y_max: float
    """Bottom edge, pixels; greater than ``y_min``."""
    label: str = ""
    """Label by the model or the annotator. Plain text, never HTML."""
    score: float | None = None
    """Confidence in [0, 1], if known."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not (self.x_max > self.x_min and self.y_max > self.y_min):
            raise ValueError(
                "expected x_min < x_max and y_min < y_max, got "
                f"[{self.x_min:g}, {self.y_min:g}, {self.x_max:g}, {self.y_max:g}]"
            )
        return self

    @classmethod
    def from_xyxy(cls, xyxy: tuple[float, float, float, float], label: str = "", score: float | None = None) -> Box:
        """Build a box from ``(x_min, y_min, x_max, y_max)`` in original pixels."""
        x_min, y_min, x_max, y_max = xyxy
        return cls(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max, label=label, score=score)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """``(x_min, y_min, x_max, y_max)`` in original pixels."""
        return (self.x_min, self.y_min, self.x_max, self.y_max)

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.x_max - self.x_min

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.y_max - self.y_min

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.width * self.height


class Sample(Record):
    """A question about one image, for the closed loop and the trainer: no pixels and NO gold boxes."""

    id: str
    """Unique within its source."""
    image: str
    """Path of the image."""
    question: str
    """The question, without its choices."""
    choices: tuple[str, ...] = ()
    """Texts of the options without letters; empty for an open question. At most 26."""
    answer: str | None = None
    """Letter of the option if there are choices, otherwise the expected text; None if unknown."""
    category: str = ""
    """Category of the question, for metrics per category."""
    source: Annotated[str, AfterValidator(to_printable)] = ""
    """Dataset name; bytes that are not UTF-8 are escaped."""
    label_boxes: tuple[Box, ...] = ()
    """Boxes of an accepted label, original pixels, used only for SFT on grounded answers. Made by the closed loop and
    by reviewers; never the gold boxes of a benchmark, which only ``GoldSample`` holds. Project default."""

    @field_validator("question")
    @classmethod
    def _check_question(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected a question, got empty text")
        if len(value) > MAX_QUESTION_CHARS:
            raise ValueError(f"expected at most {MAX_QUESTION_CHARS:,} characters, got {len(value):,}")
        return value

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if any("\0" in text for text in (self.question, *self.choices, self.answer or "")):
            raise ValueError("expected text, got a NUL character in the question, a choice or the answer")
        size = sum(map(len, (self.question, *self.choices, self.answer or "")))
        if size > MAX_QUESTION_CHARS:
            raise ValueError(
                f"expected at most {MAX_QUESTION_CHARS:,} characters of question, choices and answer, got {size:,}"
            )
        if len(self.choices) == 1 or len(self.choices) > 26:
            raise ValueError(f"expected no choices or 2 to 26 of them, got {len(self.choices)}")
        if any(not choice.strip() for choice in self.choices):
            raise ValueError("expected every choice to have text, got an empty one")
        if self.choices and self.answer is not None and self.answer not in tuple(self.letters):
            raise ValueError(f"expected the answer to be one of the letters {self.letters}, got {self.answer!r}")
        if self.answer is not None and not self.answer.strip():
            raise ValueError("expected an answer or None, got empty text")
        return self

    @property
    def letters(self) -> str:
        """The option letters in order, ``"ABCD"`` for four choices; empty for an open question."""
        return OPTION_LETTERS[: len(self.choices)]


class GoldSample(Sample):
    """A sample with gold boxes. ``data`` and ``needle`` create it, only ``evaluation`` reads it."""

    gold_boxes: tuple[Box, ...]
    """Gold regions in original pixels, for evaluation only."""

    def without_gold_boxes(self) -> Sample:
        """The same sample without gold boxes: accessing them on the result raises ``AttributeError``."""
        return Sample(**self.model_dump(exclude={"gold_boxes"}))


class Turn(Record):
    """One model call: prompt, images and output."""

    kind: Literal["grounding", "answer"]
    """Which turn of the closed loop."""
    prompt: str
    """User text; each image is ``<image>``."""
    image_sizes_wh: tuple[tuple[int, int], ...]
    """(width, height) of each image in the model's input frame, read from the output of the processor."""
    text: str
    """The model's raw text, special tokens removed. Untrusted: display as text, never as HTML."""
    finish_reason: Literal["stop", "length"]
    """``length``: stopped by the token limit."""
    prompt_tokens: int = Field(ge=0)
    """Prompt tokens, including image placeholders."""
    visual_tokens: int = Field(ge=0)
    """Image placeholders among ``prompt_tokens``."""
    completion_tokens: int = Field(ge=0)
    """Generated tokens."""
    seconds: float = Field(ge=0)
    """Wall time of the batch divided by the number of turns in it."""


class Score(Record):
    """Score of an answer, with the evidence to audit it."""

    value: float | None
    """1.0 right, 0.0 wrong, None = could not be scored (no known answer). Never NaN."""
    extracted: str | None
    """Extracted answer: a letter or the normalized text; None if extraction failed."""
    expected: str | None
    """The correct answer, or None if unknown."""
    rule: str
    """Name of the extraction rule that matched, or ``none``."""


class Rollout(Record):
    """One pass of the closed loop over one sample."""

    sample_id: str
    """The sample."""
    protocol: Protocol
    """Requested protocol of the answer turn."""
    turns: tuple[Turn, ...] = ()
    """One or two turns, in order."""
    boxes: tuple[Box, ...] = ()
    """Predicted regions as parsed: original pixels, clipped to the image, in output order."""
    crops: tuple[Box, ...] = ()
    """Regions as cropped (after padding, growing, merging, limiting); whole pixels of the original."""
    outcome: Outcome
    """How it ended."""
    used_fallback: bool = False
    """True if no box was valid and ``fallback="direct"`` was set: the answer is not from crops only."""
    score: Score
    """Score of the answer."""
    error: str = ""
    """Reason, if the outcome is ``error``."""

    @property
    def answer_turn(self) -> Turn | None:
        """The answer turn, or None if it did not run."""
        return next((turn for turn in reversed(self.turns) if turn.kind == "answer"), None)

    @property
    def grounding_turn(self) -> Turn | None:
        """The grounding turn, or None for ``direct``."""
        return next((turn for turn in self.turns if turn.kind == "grounding"), None)

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of all turns; an image in two turns counts twice."""
        return sum(turn.visual_tokens for turn in self.turns)

    @property
    def seconds(self) -> float:
        """Wall time of all turns."""
        return sum(turn.seconds for turn in self.turns)


class Credit(Record):
    """Weights of one rollout in the loss (Eq. 4 to 6), computed by ``algorithms.credit``."""

    advantage: float
    """Group-relative advantage A_i (Eq. 1)."""
    policy_weight: float = Field(ge=0)
    """mu1 of Eq. 5, factor of the policy term; 1 without preference, 0 for a rollout that could not be scored."""
    kl_weight: float = Field(ge=0)
    """mu2 of Eq. 6, factor of the KL term; beta without preference, 0 for a rollout that could not be scored."""


class RolloutGroup(Record):
    """G rollouts of one sample under one protocol: one JSONL line of a run."""

    sample_id: str
    """The sample."""
    protocol: Protocol
    """Protocol of every rollout in the group."""
    rollouts: tuple[Rollout, ...]
    """The rollouts, in sampling order."""
    credits: tuple[Credit, ...] = ()
    """One per rollout, in the same order; empty outside training."""

    @model_validator(mode="after")
    def _check_members(self) -> Self:
        if self.credits and len(self.credits) != len(self.rollouts):
            raise ValueError(
                f"expected one credit per rollout or none, got {len(self.credits)} for {len(self.rollouts)}"
            )
        for rollout in self.rollouts:
            if (rollout.sample_id, rollout.protocol) != (self.sample_id, self.protocol):
                raise ValueError(
                    f"expected rollouts of {self.sample_id!r} under {self.protocol}, "
                    f"got {rollout.sample_id!r} under {rollout.protocol}"
                )
        return self


def is_finite_xyxy(values: tuple[float, ...]) -> bool:
    """Whether four numbers are finite and in order."""
    return (
        len(values) == 4
        and all(math.isfinite(value) for value in values)
        and values[2] > values[0]
        and values[3] > values[1]
    )
