"""Evidence of a right answer."""

from __future__ import annotations

import pytest

from hart_studio.pipeline.guessing import describe_correct_answer, guess_probability


@pytest.mark.parametrize(
    ("options", "necessity", "text", "is_proof"),
    [
        (4, None, "Right answer from the crop (chance 25 %)", False),
        (4, True, "Right answer from the crop (chance 25 %)", False),
        (2, False, "Right answer from the crop (chance 50 %, also without the region)", False),
        (26, True, "Right answer from the crop (chance 4 %)", True),
        (26, False, "Right answer from the crop (chance 4 %, also without the region)", False),
        (0, True, "Right answer from the crop", True),
        (0, None, "Right answer from the crop", True),
        (0, False, "Right answer from the crop (also without the region)", False),
    ],
)
def test_a_right_answer_is_proof_only_if_guessing_is_unlikely_and_the_region_needed(
    options: int, necessity: bool | None, text: str, is_proof: bool
) -> None:
    assert describe_correct_answer(options, necessity, is_from_crop=True) == (text, is_proof)


def test_an_answer_from_the_full_image_says_nothing_of_the_region() -> None:
    assert describe_correct_answer(4, False, is_from_crop=False) == ("Right answer (chance 25 %)", False)
    assert describe_correct_answer(0, False, is_from_crop=False) == ("Right answer", True)


def test_the_chance_of_an_open_question_is_not_known() -> None:
    assert guess_probability(0) is None
    assert guess_probability(8) == 0.125
