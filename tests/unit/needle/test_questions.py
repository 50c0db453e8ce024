import numpy as np
import pytest

from hart_studio.geometry import iou
from hart_studio.needle.questions import Question, make_detail_question, make_gist_question, make_question
from hart_studio.needle.scenes import Scene, SceneSettings, make_scene


def scene_of(seed: int) -> Scene:
    return make_scene(np.random.default_rng(seed), SceneSettings())


def questions(count: int = 200, gist_share: float = 0.5) -> list[tuple[Scene, Question]]:
    found = []
    for seed in range(count):
        scene = scene_of(seed)
        found.append((scene, make_question(np.random.default_rng(1000 + seed), scene, gist_share)))
    return found


def test_every_question_has_one_right_option_and_distinct_ones() -> None:
    for _, question in questions():
        assert len(set(question.choices)) == len(question.choices)
        assert question.choices["ABCD".index(question.letter)] == question.value
        assert len(question.choices) == (2 if question.topic == "side" else 4)


def test_the_right_letter_is_spread_evenly() -> None:
    letters = [question.letter for _, question in questions(400, 0.0)]
    shares = [letters.count(letter) / len(letters) for letter in "ABCD"]
    assert min(shares) > 0.17 and max(shares) < 0.33


def test_detail_answers_match_the_object_that_the_gold_box_shows() -> None:
    for scene, question in questions(gist_share=0.0):
        (box,) = question.gold_boxes
        item = next(item for item in scene.objects if item.name == box.label)
        assert question.value == item.value and iou(box, item.box()) == 1.0 and item.name in question.text


def test_gist_answers_are_true_of_the_scene() -> None:
    topics = set()
    for scene, question in questions(300, 1.0):
        if question.kind == "detail":
            continue
        topics.add(question.topic)
        named = [item for item in scene.objects if item.name in {box.label for box in question.gold_boxes}]
        if question.topic == "side":
            by_name = {item.name: item for item in named}
            first, second = (by_name[box.label] for box in question.gold_boxes)
            assert (question.value == "left") == (first.x < second.x)
        elif question.topic == "colour":
            assert question.value == named[0].color
            assert [item.shape for item in scene.objects].count(named[0].shape) == 1
        else:
            assert question.value == named[0].shape
            assert [item.color for item in scene.objects].count(named[0].color) == 1
    assert topics == {"side", "colour", "shape"}


def test_wrong_options_prefer_what_other_objects_carry() -> None:
    scene = scene_of(5)
    item = next(o for o in scene.objects if sum(o.detail == other.detail for other in scene.objects) >= 3)
    others = {o.value for o in scene.objects if o.detail == item.detail} - {item.value}
    question = make_detail_question(np.random.default_rng(0), scene, item)
    assert len(set(question.choices) & others) == min(3, len(others))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_gist_questions_is_kept(share: float) -> None:
    kinds = [question.kind for _, question in questions(100, share)]
    assert kinds.count("gist") / len(kinds) == pytest.approx(share, abs=0.03)


def test_nothing_unique_means_no_gist_question() -> None:
    scene = scene_of(1)
    lonely = Scene(scene.width, scene.height, (), 0, 1.0)
    assert make_gist_question(np.random.default_rng(0), lonely) is None
