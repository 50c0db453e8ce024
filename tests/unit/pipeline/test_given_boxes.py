from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hart_studio.pipeline.closed_loop import PreparedSample, prepare_samples
from hart_studio.pipeline.given_boxes import answer_from_boxes, answer_with_boxes_masked
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Box, Sample
from tests.fakes import ScriptedModel, images_in
from tests.unit.pipeline.conftest import HEIGHT, WIDTH

LEFT, RIGHT = Box.from_xyxy((0, 0, 600, 900)), Box.from_xyxy((600, 0, 1200, 900))
GREEDY = LoopSettings()


def test_the_crops_are_those_of_the_boxes_in_native_pixels(sample: Sample, image: Path) -> None:
    model = ScriptedModel(crops_only="B")
    box = Box.from_xyxy((100, 200, 300, 350))
    ((rollout,),) = answer_from_boxes(model, prepare_samples(model, [sample], GREEDY), [[box]], GREEDY)
    assert (rollout.boxes, rollout.crops, rollout.outcome, rollout.score.value) == ((box,), (box,), "ok", 1.0)
    assert rollout.grounding_turn is None
    ((request,),) = [call.requests for call in model.calls]
    (crop,) = images_in(request)
    with Image.open(image) as whole:
        assert np.array_equal(np.asarray(crop.pixels), np.asarray(whole)[200:350, 100:300])


def test_one_call_for_everything_and_groups_stay_with_their_samples(sample: Sample, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (WIDTH, HEIGHT), "white").save(other)
    samples = [sample, sample.model_copy(update={"id": "s2", "image": str(other)})]
    model = ScriptedModel(crops_only="B")
    views = prepare_samples(model, samples, GREEDY)
    groups = answer_from_boxes(model, views, [[LEFT], [LEFT, RIGHT]], LoopSettings(temperature=1.0), 3)
    assert [[rollout.sample_id for rollout in group] for group in groups] == [["s1"] * 3, ["s2"] * 3]
    assert [(len(call.requests), call.group_size) for call in model.calls] == [(2, 3)]
    assert len(images_in(model.calls[0].requests[1])) == 2


def test_no_box_is_no_answer_and_wrong(sample: Sample) -> None:
    model = ScriptedModel()
    views = prepare_samples(model, [sample], GREEDY)
    ((rollout,),) = answer_from_boxes(model, views, [[]], GREEDY)
    assert (rollout.outcome, rollout.turns, rollout.score.value) == ("no_box", (), 0.0)
    assert answer_with_boxes_masked(model, views, [[]], GREEDY) == [None]
    assert sum(len(call.requests) for call in model.calls) == 0


def test_an_image_that_fails_takes_no_other_along(sample: Sample, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jpg"
    Image.effect_noise((900, 900), 90).convert("RGB").save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:60_000])
    samples = [
        sample.model_copy(update={"id": "gone", "image": "gone.png"}),
        sample.model_copy(update={"id": "damaged", "image": str(damaged)}),
        sample,
    ]
    model = ScriptedModel(crops_only="B", direct="B")
    views = prepare_samples(model, samples, GREEDY)
    (gone,), (cut,), (good,) = answer_from_boxes(model, views, [[LEFT]] * 3, GREEDY)
    assert (gone.outcome, cut.outcome, good.outcome) == ("error", "error", "ok")
    assert "no file of that name" in gone.error
    assert gone.score.value is None, "not asked is not wrong"
    masked = answer_with_boxes_masked(model, [views[0], views[2]], [[LEFT], [LEFT]], GREEDY)
    assert masked[0] is None and masked[1] is not None


def test_what_is_painted_over_is_gone_and_nothing_else_is(sample: Sample) -> None:
    model = ScriptedModel(direct="B")
    (view,) = prepare_samples(model, [sample], GREEDY)
    assert isinstance(view, PreparedSample)
    before = np.asarray(view.overview.pixels).copy()
    answer_with_boxes_masked(model, [view], [[LEFT]], GREEDY)
    ((request,),) = [call.requests for call in model.calls]
    shown = np.asarray(images_in(request)[0].pixels)
    middle = shown.shape[1] // 2
    assert len(np.unique(shown[:, : middle - 1].reshape(-1, 3), axis=0)) == 1
    assert np.array_equal(shown[:, middle + 1 :], before[:, middle + 1 :])
    assert np.array_equal(np.asarray(view.overview.pixels), before), "the view itself is left as it is"


@pytest.mark.parametrize("answer", [None, "B"])
def test_an_unknown_answer_is_not_judged(sample: Sample, answer: str | None) -> None:
    model = ScriptedModel(crops_only="B")
    asked = sample.model_copy(update={"answer": answer})
    ((rollout,),) = answer_from_boxes(model, prepare_samples(model, [asked], GREEDY), [[LEFT]], GREEDY)
    assert rollout.score.value == (None if answer is None else 1.0)
