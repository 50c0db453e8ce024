"""Training sequences: tokens with images.

A HART rollout is two sequences, (I_f, q) -> boxes and (I_s, q) -> answer. A GRPO rollout is one. An MGPO rollout is one
sequence of two turns whose second image is inside the completion, unless the prompt of its second turn does not contain
the sampled tokens of the first turn: then it is two sequences, so that every token is scored with its actual prompt
(``two_turn_sequences``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hart_studio.models.features import EncodedImage
from hart_studio.models.inputs import ProcessedImage

IGNORED: Final = -100
"""Label of a token that is not trained."""

VisionInput = EncodedImage | ProcessedImage
"""An image with known features, or its pixels if the vision tower is trained too. Caching is by identity: sequences
that hold the same object share its encoding."""

TrainedTurns = Literal["both", "grounding", "answer"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """Input of the model before its output.

    Attributes:
        ids: Token ids with image placeholders; the last one is text, as in all chat templates.
        images: The images in the order of their placeholders.
    """

    ids: tuple[int, ...]
    images: tuple[VisionInput, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingSequence:
    """One sequence: a prompt and its completion.

    Sequences with equal prompt tokens and the same image objects form a group and share the prompt when they are
    packed.

    Attributes:
        prompt: The prompt.
        completion_ids: Tokens after the prompt, including the stop token; may be empty.
        is_trained: One flag per token of the completion: False for tokens that the model did not generate.
        completion_images: Images with placeholders in the completion, in order; its last token is text.
        sampled_logps: Log-probabilities under the sampler, one per trained token; empty if unknown.
    """

    prompt: Prompt
    completion_ids: tuple[int, ...]
    is_trained: tuple[bool, ...]
    completion_images: tuple[VisionInput, ...] = ()
    sampled_logps: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompt.ids:
            raise ValueError("expected a prompt of at least one token, got none")
        if len(self.is_trained) != len(self.completion_ids):
            raise ValueError(
                f"expected one flag per token of the completion, got {len(self.is_trained)} flags for "
                f"{len(self.completion_ids)} tokens"
            )
        if self.sampled_logps and len(self.sampled_logps) != self.trained_count:
            raise ValueError(
                f"expected one log-probability per trained token, got {len(self.sampled_logps)} for "
                f"{self.trained_count} tokens"
            )

    @property
    def ids(self) -> tuple[int, ...]:
        """The whole sequence."""
        return self.prompt.ids + self.completion_ids

    @property
    def images(self) -> tuple[VisionInput, ...]:
        """All images in the order of their placeholders."""
        return self.prompt.images + self.completion_images

    @property
    def labels(self) -> list[int]:
        """The completion, with ``IGNORED`` for untrained tokens."""
        return [
            token if trained else IGNORED for token, trained in zip(self.completion_ids, self.is_trained, strict=True)
        ]

    @property
    def trained_count(self) -> int:
        """Number of trained tokens, which is the number of log-probabilities."""
        return sum(self.is_trained)


def turn_sequence(
    prompt: Prompt, completion_ids: Sequence[int], sampled_logps: Sequence[float] = ()
) -> TrainingSequence:
    """Build the sequence of one turn.

    Args:
        prompt: The prompt.
        completion_ids: The sampled tokens (``Completion.token_ids``).
        sampled_logps: Their log-probabilities (``Completion.token_logps``).
    """
    is_trained = (True,) * len(completion_ids)
    return TrainingSequence(prompt, tuple(completion_ids), is_trained, sampled_logps=tuple(sampled_logps))


def two_turn_sequences(
    first: Prompt,
    first_ids: Sequence[int],
    second: Prompt,
    second_ids: Sequence[int],
    trained_turns: TrainedTurns = "both",
    *,
    first_logps: Sequence[float] = (),
    second_logps: Sequence[float] = (),
) -> tuple[TrainingSequence, ...]:
    """Build the sequences of a conversation of two turns, as in MGPO (docs/concept.md, AP-GRPO).

    One sequence if the prompt of the second turn starts with the tokens of the first turn, the sampled completion, and
    the same image objects. This may not hold: the prompt of the second turn is rendered from text, which may encode to
    other tokens than were sampled, and LLaVA-OneVision processes the first image differently if there are several. Then
    each turn is a sequence with its actual prompt.

    Args:
        first: Prompt of the grounding turn.
        first_ids: The sampled tokens.
        second: Prompt of the answer turn: the whole conversation up to the answer.
        second_ids: The sampled tokens.
        trained_turns: Turns whose tokens are trained.
        first_logps: Log-probabilities of ``first_ids`` under the sampler; empty if unknown.
        second_logps: The same for ``second_ids``.

    Returns:
        One sequence or one per turn; never a sequence without a trained turn.
    """
    first_turn = first.ids + tuple(first_ids)
    shown = len(first.images)
    has_same_start = second.ids[: len(first_turn)] == first_turn and all(
        one is other for one, other in zip(first.images, second.images[:shown], strict=True)
    )
    if trained_turns == "grounding":
        return (turn_sequence(first, first_ids, first_logps),)
    if not has_same_start:
        answer = turn_sequence(second, second_ids, second_logps)
        return (answer,) if trained_turns == "answer" else (turn_sequence(first, first_ids, first_logps), answer)
    between = second.ids[len(first_turn) :]
    is_trained = (trained_turns == "both",) * len(first_ids) + (False,) * len(between) + (True,) * len(second_ids)
    completion_ids = (*first_ids, *between, *second_ids)
    logps = (*(first_logps if trained_turns == "both" else ()), *second_logps)
    return (TrainingSequence(first, completion_ids, is_trained, second.images[shown:], logps),)
