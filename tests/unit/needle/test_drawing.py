import cv2
import numpy as np
import pytest

from hart_studio.needle.drawing import GLYPHS, draw_scene
from hart_studio.needle.scenes import CHARACTERS, COLORS, SceneSettings, make_scene
from hart_studio.records import Box

SMALL = SceneSettings(width=1024, height=768, objects=(4, 6))


def scene_of(seed: int, settings: SceneSettings = SMALL):
    return make_scene(np.random.default_rng(seed), settings)


def test_every_character_has_strokes() -> None:
    assert set(CHARACTERS) == set(GLYPHS)


def test_drawing_is_deterministic() -> None:
    assert np.array_equal(draw_scene(scene_of(1), (256, 192)), draw_scene(scene_of(1), (256, 192)))


@pytest.mark.parametrize("seed", range(5))
def test_small_drawing_resembles_the_large_one_scaled_down(seed: int) -> None:
    scene = scene_of(seed, SceneSettings())
    large = cv2.resize(draw_scene(scene, (2048, 1536)), (256, 192), interpolation=cv2.INTER_AREA)
    small = draw_scene(scene, (256, 192))
    assert np.abs(large.astype(int) - small.astype(int)).mean() < 3.0


@pytest.mark.parametrize("seed", range(5))
def test_a_window_shows_what_the_whole_shows_there(seed: int) -> None:
    scene = scene_of(seed)
    window = Box.from_xyxy((256, 192, 768, 576))
    whole = draw_scene(scene, (1024, 768))[192:576, 256:768]
    part = draw_scene(scene, (512, 384), window)
    assert np.abs(whole.astype(int) - part.astype(int)).mean() < 4.0


@pytest.mark.parametrize("seed", range(8))
def test_gold_boxes_are_tight_around_the_drawn_object(seed: int) -> None:
    scene = scene_of(seed)
    bare = draw_scene(type(scene)(scene.width, scene.height, (), scene.seed, scene.clutter), (1024, 768))
    for item in scene.objects:
        alone = type(scene)(scene.width, scene.height, (item,), scene.seed, scene.clutter)
        changed = (draw_scene(alone, (1024, 768)) != bare).any(axis=2)
        ys, xs = np.nonzero(changed)
        drawn = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert drawn == pytest.approx(item.box().xyxy, abs=2.5)


def test_the_object_has_its_color() -> None:
    scene = scene_of(2)
    pixels = draw_scene(scene, (1024, 768))
    for item in scene.objects:
        if item.shape == "square":
            spot = pixels[int(item.y - 0.6 * item.radius), int(item.x - 0.55 * item.radius)]
            assert tuple(int(value) for value in spot) == COLORS[item.color]


def test_details_of_different_value_differ_in_the_crop_and_vanish_in_the_overview() -> None:
    found = [
        (scene, item)
        for scene in (scene_of(seed, SceneSettings()) for seed in range(9))
        for item in scene.objects
        if item.detail == "dots" and item.value in "45"
    ]
    scene, item = found[0]
    others = tuple(other for other in scene.objects if other is not item)
    changed = type(item)(**{**item.__dict__, "value": "5" if item.value == "4" else "4"})
    twin = type(scene)(scene.width, scene.height, (*others, changed), scene.seed, scene.clutter)
    in_crop = np.abs(draw_scene(scene, (224, 224), item.box()).astype(int) - draw_scene(twin, (224, 224), item.box()))
    in_overview = np.abs(draw_scene(scene, (256, 192)).astype(int) - draw_scene(twin, (256, 192)))
    assert (in_crop.max(axis=2) > 60).sum() >= 20
    assert (in_overview.max(axis=2) > 60).sum() <= 4
