"""Evidence of a right answer."""

from __future__ import annotations

import pytest

from hart_studio.pipeline.guessing import describe_correct_answer, guess_probability


@pytest.mark.parametrize(
    ("options", "necessity", "text", "is_proof"),
    [
        (4, None, "Correct from the crop (25 % by random guess)", False),
        (4, True, "Correct from the crop (25 % by random guess)", False),
        (2, False, "Correct from the crop (50 % by random guess, the same answer with the region masked)", False),
        (26, True, "Correct from the crop (4 % by random guess)", True),
        (26, False, "Correct from the crop (4 % by random guess, the same answer with the region masked)", False),
        (0, True, "Correct from the crop", True),
        (0, None, "Correct from the crop", True),
        (0, False, "Correct from the crop (the same answer with the region masked)", False),
    ],
)
def test_a_right_answer_is_proof_only_if_guessing_is_unlikely_and_the_region_needed(
    options: int, necessity: bool | None, text: str, is_proof: bool
) -> None:
    assert describe_correct_answer(options, necessity, is_from_crop=True) == (text, is_proof)


def test_an_answer_from_the_full_image_says_nothing_of_the_region() -> None:
    assert describe_correct_answer(4, False, is_from_crop=False) == ("Correct (25 % by random guess)", False)
    assert describe_correct_answer(0, False, is_from_crop=False) == ("Correct", True)


def test_the_chance_of_an_open_question_is_not_known() -> None:
    assert guess_probability(0) is None
    assert guess_probability(8) == 0.125
