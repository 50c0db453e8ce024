"""Pixel limits of a server's image processor: measured at the first use, or stated by the user; checked on every reply.

Boxes of some families are in pixels of the image as the model sees it, and a server does not report that size. Its
processor (``smart_resize`` of the Qwen families) leaves an image unchanged if its sides are multiples of the resize
factor and its number of visual tokens is within limits. So the limits are all that must be known: images are then
sent at a size that the server keeps (``fit_size``).

The limits are measured with gray images: with one text, ``usage.prompt_tokens`` of two images differs by the
difference of their visual tokens if and only if the server keeps both. A few requests for one token find the range.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from hart_studio.errors import ModelError
from hart_studio.models.families import Family, PixelBudget

PROBE_TEXT: Final = "."
"""Text of a measurement: one token."""

MAX_STRETCH: Final = 1.25
"""Maximum change of an image's aspect ratio to fit it into the limits of a server. Project default."""

_FIRST_SIDES: Final = (16, 32)
"""Sides, in tokens, of the two squares that most servers keep: 256 and 1,024 tokens."""
_OTHER_SIDES: Final = ((8, 16), (32, 45), (22, 32), (27, 35), (4, 8), (45, 64), (64, 90))
"""Pairs of sides that are tried next, for servers that enlarge or shrink the first two."""
_MIN_PROBE_TOKENS: Final = 16
_TEXT_TOLERANCE: Final = 4
"""Tokens by which the lower bound of a text may be wrong, for tokenizers that merge it with the chat template."""
_MESSAGE_TOKENS: Final = 16
"""Upper bound of the template tokens of one more message or image."""
_SPECIAL_TOKEN: Final = re.compile(r"<\|[^|<>]{1,40}\|>")
_WORD: Final = re.compile(r"[^\W\d_]+|\d+")

CountPromptTokens = Callable[[tuple[int, int]], int]
"""Sends a gray image of (width, height) pixels with ``PROBE_TEXT``; returns ``usage.prompt_tokens``, 0 if missing."""


@dataclass(frozen=True)
class KeptTokens:
    """Visual tokens of an image that the server keeps at its size, both ends included."""

    least: int
    most: int

    def holds(self, tokens: int) -> bool:
        """Whether an image of so many tokens keeps its size."""
        return self.least <= tokens <= self.most


