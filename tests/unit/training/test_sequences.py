"""Training sequences: prompt, completion, trained tokens."""

from __future__ import annotations

import pytest
import torch

from hart_studio.models.inputs import ProcessedImage
from hart_studio.training.sequences import IGNORED, Prompt, TrainingSequence, turn_sequence, two_turn_sequences


def make_image() -> ProcessedImage:
    return ProcessedImage({"pixel_values": torch.zeros(1, 3)}, [9], 1, (28, 28))


OVERVIEW, CROP = make_image(), make_image()
FIRST = Prompt((1, 9, 2), (OVERVIEW,))
SECOND = Prompt((1, 9, 2, 10, 11, 3, 9, 4), (OVERVIEW, CROP))


def test_every_token_of_a_turn_is_trained() -> None:
    sequence = turn_sequence(FIRST, [10, 11])
    assert (sequence.ids, sequence.labels, sequence.trained_count) == ((1, 9, 2, 10, 11), [10, 11], 2)
    assert sequence.images == (OVERVIEW,)


def test_a_turn_may_say_nothing() -> None:
    sequence = turn_sequence(FIRST, [])
    assert (sequence.labels, sequence.trained_count) == ([], 0)


def test_two_turns_are_one_sequence_with_the_crop_inside() -> None:
    (sequence,) = two_turn_sequences(FIRST, [10, 11], SECOND, [12, 13])
    assert sequence.prompt is FIRST
    assert sequence.ids == (1, 9, 2, 10, 11, 3, 9, 4, 12, 13)
    assert sequence.labels == [10, 11, IGNORED, IGNORED, IGNORED, 12, 13]
    assert sequence.images == (OVERVIEW, CROP)
    assert sequence.completion_images == (CROP,)


def test_one_turn_can_be_left_out_of_training() -> None:
    (grounding,) = two_turn_sequences(FIRST, [10, 11], SECOND, [12], "grounding")
    assert (grounding.ids, grounding.labels) == ((1, 9, 2, 10, 11), [10, 11])
    (answer,) = two_turn_sequences(FIRST, [10, 11], SECOND, [12], "answer")
    assert answer.ids == (1, 9, 2, 10, 11, 3, 9, 4, 12)
    assert answer.labels == [IGNORED] * 5 + [12]


@pytest.mark.parametrize(
    ("said", "second"),
    [
        ((10, 99), SECOND),  # the text of the answer encodes to other tokens than were sampled
        ((10, 11), Prompt(SECOND.ids, (make_image(), CROP))),  # the overview is read in another way
        ((10, 11, 3, 9, 4, 5), SECOND),  # more was said than the second prompt shows
    ],
)
def test_turns_with_different_beginnings_are_scored_each_after_its_own_prompt(
    said: tuple[int, ...], second: Prompt
) -> None:
    grounding, answer = two_turn_sequences(FIRST, said, second, [12, 13])
    assert (grounding.prompt, grounding.completion_ids) == (FIRST, said)
    assert (answer.prompt, answer.completion_ids) == (second, (12, 13))
    assert all(grounding.is_trained) and all(answer.is_trained)
    (only,) = two_turn_sequences(FIRST, said, second, [12, 13], "answer")
    assert only.prompt is second


def test_a_second_prompt_with_fewer_images_is_another_conversation() -> None:
    assert len(two_turn_sequences(FIRST, [10], Prompt((1, 2)), [12])) == 2


def test_impossible_items() -> None:
    with pytest.raises(ValueError, match="prompt of at least one token"):
        turn_sequence(Prompt(()), [1])
    with pytest.raises(ValueError, match="got 1 flags for 2 tokens"):
        TrainingSequence(FIRST, (1, 2), (True,))
