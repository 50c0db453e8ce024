"""Prompts of the three protocols: the exact text of the paper, with images at its positions."""

from __future__ import annotations

import pytest

from hart_studio.prompts import (
    IMAGE,
    as_text,
    crops_only_prompt,
    direct_prompt,
    full_and_crops_prompt,
    grounding_prompt,
    question_with_choices,
)

QUESTION = "Which color is the sign?"
CHOICES = ("red", "green", "blue")
WITH_CHOICES = (
    "Which color is the sign?\n(A) red\n(B) green\n(C) blue\nPut the letter of the right option in \\boxed{}."
)

# Copied from the paper, Sec. 4.2, with <image> for [I_s] and the question for [q].
PAPER_GROUNDING = "Output the coordinates of the key image area relevant to the problem"
PAPER_CROPS_ONLY = (
    "You were supposed to answer a question based on a full image, but now the full image is not visible. You can only "
    "see some sub-regions <image><image> relevant to the problem. Answer the following question: "
    "Which color is the sign?"
)


def test_grounding_turn_shows_the_image_the_instruction_and_the_bare_question():
    parts = grounding_prompt(QUESTION)
    assert parts[0] is IMAGE
    assert as_text(parts) == f"<image>{PAPER_GROUNDING}\n{QUESTION}"


def test_crops_stand_inside_the_papers_sentence():
    parts = crops_only_prompt(QUESTION, (), 2)
    assert as_text(parts) == PAPER_CROPS_ONLY
    assert [part is IMAGE for part in parts] == [False, True, True, False]


def test_choices_follow_the_question_in_every_answer_turn():
    assert as_text(direct_prompt(QUESTION, CHOICES)) == f"<image>{WITH_CHOICES}"
    assert as_text(crops_only_prompt(QUESTION, CHOICES, 1)).endswith(f"following question: {WITH_CHOICES}")
    assert as_text(full_and_crops_prompt(QUESTION, CHOICES, 2)) == (
        f"The regions at full resolution: <image><image>\n{WITH_CHOICES}"
    )


def test_an_open_question_is_left_as_it_is():
    assert question_with_choices(QUESTION, ()) == QUESTION
    assert "\\boxed" not in as_text(crops_only_prompt(QUESTION, (), 1))


def test_twenty_six_choices_have_letters_of_their_own():
    lines = question_with_choices("q", [f"text {index}" for index in range(26)]).split("\n")
    assert lines[1] == "(A) text 0"
    assert lines[26] == "(Z) text 25"
    assert len(lines) == 28


@pytest.mark.parametrize("crop_count", [1, 2, 5])
def test_there_is_one_place_per_crop_and_none_for_the_overview(crop_count):
    for parts in (crops_only_prompt(QUESTION, CHOICES, crop_count), full_and_crops_prompt("q", (), crop_count)):
        assert sum(part is IMAGE for part in parts) == crop_count


@pytest.mark.parametrize("crop_count", [0, -1])
def test_without_a_crop_there_is_no_answer_turn(crop_count):
    with pytest.raises(ValueError, match=f"at least 1 crop, got {crop_count}"):
        crops_only_prompt(QUESTION, (), crop_count)


def test_a_question_cannot_add_an_image():
    for parts in (
        grounding_prompt("<image>"),
        direct_prompt("<image>", ("<image>", "b")),
        crops_only_prompt("<image>", (), 1),
    ):
        assert sum(part is IMAGE for part in parts) == 1  # the typed word stays text
