"""Simulated annotation errors of the last level: which boxes are wrong, and how often."""

from __future__ import annotations

import numpy as np

from hart_studio.experiments.pretraining.tasks import _confuse_box
from hart_studio.needle.questions import make_detail_question, make_gist_question
from hart_studio.needle.scenes import Scene, SceneSettings, make_scene


def scenes(count: int) -> list[Scene]:
    return [make_scene(np.random.default_rng(seed), SceneSettings()) for seed in range(count)]


def test_a_wrong_box_is_that_of_an_object_alike_in_one_respect() -> None:
    rng = np.random.default_rng(1)
    moved = 0
    for scene in scenes(20):
        by_box = {item.box().xyxy: item for item in scene.objects}
        for item in scene.objects:
            question = make_detail_question(rng, scene, item)
            (box,) = _confuse_box(rng, question, scene, 1.0).gold_boxes
            boxed = by_box[box.xyxy]
            alike = [one for one in scene.objects if (one.color == item.color) != (one.shape == item.shape)]
            assert box.label == item.name, "the wrong box must stand under the right name"
            assert (boxed in alike) if alike else (boxed is item)
            moved += boxed is not item
    assert moved > 50


def test_the_share_is_the_share_and_zero_takes_no_random_number() -> None:
    rng = np.random.default_rng(2)
    wrong = total = 0
    for scene in scenes(60):
        for item in scene.objects:
            if any((one.color == item.color) != (one.shape == item.shape) for one in scene.objects):
                question = make_detail_question(rng, scene, item)
                wrong += _confuse_box(rng, question, scene, 0.6).gold_boxes != question.gold_boxes
                total += 1
    assert abs(wrong / total - 0.6) < 4 * (0.24 / total) ** 0.5  # four standard errors
    scene = scenes(1)[0]
    question = make_detail_question(np.random.default_rng(3), scene, scene.objects[0])
    before = rng.bit_generator.state
    assert _confuse_box(rng, question, scene, 0.0) is question
    assert rng.bit_generator.state == before, "earlier levels would be drawn differently"


def test_questions_about_two_objects_stay_as_they_are() -> None:
    rng = np.random.default_rng(4)
    seen = 0
    for scene in scenes(40):
        gist = make_gist_question(rng, scene)
        if gist is not None and len(gist.gold_boxes) == 2:
            assert _confuse_box(rng, gist, scene, 1.0) is gist
            seen += 1
    assert seen > 3
