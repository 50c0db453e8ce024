"""Chat model interface: chat requests in, completions out. Imports no torch.

The pipeline, labeling and evaluation use only these types, so an in-process model, a served model and a
fake in tests are interchangeable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from PIL import Image

from hart_studio.models.families import Family, PixelBudget


@dataclass(frozen=True, eq=False)
class ImageInput:
    """An image for the model. Caching is by identity: one object is encoded once, however many requests use it."""

    pixels: Image.Image
    """RGB pixels at the size chosen by the caller; the processor may still resize."""
    min_pixels: int
    """Minimum area in pixels of the model input."""
    max_pixels: int
    """Maximum area in pixels of the model input."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation; texts and images are in the order of the prompt."""

    role: Literal["user", "assistant"]
    parts: tuple[str | ImageInput, ...]


@dataclass(frozen=True)
class ChatRequest:
    """A conversation that ends with a user message."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class SamplingParams:
    """Decoding settings.

    Attributes:
        temperature: 0 is greedy.
        max_new_tokens: Token limit of one completion.
        seed: Fixes the samples of one ``generate`` call, however its requests are batched; None = a random seed.
            The global random state is never touched.
    """

    temperature: float = 0.0
    max_new_tokens: int = 512
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """One sampled answer with token counts and time."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    visual_tokens: int
    completion_tokens: int
    image_sizes_wh: tuple[tuple[int, int], ...]
    """(width, height) of each image of the request in the model's input frame, in order of appearance."""
    seconds: float
    """Wall time of the batch divided by the number of completions in it."""
    token_ids: tuple[int, ...] = ()
    """The sampled tokens, including the stop token. Training scores exactly these: ``text`` would encode to other
    tokens if special tokens were removed or the sampled split is not the tokenizer's own. Empty if the model does not
    return them."""
    token_logps: tuple[float, ...] = ()
    """Log-probability of each token among all tokens, at the sampling temperature (1 if it is 0). Empty if the model
    does not return them."""
    missing_text: str = ""
    """Why a server returned no text at all (``content: null``), which is not an empty answer; empty if it did. Such a
    turn is unscored, never wrong."""


@runtime_checkable
class WarnsAboutImageSizes(Protocol):
    """A model whose input sizes are not read from a processor in this process."""

    def image_size_warning(self) -> str:
        """Warning if boxes depend on an image size that could not be verified; otherwise empty."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A model that knows its context length, so that a prompt that is too long is refused before any computation."""

    context_tokens: int | None
    """Tokens of the longest prompt with its answer; None if the checkpoint does not state it."""

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text alone, without images and chat template."""
        ...


class ChatModel(Protocol):
    """A vision-language model that answers chat requests."""

    name: str
    """Name as given by the user: a folder, a Hub id, or a URL."""
    family: Family
    """Box frame, native box text, limits."""
    overview_budget: PixelBudget
    """Default pixel budget of the full image for this checkpoint."""
    crop_budget: PixelBudget
    """Default pixel budget of one crop for this checkpoint."""

    def generate(
        self, requests: Sequence[ChatRequest], sampling: SamplingParams, group_size: int = 1
    ) -> list[list[Completion]]:
        """Answer every request ``group_size`` times.

        Args:
            requests: Any number of conversations; the model forms batches.
            sampling: Decoding settings for all of them.
            group_size: G completions per request that share one prefill of its prompt.

        Returns:
            ``[len(requests)][group_size]`` completions, in the order of the requests.
        """
        ...