def stated_limits(budget: PixelBudget, family: Family) -> KeptTokens:
    """Limits in tokens of a processor with a known budget.

    Raises:
        ModelError: If no image keeps its size.
    """
    area = family.resize_factor**2
    kept = KeptTokens(max(1, math.ceil(budget.min_pixels / area)), budget.max_pixels // area)
    if kept.least > kept.most:
        raise ModelError(
            f"No image has between {budget.min_pixels:,} and {budget.max_pixels:,} pixels (--served-pixels) and sides "
            f"of multiples of {family.resize_factor}. Give the min_pixels and max_pixels of the server."
        )
    return kept


class ServerLimits:
    """Limits of one server, measured when they are first needed. Thread-safe.

    Attributes:
        is_reported: Whether the server reports ``usage.prompt_tokens``; None before the first measurement.
    """

    def __init__(
        self, family: Family, url: str, count_prompt_tokens: CountPromptTokens, stated: PixelBudget | None = None
    ) -> None:
        """Send nothing yet.

        Args:
            family: Family with an area budget.
            url: URL of the server, for messages.
            count_prompt_tokens: Sends one measurement.
            stated: Budget of the processor as stated by the user; it is verified, not trusted.
        """
        self._family, self._url, self._count, self._stated = family, url, count_prompt_tokens, stated
        self._lock = threading.Lock()
        self._counts: dict[tuple[int, int], int] = {}
        self._overhead = 0
        self._inside: KeptTokens | None = None
        self._has_bound = [False, False]
        self.is_reported: bool | None = None

    def find(self, budget: PixelBudget) -> KeptTokens:
        """Token counts that the server keeps, as far as a budget needs them; measures what is not known yet.

        Args:
            budget: Budget of an image that will be sent, pixels.

        Raises:
            ModelError: If the server reports no usage and no limits are stated, if it contradicts the stated limits,
                or if it does not resize as its family does.
        """
        area = self._family.resize_factor**2
        least = max(_MIN_PROBE_TOKENS, budget.min_pixels // area)
        most = max(least, budget.max_pixels // area)
        with self._lock:
            if self._inside is None:
                self._inside = self._start(least, most)
            if self._stated is None:
                self._inside = self._extend(self._inside, least, most)
            return self._inside

    def forget(self) -> None:
        """Measure again before the next image: after a lost connection the server may have other settings."""
        with self._lock:
            self._counts.clear()
            self._inside, self._has_bound = None, [False, False]

    def check_reply(self, prompt_tokens: int, visual_tokens: int, images: int, texts: Sequence[str]) -> None:
        """Check the token count of a reply: the images, the chat template and the text must explain it.

        Args:
            prompt_tokens: ``usage.prompt_tokens``; 0 = not reported, nothing is checked.
            visual_tokens: Tokens of the images as sent.
            images: Number of images in the conversation.
            texts: Text of each message.

        Raises:
            ModelError: If the count is impossible.
        """
        if not prompt_tokens or not images:
            return
        template = max(0, self._overhead - 1)
        plain = [_SPECIAL_TOKEN.sub("", text) for text in texts]
        least = visual_tokens + template + sum(len(_WORD.findall(text)) for text in plain) - _TEXT_TOLERANCE
        most = visual_tokens + sum(len(text.encode("utf-8", "replace")) for text in texts) + _MESSAGE_TOKENS
        # Without a measurement, the system prompt of the template is not known.
        most += (template or 2048) + _MESSAGE_TOKENS * (len(texts) + images)
        if not least <= prompt_tokens <= most:
            verb = "shrinks" if prompt_tokens < least else "enlarges"
            raise ModelError(
                f"expected {visual_tokens} image tokens and a prompt of {least} to {most} tokens, but {self._url} "
                f"counted {prompt_tokens}: its processor {verb} images, and boxes would be wrong. State its "
                "min_pixels and max_pixels with --served-pixels, or restart the run to measure them again."
            )

    def warning(self) -> str:
        """Warning if the size of images could not be verified, in one sentence; otherwise empty."""
        if self._inside is None or self.is_reported:
            return ""
        area, kept = self._family.resize_factor**2, self._inside
        return (
            f"The server reports no usage.prompt_tokens: that it keeps images of {kept.least * area:,} to "
            f"{kept.most * area:,} pixels unchanged follows from --served-pixels and is not verified."
        )

    def _start(self, least: int, most: int) -> KeptTokens:
        """Find a first range and the tokens of the prompt without the image."""
        if self._stated is not None:
            return self._verify_stated(stated_limits(self._stated, self._family), least, most)
        for sides in (_FIRST_SIDES, *_OTHER_SIDES):
            try:
                small, large = (self._measure((side, side)) for side in sides)
            except ModelError:
                if sides in (_FIRST_SIDES, *_OTHER_SIDES[:1]):
                    raise
                continue  # larger images may exceed the context of the server
            if not self.is_reported:
                raise ModelError(
                    f"{self._url} does not report usage.prompt_tokens, and {self._family.title} writes boxes in "
                    "pixels of the image as the server resizes it. State min_pixels and max_pixels of its processor "
                    "with --served-pixels MIN MAX."
                )
            if large - small == sides[1] ** 2 - sides[0] ** 2:
                self._overhead = small - sides[0] ** 2
                return KeptTokens(sides[0] ** 2, sides[1] ** 2)
        counts = ", ".join(
            f"{columns * rows} as {count}" for (columns, rows), count in sorted(self._counts.items()) if count
        )
        raise ModelError(
            f"{self._url} does not keep images of any size as a processor of {self._family.title} does: square images "
            f"of so many visual tokens made prompts of so many tokens: {counts}. Check --served-family, raise "
            "max_pixels or lower min_pixels of the server, or state them with --served-pixels MIN MAX."
        )

    def _verify_stated(self, kept: KeptTokens, least: int, most: int) -> KeptTokens:
        """Verify limits that the user stated, as far as the budget needs them."""
        low = min(max(kept.least, least), kept.most)
        small = _strip(low, is_rounded_up=True)
        large = _strip(min(kept.most, max(most, 2 * low)), is_rounded_up=False)
        if not (kept.holds(math.prod(small)) and kept.holds(math.prod(large))):
            small = large = _nearest_grid(kept)
        first, second = self._measure(small), self._measure(large)
        if not self.is_reported:
            return kept
        if second - first != math.prod(large) - math.prod(small):
            raise ModelError(
                f"--served-pixels states that {self._url} keeps images of {kept.least} to {kept.most} visual tokens, "
                f"but two of {math.prod(small)} and {math.prod(large)} tokens made prompts of {first} and {second} "
                f"tokens, a difference of {second - first} instead of {math.prod(large) - math.prod(small)}. Correct "
                "MIN and MAX of --served-pixels, or leave the option out to measure them."
            )
        self._overhead = max(0, first - math.prod(small))
        return kept

    def _extend(self, inside: KeptTokens, least: int, most: int) -> KeptTokens:
        """Extend the known range to a budget, or to the limits of the server."""
        if most > inside.most and not self._has_bound[1]:
            found = self._search(inside.most, most)
            self._has_bound[1] = found < most - _step(most)
            inside = KeptTokens(inside.least, max(inside.most, found))
            self._check_tall(inside.most)
        if least < inside.least and not self._has_bound[0]:
            found = self._search(inside.least, least)
            self._has_bound[0] = found > least + _step(least)
            inside = KeptTokens(min(inside.least, found), inside.most)
        return inside

    def _search(self, inside: int, wanted: int) -> int:
        """Farthest number of tokens toward ``wanted`` that the server keeps; from a number that it keeps."""
        is_up = wanted > inside
        grid = _strip(wanted, is_rounded_up=not is_up)
        if self._is_kept(grid):
            return math.prod(grid)
        step = _step(max(inside, wanted))
        near, far = (inside // step, wanted // step) if is_up else (-(-inside // step), wanted // step)
        while abs(far - near) > 1:
            middle = (near + far) // 2
            near, far = (middle, far) if self._is_kept((middle, step)) else (near, middle)
        return near * step

    def _check_tall(self, tokens: int) -> None:
        """Check that a tall image is kept like a wide one.

        Raises:
            ModelError: If the server limits the height of an image in another way than its width.
        """
        columns, rows = _strip(tokens, is_rounded_up=False)
        if not self._is_kept((rows, columns)):
            factor = self._family.resize_factor
            raise ModelError(
                f"{self._url} keeps an image of {columns * factor} x {rows * factor} pixels, but made "
                f"{self._measure((rows, columns)) - self._overhead} instead of {columns * rows} visual tokens of the "
                f"same image upright: it does not resize as a processor of {self._family.title}. Check "
                "--served-family, or use another server."
            )

    def _is_kept(self, grid: tuple[int, int]) -> bool:
        try:
            return self._measure(grid) - self._overhead == math.prod(grid)
        except ModelError:  # a size that the server refuses is outside of its limits
            return False

    def _measure(self, grid: tuple[int, int]) -> int:
        """Prompt tokens with an image of ``grid`` tokens, measured once."""
        if grid not in self._counts:
            factor = self._family.resize_factor
            self._counts[grid] = self._count((grid[0] * factor, grid[1] * factor))
            self.is_reported = self._counts[grid] > 0
        return self._counts[grid]


@lru_cache(maxsize=4096)
def fit_size(size_wh: tuple[int, int], kept: KeptTokens, factor: int) -> tuple[int, int]:
    """Size near ``size_wh`` that the server keeps.

    Args:
        size_wh: (width, height) in pixels, multiples of ``factor``.
        kept: Limits of the server.
        factor: Pixels per token side.

    Returns:
        (width, height) in pixels: ``size_wh`` if the server keeps it, otherwise the size within the limits with the
        least change of aspect ratio and area.

    Raises:
        ModelError: If the aspect ratio would have to change by more than ``MAX_STRETCH``.
    """
    columns, rows = size_wh[0] // factor, size_wh[1] // factor
    if kept.holds(columns * rows):
        return size_wh
    aspect = columns / rows
    target = min(max(columns * rows, kept.least), kept.most)
    middle = math.sqrt(target * aspect)
    best, best_cost = (0, 0), math.inf
    for width in range(max(1, int(middle / 1.5)), min(kept.most, math.ceil(middle * 1.5)) + 1):
        ideal = width / aspect
        for height in {math.floor(ideal), math.ceil(ideal), -(-kept.least // width), kept.most // width}:
            if height >= 1 and kept.holds(width * height):
                stretch = abs(math.log(width / height / aspect))
                cost = stretch + abs(math.log(width * height / target)) / 2
                if stretch <= math.log(MAX_STRETCH) and cost < best_cost:
                    best, best_cost = (width, height), cost
    if best == (0, 0):
        raise ModelError(
            f"The server keeps images of {kept.least} to {kept.most} visual tokens only, and no size in this range has "
            f"the aspect ratio of an image of {columns} x {rows} tokens. Lower min_pixels or raise max_pixels of the "
            "server."
        )
    return best[0] * factor, best[1] * factor


def _step(tokens: int) -> int:
    """Rows of the strips that measure so many tokens, a power of 2; at most 32 times as many columns."""
    return max(4, 1 << max(0, math.ceil(math.log2(math.sqrt(max(1, tokens) / 32)))))


def _strip(tokens: int, *, is_rounded_up: bool) -> tuple[int, int]:
    """Grid (columns, rows) of about so many tokens."""
    rows = _step(tokens)
    return max(1, -(-tokens // rows) if is_rounded_up else tokens // rows), rows


def _nearest_grid(kept: KeptTokens) -> tuple[int, int]:
    """A grid within narrow limits."""
    for rows in range(math.isqrt(kept.most), 0, -1):
        if kept.holds(kept.most // rows * rows):
            return kept.most // rows, rows
    return kept.most, 1
