from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from hart_studio.imaging import SourceImage
from hart_studio.models.families import FAMILIES, PixelBudget
from hart_studio.pipeline.cropping import Crops, crop_budget, extract_crops, select_crop_regions
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Box
from tests.fakes import ScriptedModel

WH = (1200, 900)
QWEN3 = FAMILIES["qwen3_vl"]


def test_a_plan_is_padded_grown_and_whole() -> None:
    # 100 x 50 at (400, 300), padded by 0.1: 10 px left and right, 5 px above and below; 60 is below 80, so it grows.
    regions = select_crop_regions(
        [Box.from_xyxy((400, 300, 500, 350))], WH, QWEN3, LoopSettings(padding=0.1, min_side=80)
    )
    assert [region.xyxy for region in regions] == [(390, 285, 510, 365)]


def test_the_stricter_of_family_and_settings_counts() -> None:
    dot = [Box.from_xyxy((600, 400, 604, 404))]
    strip = [Box.from_xyxy((0, 400, 1200, 410))]
    assert select_crop_regions(dot, WH, QWEN3, LoopSettings(min_side=8))[0].width == QWEN3.min_side == 32
    assert select_crop_regions(dot, WH, QWEN3, LoopSettings(min_side=100))[0].width == 100
    square = dataclasses.replace(QWEN3, max_aspect=2.0)
    assert select_crop_regions(strip, WH, square, LoopSettings())[0].height == 600
    assert select_crop_regions(strip, WH, QWEN3, LoopSettings(max_aspect=10))[0].height == 120


def test_the_first_boxes_are_kept() -> None:
    boxes = [Box.from_xyxy((100 * i, 0, 100 * i + 50, 50)) for i in range(6)]
    regions = select_crop_regions(boxes, WH, QWEN3, LoopSettings(max_boxes=2))
    assert [region.x_min for region in regions] == [0, 100]


def test_a_family_of_one_crop_gets_the_enclosing_region() -> None:
    llava = FAMILIES["llava_onevision"]
    boxes = [Box.from_xyxy((100, 100, 200, 200)), Box.from_xyxy((600, 500, 700, 800))]
    assert [region.xyxy for region in select_crop_regions(boxes, WH, llava, LoopSettings())] == [(100, 100, 700, 800)]
    assert [region.xyxy for region in select_crop_regions(boxes[:1], WH, llava, LoopSettings())] == [
        (100, 100, 200, 200)
    ]
    # Padding is added once, to the boxes, and not again to what encloses them.
    padded = select_crop_regions(boxes, WH, llava, LoopSettings(padding=0.1))
    assert [region.xyxy for region in padded] == [(90, 90, 710, 830)]


def test_no_box_no_region() -> None:
    assert select_crop_regions([], WH, QWEN3, LoopSettings()) == ()


def test_crops_are_the_originals_own_pixels(image: Path) -> None:
    original = np.asarray(Image.open(image))
    plan = (Box.from_xyxy((10, 20, 110, 220)), Box.from_xyxy((1000, 700, 1200, 900)))
    (crops,) = extract_crops(SourceImage(image), [plan], ScriptedModel(), LoopSettings())
    assert crops.boxes == plan
    np.testing.assert_array_equal(np.asarray(crops.images[0].pixels), original[20:220, 10:110])
    np.testing.assert_array_equal(np.asarray(crops.images[1].pixels), original[700:900, 1000:1200])


def test_equal_regions_of_several_rollouts_are_one_image(image: Path) -> None:
    shared = (10.0, 20.0, 110.0, 220.0)
    plans = [
        (Box.from_xyxy(shared, label="sign"),),
        (Box.from_xyxy((0, 0, 64, 64)), Box.from_xyxy(shared, label="plate")),
        (),
    ]
    first, second, third = extract_crops(SourceImage(image), plans, ScriptedModel(), LoopSettings())
    assert first.images[0] is second.images[1]
    assert [box.label for box in (*first.boxes, *second.boxes)] == ["sign", "", "plate"]
    assert third == Crops()


def test_the_crop_budget_is_the_models_unless_the_settings_say_otherwise() -> None:
    model = ScriptedModel(crop_budget=PixelBudget(1_000, 9_000))
    assert crop_budget(model, LoopSettings()) == (1_000, 9_000)
    assert crop_budget(model, LoopSettings(crop_max_pixels=800)) == (800, 800)
