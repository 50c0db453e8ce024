"""The settings of one pass of the loop, and the only place where their defaults are written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from hart_studio.errors import InputError
from hart_studio.models.chat import SamplingParams
from hart_studio.records import Record

GROUNDING_SEED_OFFSET: Final = 2**32
"""Distance between the seeds of the two turns; beyond every seed, so that no two runs share a stream by accident."""

MAX_PIXELS: Final = 100_000_000
"""Greatest budget that can be set, as in the settings of a run. Project default."""


class LoopSettings(Record):
    """How the loop looks, cuts and decodes. Every default is ours: the paper states none of these values."""

    overview_max_pixels: int | None = Field(default=None, ge=28 * 28, le=MAX_PIXELS)
    """Greatest area of the overview I_f in pixels; None = the model's own budget. Project default."""
    crop_max_pixels: int | None = Field(default=None, ge=28 * 28, le=MAX_PIXELS)
    """Greatest area in pixels at which the model reads one crop; None = the model's own budget. Project default."""
    padding: float = Field(default=0.0, ge=0.0, le=1.0)
    """Margin added to every side of a box, as a share of that box's width or height. Project default."""
    min_side: int = Field(default=28, ge=1, le=100_000)
    """Least side of a crop in original pixels; a smaller box grows around its center (project default). A family may ask more."""
    max_aspect: float = Field(default=20.0, gt=1.0)
    """Greatest ratio of a crop's sides; a thinner box grows (project default). A family may ask less."""
    max_boxes: int = Field(default=4, ge=1, le=1024)
    """Crops per rollout, in the order of the output (project default). A family may allow fewer."""
    temperature: float = Field(default=0.0, ge=0.0)
    """Sampling temperature of both turns; 0 is greedy. Project default."""
    max_new_tokens: int = Field(default=512, ge=1, le=1_000_000)
    """Token limit of each turn. Project default."""
    seed: int | None = Field(default=None, ge=0, lt=GROUNDING_SEED_OFFSET)
    """Makes sampling repeatable; None draws a fresh seed for each turn. Project default."""
    fallback: Literal["none", "direct"] = "none"
    """What to do without a usable box (project default): end the rollout with r = 0, or answer from the full image and say so
    (``Rollout.used_fallback``). Never ``direct`` while training: it reopens the leak that withholding the image
    closes (method, Sec. 2)."""

    @property
    def sampling(self) -> SamplingParams:
        """Decoding settings of an answer turn."""
        return SamplingParams(temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=self.seed)

    @property
    def grounding_sampling(self) -> SamplingParams:
        """Decoding settings of the grounding turn: the same, with random numbers of its own.

        A rollout whose two turns drew the same numbers would tie its answer to its boxes by chance alone, and the
        dependence of the two is what the method measures (method, Sec. 5, Proposition 1).
        """
        seed = None if self.seed is None else self.seed + GROUNDING_SEED_OFFSET
        return replace(self.sampling, seed=seed)


def read_settings(**values: Any) -> LoopSettings:
    """Settings from what a person typed.

    Args:
        **values: Fields of ``LoopSettings``; the others keep their defaults.

    Raises:
        InputError: If a value is out of range, of a wrong type, or of no known setting.
    """
    try:
        return LoopSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"the setting {first['loc'][0]} is {first['input']!r}: {first['msg']}") from error
