from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hart_studio.geometry import BoxFrame
from hart_studio.imaging import SourceImage
from hart_studio.models.chat import ChatRequest, Completion, ImageInput, Message
from hart_studio.models.families import FAMILIES, PixelBudget
from hart_studio.pipeline.cropping import Crops
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.turns import (
    GroundingResult,
    compose_message,
    crops_only_request,
    direct_request,
    full_and_crops_request,
    grounding_request,
    make_overview,
    overview_budget,
    parse_answer,
    parse_grounding,
    record_turn,
    score_without_answer,
)
from hart_studio.prompts import (
    CHOICE_HINT,
    CROPS_ONLY_AFTER,
    CROPS_ONLY_BEFORE,
    FULL_AND_CROPS,
    GROUNDING_INSTRUCTION,
    IMAGE,
)
from hart_studio.records import Box, Outcome, Sample, Score
from tests.examples import example_count
from tests.fakes import ScriptedModel, images_in, text_of


def make_image() -> ImageInput:
    return ImageInput(Image.new("RGB", (64, 64)), 1, 4096)


def test_images_stand_where_the_prompt_has_them() -> None:
    first, second = make_image(), make_image()
    message = compose_message(("see ", IMAGE, IMAGE, " and answer"), [first, second])
    assert message == Message("user", ("see ", first, second, " and answer"))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_slots_and_images_must_match(count: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} images for 2 placeholders"):
        compose_message((IMAGE, "or", IMAGE), [make_image()] * count)


def test_a_turn_shows_the_last_message_and_counts_the_whole_conversation() -> None:
    overview, crop = make_image(), make_image()
    request = ChatRequest(
        (
            Message("user", (overview, "where?")),
            Message("assistant", ("here",)),
            Message("user", ("now ", crop, " answer")),
        )
    )
    completion = Completion("B", "length", 90, 40, 1, ((64, 64), (32, 32)), 0.5)
    turn = record_turn("answer", request, completion)
    assert turn.prompt == "now <image> answer"
    assert turn.image_sizes_wh == ((64, 64), (32, 32))
    assert (turn.kind, turn.text, turn.finish_reason) == ("answer", "B", "length")
    assert (turn.prompt_tokens, turn.visual_tokens, turn.completion_tokens, turn.seconds) == (90, 40, 1, 0.5)


ORIGINAL_WH = (1200, 900)


def complete(
    text: str, finish: Literal["stop", "length"] = "stop", seen_wh: tuple[int, int] = (256, 192)
) -> Completion:
    return Completion(text, finish, 50, 48, 12, (seen_wh,), 0.1)


def make_request() -> ChatRequest:
    return grounding_request(ImageInput(Image.new("RGB", (256, 192)), 1, 65536), "Which digit?")


def read(completion: Completion, family_key: str = "qwen3_vl") -> GroundingResult:
    return parse_grounding(make_request(), completion, FAMILIES[family_key], ORIGINAL_WH)


def test_the_overview_is_the_whole_image_within_the_budget(image: Path) -> None:
    overview = make_overview(SourceImage(image), ScriptedModel(), LoopSettings())
    width, height = overview.pixels.size
    assert width * height <= 256 * 256 < (width + 2) * (height + 2)
    assert width / height == pytest.approx(1200 / 900, rel=0.01)
    assert (overview.min_pixels, overview.max_pixels) == (64 * 64, 256 * 256)


def test_the_settings_overrule_the_models_budget_and_keep_it_consistent() -> None:
    model = ScriptedModel(overview_budget=PixelBudget(10_000, 50_000))
    assert overview_budget(model, LoopSettings(overview_max_pixels=90_000)) == (10_000, 90_000)
    assert overview_budget(model, LoopSettings(overview_max_pixels=5_000)) == (5_000, 5_000)


def test_turn_1_asks_in_the_papers_words_and_hides_the_choices() -> None:
    request = make_request()
    assert text_of(request) == f"{GROUNDING_INSTRUCTION}\nWhich digit?"
    assert len(request.messages) == 1
    assert len(images_in(request)) == 1


def test_thousandths_become_original_pixels() -> None:
    grounding = read(complete('[{"bbox_2d": [100, 200, 300, 400], "label": "sign"}]'))
    assert [box.xyxy for box in grounding.boxes] == [(120, 180, 360, 360)]
    assert grounding.boxes[0].label == "sign"
    assert grounding.outcome == "ok"


def test_model_pixels_are_read_in_the_frame_that_the_processor_produced() -> None:
    # 1200 x 900 shown at 252 x 196: x * 1200 / 252, y * 900 / 196. The overview's own size plays no part.
    text = '[{"bbox_2d": [25.2, 49, 126, 98]}]'
    grounding = read(complete(text, seen_wh=(252, 196)), "qwen2_5_vl")
    assert FAMILIES["qwen2_5_vl"].box_frame is BoxFrame.MODEL_PIXELS
    assert grounding.boxes[0].xyxy == pytest.approx((120, 225, 600, 450))


@pytest.mark.parametrize(
    ("text", "finish", "outcome"),
    [
        ("[[100, 100, 200, 200]]", "stop", "ok"),
        ("[[100, 100, 200, 200], [300, 3", "length", "ok"),  # cut off, yet the first box is usable
        ("[[200, 200, 100, 100], [100, 100, 200, 200]]", "stop", "ok"),
        ("I cannot see it.", "stop", "no_box"),
        ("", "stop", "no_box"),
        ("[]", "stop", "no_box"),
        ("[[200, 200, 100, 100]]", "stop", "bad_box"),
        ("[[2000, 2000, 2100, 2100]]", "stop", "bad_box"),  # outside the image
        ("[[100, 100, 100, 200]]", "stop", "bad_box"),
        ("Let me think about", "length", "truncated"),
        ("[[100, 10", "length", "truncated"),
        ("[[200, 200, 100, 100]]", "length", "truncated"),
    ],
)
def test_every_way_that_turn_1_can_end(text: str, finish: Literal["stop", "length"], outcome: Outcome) -> None:
    grounding = read(complete(text, finish))
    assert grounding.outcome == outcome
    assert bool(grounding.boxes) == (outcome == "ok")


@settings(max_examples=example_count(cost=2))
@given(st.text(alphabet=st.sampled_from('[]{}(),.:"-0123456789abxy_ \n')), st.sampled_from(sorted(FAMILIES)))
def test_no_text_raises_and_no_box_leaves_the_image(text: str, family_key: str) -> None:
    grounding = read(complete(text), family_key)
    assert bool(grounding.boxes) == (grounding.outcome == "ok")
    for box in grounding.boxes:
        assert box.x_min >= 0
        assert box.y_min >= 0
        assert box.x_max <= 1200
        assert box.y_max <= 900


CLOSED = Sample(id="s", image="x.png", question="Which digit?", choices=("3", "7"), answer="B")
OPEN = Sample(id="s", image="x.png", question="Which digit?", answer="seven")
UNKNOWN = Sample(id="s", image="x.png", question="Which digit?", choices=("3", "7"))
OPTIONS = f"Which digit?\n(A) 3\n(B) 7\n{CHOICE_HINT}"


def make_crops(count: int) -> Crops:
    boxes = tuple(Box.from_xyxy((64 * i, 0, 64 * i + 64, 64)) for i in range(count))
    return Crops(boxes, tuple(make_image() for _ in boxes))


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
