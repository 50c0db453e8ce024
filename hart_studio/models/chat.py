"""What the pipeline asks of a model: chat requests in, completions out. No torch here.

The pipeline, labeling and evaluation know only these types, so an in-process model, a served one and a
test's fake are interchangeable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from PIL import Image

from hart_studio.models.families import Family, PixelBudget


@dataclass(frozen=True, eq=False)
class ImageInput:
    """An image for the model. Identity matters: one object is encoded once, however many requests show it."""

    pixels: Image.Image
    """RGB pixels, already at the size the caller wants to show; the processor may still resize."""
    min_pixels: int
    """Least area in pixels that the processor may feed the model."""
    max_pixels: int
    """Greatest area in pixels that the processor may feed the model."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation; images stand between texts, exactly where the prompt puts them."""

    role: Literal["user", "assistant"]
    parts: tuple[str | ImageInput, ...]


@dataclass(frozen=True)
class ChatRequest:
    """A conversation that ends with a user message and wants an answer."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class SamplingParams:
    """How to decode.

    Attributes:
        temperature: 0 is greedy.
        max_new_tokens: Token limit of one completion.
        seed: Fixes the samples of one ``generate`` call, however its requests are batched; None draws a fresh seed.
            The global random state is never touched.
    """

    temperature: float = 0.0
    max_new_tokens: int = 512
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """One sampled answer and what it cost."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    visual_tokens: int
    completion_tokens: int
    image_sizes_wh: tuple[tuple[int, int], ...]
    """(width, height) of each image of the request in the model's input frame, in order of appearance."""
    seconds: float
    """Wall time of the batch divided by the completions in it."""
    token_ids: tuple[int, ...] = ()
    """The sampled tokens, with the one that ended the answer; training scores exactly these, because ``text`` encodes
    to other tokens when special ones were removed or the sampled split is not the tokenizer's own. Empty when the model
    does not tell."""


@runtime_checkable
class CountsTokens(Protocol):
    """A model that knows its context, so that a prompt that does not fit is refused before anything is computed."""

    context_tokens: int | None
    """Tokens of the longest prompt with its answer; None if the checkpoint does not state it."""

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text alone, without images and chat template."""
        ...


class ChatModel(Protocol):
    """A model that can be asked."""

    name: str
    """What the user typed: a folder, a hub id, or a URL."""
    family: Family
    """Box frame, native box text, traps."""
    overview_budget: PixelBudget
    """Default budget of the full image for this very checkpoint."""
    crop_budget: PixelBudget
    """Default budget of one crop for this very checkpoint."""

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        """Answer every request ``group_size`` times.

        Args:
            requests: Any number of conversations; the model batches them.
            sampling: Decoding settings for all of them.
            group_size: G completions per request that share one prefill of its prompt.

        Returns:
            ``[len(requests)][group_size]`` completions, in the order of the requests.
        """
        ...
