"""What is trained on: token sequences with their images, one sequence per sequence.

A HART rollout is two sequences, (I_f, q) -> boxes and (I_s, q) -> answer. A GRPO rollout is one. An MGPO rollout is one
sequence of two turns whose second image stands inside the completion, unless its second turn was not shown the first
turn's very tokens: then it is two sequences, so that every token is scored after what the model really saw
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
"""An image whose features are known, or its pixels when the vision tower is trained too. Identity matters: sequences
that
hold the same object share one encoding of it."""

TrainedTurns = Literal["both", "grounding", "answer"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the model is shown before it speaks.

    Attributes:
        ids: Token ids with every image's placeholders; the last one is text, as every chat template ends.
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
        prompt: What was shown.
        completion_ids: What follows, the token that ended the answer included; may be empty.
        is_trained: One flag per token of the completion: False for what the model did not say itself.
        completion_images: Images whose placeholders stand in the completion, in order; its last token is text.
    """

    prompt: Prompt
    completion_ids: tuple[int, ...]
    is_trained: tuple[bool, ...]
    completion_images: tuple[VisionInput, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompt.ids:
            raise ValueError("expected a prompt of at least one token, got none; the answer needs something before it")
        if len(self.is_trained) != len(self.completion_ids):
            raise ValueError(
                f"expected one flag per token of the completion, got {len(self.is_trained)} flags for "
                f"{len(self.completion_ids)} tokens"
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
        """The completion with ``IGNORED`` for what is not trained."""
        return [
            token if trained else IGNORED for token, trained in zip(self.completion_ids, self.is_trained, strict=True)
        ]

    @property
    def trained_count(self) -> int:
        """Trained tokens, that is log-probabilities that scoring gives."""
        return sum(self.is_trained)


def turn_sequence(prompt: Prompt, completion_ids: Sequence[int]) -> TrainingSequence:
    """The sequence of one turn.

    Args:
        prompt: What was shown.
        completion_ids: The sampled tokens (``Completion.token_ids``).
    """
    return TrainingSequence(prompt, tuple(completion_ids), (True,) * len(completion_ids))


def two_turn_sequences(
    first: Prompt,
    first_ids: Sequence[int],
    second: Prompt,
    second_ids: Sequence[int],
    trained_turns: TrainedTurns = "both",
) -> tuple[TrainingSequence, ...]:
    """The sequences of a conversation of two turns, as MGPO has them (method, Sec. 3).

    One sequence when the second turn's prompt begins with the first one's tokens, the completion as sampled, and the
    same
    image objects. It need not: the prompt of the second turn is rendered from text, which may encode to other tokens
    than were sampled, and LLaVA-OneVision reads the first image in another way once there are several. Then each turn
    is a sequence with the prompt that it really had.

    Args:
        first: Prompt of the grounding turn.
        first_ids: Its sampled tokens.
        second: Prompt of the answer turn: the whole conversation up to the answer.
        second_ids: Its sampled tokens.
        trained_turns: Whose tokens are trained.

    Returns:
        One sequence or one per turn; never a sequence without a trained turn.
    """
    said = first.ids + tuple(first_ids)
    shown = len(first.images)
    has_same_start = second.ids[: len(said)] == said and all(
        one is other for one, other in zip(first.images, second.images[:shown], strict=True)
    )
    if trained_turns == "grounding":
        return (turn_sequence(first, first_ids),)
    if not has_same_start:
        answer = turn_sequence(second, second_ids)
        return (answer,) if trained_turns == "answer" else (turn_sequence(first, first_ids), answer)
    between = second.ids[len(said) :]
    is_trained = (trained_turns == "both",) * len(first_ids) + (False,) * len(between) + (True,) * len(second_ids)
    completion_ids = (*first_ids, *between, *second_ids)
    return (TrainingSequence(first, completion_ids, is_trained, second.images[shown:]),)
