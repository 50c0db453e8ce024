import math

import numpy as np
import pytest

from hart_studio.errors import InputError
from hart_studio.needle.scenes import SceneSettings, make_scene


def scene_of(seed: int, **settings: object):
    return make_scene(np.random.default_rng(seed), SceneSettings(**settings))


def test_the_seed_decides_everything() -> None:
    assert scene_of(7) == scene_of(7)
    assert scene_of(7) != scene_of(8)


@pytest.mark.parametrize("seed", range(40))
def test_objects_are_unique_apart_and_inside(seed: int) -> None:
    scene = scene_of(seed)
    names = [item.name for item in scene.objects]
    assert len(set(names)) == len(names)
    assert 1 <= len(names) <= 12
    for index, item in enumerate(scene.objects):
        box = item.box()
        assert box.x_min >= 0 and box.y_min >= 0 and box.x_max <= scene.width and box.y_max <= scene.height
        for other in scene.objects[:index]:
            assert math.hypot(item.x - other.x, item.y - other.y) > item.radius + other.radius


def test_the_published_scene_has_six_to_twelve_objects() -> None:
    counts = [len(scene_of(seed).objects) for seed in range(60)]
    assert min(counts) >= 6 and max(counts) == 12


def test_details_lie_inside_their_objects_box() -> None:
    for item in scene_of(3).objects:
        box = item.box()
        assert box.x_min < item.detail_x < box.x_max and box.y_min < item.detail_y < box.y_max


def test_a_mark_never_has_the_color_of_its_object() -> None:
    marks = [item for seed in range(40) for item in scene_of(seed).objects if item.detail == "mark"]
    assert marks and all(item.value != item.color for item in marks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objects": (0, 3)}, "fewest"),
        ({"objects": (5, 4)}, "fewest"),
        ({"objects": (6, 100)}, "fewest"),
        ({"width": 10}, "64 x 64"),
        ({"radius": (0.1, 0.05)}, "radii"),
        ({"radius": (0.0, 0.05)}, "radii"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SceneSettings(**settings)
