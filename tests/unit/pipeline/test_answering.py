from __future__ import annotations

from typing import Literal

import pytest
from PIL import Image

from hart_studio.models.chat import ChatRequest, Completion, ImageInput, Message
from hart_studio.models.families import FAMILIES
from hart_studio.pipeline.answering import (
    crops_only_request,
    direct_request,
    full_and_crops_request,
    parse_answer,
    score_without_answer,
)
from hart_studio.pipeline.cropping import Crops
from hart_studio.pipeline.grounding import grounding_request, parse_grounding
from hart_studio.prompts import CHOICE_HINT, CROPS_ONLY_AFTER, CROPS_ONLY_BEFORE, FULL_AND_CROPS, GROUNDING_INSTRUCTION
from hart_studio.records import Box, Sample, Score

CLOSED = Sample(id="s", image="x.png", question="Which digit?", choices=("3", "7"), answer="B")
OPEN = Sample(id="s", image="x.png", question="Which digit?", answer="seven")
UNKNOWN = Sample(id="s", image="x.png", question="Which digit?", choices=("3", "7"))
OPTIONS = f"Which digit?\n(A) 3\n(B) 7\n{CHOICE_HINT}"


def make_image() -> ImageInput:
    return ImageInput(Image.new("RGB", (64, 64)), 1, 4096)


def make_crops(count: int) -> Crops:
    boxes = tuple(Box.from_xyxy((64 * i, 0, 64 * i + 64, 64)) for i in range(count))
    return Crops(boxes, tuple(make_image() for _ in boxes))


def complete(text: str, finish: Literal["stop", "length"] = "stop") -> Completion:
    return Completion(text, finish, 10, 4, 3, ((64, 64),), 0.1)


def test_direct_is_one_turn_over_the_full_image() -> None:
    overview = make_image()
    assert direct_request(CLOSED, overview) == ChatRequest((Message("user", (overview, OPTIONS)),))


def test_crops_only_is_a_new_conversation_with_the_crops_in_the_papers_sentence() -> None:
    crops = make_crops(2)
    request = crops_only_request(CLOSED, crops)
    assert request == ChatRequest((Message("user", (CROPS_ONLY_BEFORE, *crops.images, CROPS_ONLY_AFTER + OPTIONS)),))


def test_crops_only_needs_a_crop() -> None:
    with pytest.raises(ValueError, match="at least 1 crop"):
        crops_only_request(CLOSED, Crops())


def test_full_and_crops_goes_on_with_the_same_conversation_and_overview() -> None:
    overview, crops = make_image(), make_crops(2)
    first = grounding_request(overview, CLOSED.question)
    said = complete("[[0, 0, 500, 500]]")
    grounding = parse_grounding(first, said, FAMILIES["qwen3_vl"], (64, 64))
    request = full_and_crops_request(CLOSED, grounding, crops)
    assert request.messages == (
        Message("user", (overview, f"{GROUNDING_INSTRUCTION}\nWhich digit?")),
        Message("assistant", ("[[0, 0, 500, 500]]",)),
        Message("user", (FULL_AND_CROPS, *crops.images, f"\n{OPTIONS}")),
    )


@pytest.mark.parametrize(
    ("sample", "text", "finish", "value", "extracted", "outcome"),
    [
        (CLOSED, r"\boxed{B}", "stop", 1.0, "B", "ok"),
        (CLOSED, r"\boxed{A}", "stop", 0.0, "A", "ok"),
        (CLOSED, "It seems blurred.", "stop", 0.0, None, "ok"),
        (CLOSED, "It seems bl", "length", 0.0, None, "truncated"),
        (CLOSED, r"\boxed{B} because the", "length", 1.0, "B", "ok"),  # cut off after the answer
        (UNKNOWN, r"\boxed{B}", "stop", None, "B", "ok"),
        (UNKNOWN, "Let me", "length", None, None, "truncated"),
        (OPEN, "The answer is 7.", "stop", 1.0, "7", "ok"),
        (OPEN, "eight", "stop", 0.0, "8", "ok"),
    ],
)
def test_every_way_that_an_answer_can_end(
    sample: Sample,
    text: str,
    finish: Literal["stop", "length"],
    value: float | None,
    extracted: str | None,
    outcome: str,
) -> None:
    answer = parse_answer(sample, direct_request(sample, make_image()), complete(text, finish))
    assert (answer.score.value, answer.score.extracted, answer.outcome) == (value, extracted, outcome)
    assert answer.turn.kind == "answer"
    assert answer.turn.text == text


def test_no_answer_turn_is_wrong_when_the_answer_is_known_and_unscored_when_not() -> None:
    assert score_without_answer(CLOSED) == Score(value=0.0, extracted=None, expected="B", rule="no_answer_turn")
    assert score_without_answer(UNKNOWN) == Score(value=None, extracted=None, expected=None, rule="no_answer_turn")
