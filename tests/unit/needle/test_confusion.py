"""The careless annotator of the last level: which boxes are wrong, and how often."""

from __future__ import annotations

import numpy as np

from hart_studio.needle.lessons import _confuse
from hart_studio.needle.questions import ask_detail, ask_gist
from hart_studio.needle.scenes import Scene, SceneSettings, make_scene


def scenes(count: int) -> list[Scene]:
    return [make_scene(np.random.default_rng(seed), SceneSettings()) for seed in range(count)]


def test_a_wrong_box_is_that_of_an_object_alike_in_one_respect() -> None:
    rng = np.random.default_rng(1)
    moved = 0
    for scene in scenes(20):
        by_box = {item.box().xyxy: item for item in scene.objects}
        for item in scene.objects:
            question = ask_detail(rng, scene, item)
            (box,) = _confuse(rng, question, scene, 1.0).gold_boxes
            boxed = by_box[box.xyxy]
            alike = [one for one in scene.objects if (one.colour == item.colour) != (one.shape == item.shape)]
            assert box.label == item.name, "the wrong box must stand under the right name"
            assert (boxed in alike) if alike else (boxed is item)
            moved += boxed is not item
    assert moved > 50


def test_the_share_is_the_share_and_zero_takes_no_random_number() -> None:
    rng = np.random.default_rng(2)
    wrong = total = 0
    for scene in scenes(60):
        for item in scene.objects:
            if any((one.colour == item.colour) != (one.shape == item.shape) for one in scene.objects):
                question = ask_detail(rng, scene, item)
                wrong += _confuse(rng, question, scene, 0.6).gold_boxes != question.gold_boxes
                total += 1
    assert abs(wrong / total - 0.6) < 4 * (0.24 / total) ** 0.5  # four standard errors
    scene = scenes(1)[0]
    question = ask_detail(np.random.default_rng(3), scene, scene.objects[0])
    before = rng.bit_generator.state
    assert _confuse(rng, question, scene, 0.0) is question
    assert rng.bit_generator.state == before, "earlier levels would be drawn differently"


def test_questions_about_two_objects_stay_as_they_are() -> None:
    rng = np.random.default_rng(4)
    seen = 0
    for scene in scenes(40):
        gist = ask_gist(rng, scene)
        if gist is not None and len(gist.gold_boxes) == 2:
            assert _confuse(rng, gist, scene, 1.0) is gist
            seen += 1
    assert seen > 3
