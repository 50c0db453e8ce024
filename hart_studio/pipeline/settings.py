"""Settings of the closed loop; the only place that defines their defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from hart_studio.errors import InputError
from hart_studio.models.chat import SamplingParams
from hart_studio.records import Record

GROUNDING_SEED_OFFSET: Final = 2**32
"""Distance between the seeds of the two turns; larger than every seed, so that two runs never share a random stream."""

MAX_PIXELS: Final = 100_000_000
"""Maximum budget, as in the settings of a run. Not from the paper."""


class LoopSettings(Record):
    """Settings of grounding, cropping and decoding. Not from the paper."""

    overview_max_pixels: int | None = Field(default=None, ge=28 * 28, le=MAX_PIXELS)
    """Maximum area of the overview I_f in pixels. Empty (None) = the model's default. Not from the paper."""
    crop_max_pixels: int | None = Field(default=None, ge=28 * 28, le=MAX_PIXELS)
    """Maximum area of one crop in the model input, pixels. Empty (None) = the model's default. Not from the paper."""
    padding: float = Field(default=0.0, ge=0.0, le=1.0)
    """Margin on each side of a box, as a share of its width or height. Not from the paper."""
    min_side: int = Field(default=28, ge=1, le=100_000)
    """Minimum side of a crop in original pixels; a smaller box grows around its center. A family may require more.
    Not from the paper."""
    max_aspect: float = Field(default=20.0, gt=1.0)
    """Maximum aspect ratio of a crop; a thinner box grows. A family may require less. Not from the paper."""
    max_boxes: int = Field(default=4, ge=1, le=1024)
    """Maximum number of crops per rollout, in output order. A family may allow fewer. Not from the paper."""
    temperature: float = Field(default=0.0, ge=0.0)
    """Sampling temperature of both turns; 0 is greedy. Not from the paper."""
    max_new_tokens: int = Field(default=512, ge=1, le=1_000_000)
    """Token limit of each turn. Not from the paper."""
    seed: int | None = Field(default=None, ge=0, lt=GROUNDING_SEED_OFFSET)
    """Random seed; None = a random seed for each turn. Not from the paper."""
    fallback: Literal["none", "direct"] = "none"
    """Behavior without a valid box: end the rollout with r = 0, or answer from the full image and record it in
    ``Rollout.used_fallback``. Not used in training: the model could answer from the full image and would
    not be rewarded for its boxes (docs/concept.md, Closed loop). Not from the paper."""

    @property
    def sampling(self) -> SamplingParams:
        """Decoding settings of an answer turn."""
        return SamplingParams(temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=self.seed)

    @property
    def grounding_sampling(self) -> SamplingParams:
        """Decoding settings of the grounding turn: the same, with a different random stream.

        With the same random numbers in both turns, answer and boxes would be correlated by chance, and their
        dependence is what the method measures (paper, Proposition 1).
        """
        seed = None if self.seed is None else self.seed + GROUNDING_SEED_OFFSET
        return replace(self.sampling, seed=seed)


def read_settings(**values: Any) -> LoopSettings:
    """Build settings from user input.

    Args:
        **values: Fields of ``LoopSettings``; the others keep their defaults.

    Raises:
        InputError: If a value is out of range, of a wrong type, or the setting is unknown.
    """
    try:
        return LoopSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"the setting {first['loc'][0]} is {first['input']!r}: {first['msg']}") from error
