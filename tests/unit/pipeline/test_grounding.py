from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hart_studio.geometry import BoxFrame
from hart_studio.imaging import SourceImage
from hart_studio.models.chat import ChatRequest, Completion, ImageInput
from hart_studio.models.families import FAMILIES, PixelBudget
from hart_studio.pipeline.grounding import (
    GroundingResult,
    grounding_request,
    make_overview,
    overview_budget,
    parse_grounding,
)
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.prompts import GROUNDING_INSTRUCTION
from hart_studio.records import Outcome
from tests.examples import example_count
from tests.fakes import ScriptedModel, images_in, text_of

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
