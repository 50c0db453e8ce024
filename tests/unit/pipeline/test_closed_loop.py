from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hart_studio.imaging import SourceImage
from hart_studio.models.chat import ImageInput
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import PROTOCOLS, Outcome, Protocol, Rollout, Sample, Score
from tests.fakes import Reply, ScriptedModel, images_in
from tests.unit.pipeline.conftest import boxes_text

BOX = boxes_text((100, 200, 300, 400))
"""On 1200 x 900: [120, 180, 360, 360]."""
PROSE = "I do not know."


def make_model(**scripts: object) -> ScriptedModel:
    defaults = {"grounding": BOX, "crops_only": r"\boxed{B}", "direct": r"\boxed{A}", "full_and_crops": r"\boxed{B}"}
    return ScriptedModel(**{**defaults, **scripts})  # type: ignore[arg-type]


def run_one(model: ScriptedModel, sample: Sample, protocol: Protocol, settings: LoopSettings | None = None) -> Rollout:
    (group,) = closed_loop.run(model, [sample], protocol, settings or LoopSettings())
    (rollout,) = group.rollouts
    return rollout


def test_crops_only_from_image_to_reward(sample: Sample) -> None:
    model = make_model()
    rollout = run_one(model, sample, "crops_only")
    assert model.kinds() == [["grounding"], ["crops_only"]]
    assert [box.xyxy for box in rollout.boxes] == [(120, 180, 360, 360)]
    assert [box.xyxy for box in rollout.crops] == [(120, 180, 360, 360)]
    assert [turn.kind for turn in rollout.turns] == ["grounding", "answer"]
    assert rollout.score == Score(value=1.0, extracted="B", expected="B", rule="boxed")
    assert (rollout.outcome, rollout.used_fallback, rollout.error) == ("ok", False, "")
    # 1200 x 900 within 256 * 256 px is 295 x 221, read as 288 x 192: 9 x 6 tokens of 32 px.
    # The crop, 240 x 180 within 192 * 192 px, is 221 x 166, read as 192 x 160: 6 x 5 tokens.
    assert [turn.image_sizes_wh for turn in rollout.turns] == [((288, 192),), ((192, 160),)]
    assert rollout.visual_tokens == 9 * 6 + 6 * 5
    assert rollout.seconds == 0.5


def test_pointing_alone_is_the_first_turn_of_the_loop_and_cuts_nothing(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = make_model(grounding=[BOX, PROSE])
    gone = sample.model_copy(update={"image": str(tmp_path / "gone.png")})
    views = closed_loop.prepare_samples(model, [gone, sample], LoopSettings(), will_crop=False)
    monkeypatch.setattr(SourceImage, "full", lambda self: pytest.fail("decoded"))
    none, (first, second) = closed_loop.run_grounding(model, views, LoopSettings(), group_size=2)
    assert (none, model.kinds()) == ([], [["grounding"]])
    assert [box.xyxy for box in first.boxes] == [(120, 180, 360, 360)]
    assert (first.outcome, second.outcome, second.boxes) == ("ok", "no_box", ())


def test_the_crop_is_cut_from_the_original_not_from_the_overview(sample: Sample, image: Path) -> None:
    model = make_model()
    run_one(model, sample, "crops_only")
    (crop,) = images_in(model.requests("crops_only")[0])
    original = np.asarray(Image.open(image))[180:360, 120:360]
    np.testing.assert_array_equal(np.asarray(crop.pixels), original)
    (overview,) = images_in(model.requests("grounding")[0])
    enlarged = overview.pixels.resize((1200, 900)).crop((120, 180, 360, 360))
    assert np.abs(np.asarray(enlarged).astype(int) - original).mean() > 20


def test_direct_is_one_turn(sample: Sample) -> None:
    model = make_model()
    rollout = run_one(model, sample, "direct")
    assert model.kinds() == [["direct"]]
    assert [turn.kind for turn in rollout.turns] == ["answer"]
    assert (rollout.boxes, rollout.crops, rollout.score.value, rollout.outcome) == ((), (), 0.0, "ok")


def test_full_and_crops_keeps_the_overview_object_and_the_models_own_words(sample: Sample) -> None:
    model = make_model()
    rollout = run_one(model, sample, "full_and_crops")
    (first,), (second,) = model.requests("grounding"), model.requests("full_and_crops")
    assert second.messages[0] is first.messages[0]
    assert second.messages[1].parts == (BOX,)
    overview, crop = images_in(second)
    assert overview is images_in(first)[0]
    assert crop.pixels.size == (240, 180)
    assert len(rollout.turns[1].image_sizes_wh) == 2


@pytest.mark.parametrize("protocol", ["crops_only", "full_and_crops"])
@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (PROSE, "no_box"),
        (boxes_text((300, 300, 100, 100)), "bad_box"),
        (Reply("The region is", "length"), "truncated"),
    ],
)
def test_without_a_usable_box_there_is_no_answer_turn(
    sample: Sample, protocol: Protocol, reply: str | Reply, outcome: Outcome
) -> None:
    model = make_model(grounding=reply, direct=None, crops_only=None, full_and_crops=None)
    rollout = run_one(model, sample, protocol)
    assert model.kinds() == [["grounding"], []]
    assert rollout.outcome == outcome
    assert rollout.score == Score(value=0.0, extracted=None, expected="B", rule="no_answer_turn")
    assert rollout.answer_turn is None
    assert not rollout.used_fallback
    unknown = sample.model_copy(update={"answer": None})
    assert run_one(model, unknown, protocol).score.value is None


@pytest.mark.parametrize("protocol", ["crops_only", "full_and_crops"])
def test_a_fallback_that_was_asked_for_is_reported(sample: Sample, protocol: Protocol) -> None:
    model = make_model(grounding=PROSE, direct=r"\boxed{B}")
    rollout = run_one(model, sample, protocol, LoopSettings(fallback="direct"))
    assert model.kinds() == [["grounding"], ["direct"]]
    assert rollout.used_fallback
    assert rollout.outcome == "no_box"
    assert rollout.score.value == 1.0
    assert rollout.crops == ()
    assert images_in(model.requests("direct")[0])[0] is images_in(model.requests("grounding")[0])[0]


def test_a_fallback_is_not_used_when_there_is_a_box(sample: Sample) -> None:
    rollout = run_one(make_model(direct=None), sample, "crops_only", LoopSettings(fallback="direct"))
    assert (rollout.used_fallback, rollout.outcome) == (False, "ok")


def test_cut_off_text_with_a_usable_box_goes_on(sample: Sample) -> None:
    model = make_model(grounding=Reply("[[100, 200, 300, 400], [5", "length"))
    rollout = run_one(model, sample, "crops_only")
    assert (rollout.outcome, rollout.score.value) == ("ok", 1.0)
    assert rollout.grounding_turn is not None
    assert rollout.grounding_turn.finish_reason == "length"


def test_a_cut_off_answer_is_truncated_only_when_nothing_can_be_read(sample: Sample) -> None:
    lost = run_one(make_model(crops_only=Reply("The digit on the", "length")), sample, "crops_only")
    assert (lost.outcome, lost.score.value, lost.score.extracted) == ("truncated", 0.0, None)
    read = run_one(make_model(crops_only=Reply(r"\boxed{B} as one can", "length")), sample, "crops_only")
    assert (read.outcome, read.score.value) == ("ok", 1.0)


def test_a_group_is_two_calls_whatever_its_size(sample: Sample) -> None:
    replies = [BOX, PROSE, boxes_text((0, 0, 500, 500), (500, 500, 1000, 1000)), BOX]
    model = make_model(grounding=replies, crops_only=[r"\boxed{B}", r"\boxed{A}", PROSE])
    (group,) = closed_loop.run(model, [sample], "crops_only", LoopSettings(temperature=1.0, seed=3), group_size=4)
    assert model.kinds() == [["grounding"], ["crops_only"] * 3]
    assert [call.group_size for call in model.calls] == [4, 1]
    assert [call.sampling.temperature for call in model.calls] == [1.0, 1.0]
    assert [call.sampling.seed for call in model.calls] == [3 + 2**32, 3]
    assert [rollout.outcome for rollout in group.rollouts] == ["ok", "no_box", "ok", "ok"]
    assert [rollout.score.value for rollout in group.rollouts] == [1.0, 0.0, 0.0, 0.0]
    assert [len(rollout.crops) for rollout in group.rollouts] == [1, 0, 2, 1]
    first, second, last = model.requests("crops_only")
    assert images_in(first)[0] is images_in(last)[0], "equal crops of a group are one image"
    assert len(images_in(second)) == 2


def test_samples_of_one_image_share_its_overview_and_its_file(sample: Sample, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (640, 480), "red").save(other)
    samples = [
        sample,
        sample.model_copy(update={"id": "s2", "image": str(other)}),
        sample.model_copy(update={"id": "s3", "question": "Which sign?"}),
    ]
    opened: list[str] = []

    def open_image(path: str) -> SourceImage:
        opened.append(path)
        return SourceImage(path)

    model = make_model()
    groups = closed_loop.run(model, samples, "crops_only", LoopSettings(), group_size=2, open_image=open_image)
    assert opened == [sample.image, str(other)]
    assert model.kinds() == [["grounding"] * 3, ["crops_only"] * 6]
    first, second, third = (images_in(request)[0] for request in model.requests("grounding"))
    assert first is third
    assert first is not second
    assert [group.sample_id for group in groups] == ["s1", "s2", "s3"]
    assert [group.rollouts[0].crops[0].xyxy for group in groups] == [
        (120, 180, 360, 360),
        (64, 96, 192, 192),
        (120, 180, 360, 360),
    ]


def test_of_several_images_one_original_is_decoded_at_a_time(sample: Sample, tmp_path: Path) -> None:
    paths = [sample.image]
    for index in range(2):
        paths.append(str(tmp_path / f"{index}.png"))
        Image.new("RGB", (640, 480), "red").save(paths[-1])
    order = [0, 1, 0, 2, 1]  # images of different samples are interleaved
    samples = [sample.model_copy(update={"id": str(i), "image": paths[index]}) for i, index in enumerate(order)]
    images = {path: SourceImage(path) for path in paths}
    groups = closed_loop.run(make_model(), samples, "crops_only", LoopSettings(), open_image=images.__getitem__)
    assert [group.rollouts[0].outcome for group in groups] == ["ok"] * 5
    assert all(image._pixels is None for image in images.values())


def test_only_a_lone_image_stays_decoded_between_overview_and_crops(sample: Sample, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (640, 480), "red").save(other)
    samples = [sample, sample.model_copy(update={"id": "s2", "image": str(other)})]
    for together in (samples, samples[:1]):
        images = {each.image: SourceImage(each.image) for each in together}
        closed_loop.prepare_samples(make_model(), together, LoopSettings(), images.__getitem__)
        assert [image._pixels is not None for image in images.values()] == [len(together) == 1] * len(together)


def test_a_lone_image_that_will_be_cropped_is_decoded_ahead(sample: Sample, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (640, 480), "red").save(other)
    samples = [sample, sample.model_copy(update={"id": "s2", "image": str(other)})]
    for together, will_crop in ((samples, True), (samples[:1], True), (samples[:1], False)):
        images = {each.image: SourceImage(each.image) for each in together}
        closed_loop.prepare_samples(make_model(), together, LoopSettings(), images.__getitem__, will_crop=will_crop)
        expected = will_crop and len(together) == 1
        assert [image._ahead is not None for image in images.values()] == [expected] * len(together)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unreadable_image_is_an_error_rollout_and_the_others_go_on(
    sample: Sample, tmp_path: Path, protocol: Protocol
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    samples = [
        sample.model_copy(update={"id": "broken", "image": str(broken)}),
        sample,
        sample.model_copy(update={"id": "missing", "image": str(tmp_path / "nowhere.png")}),
    ]
    groups = closed_loop.run(make_model(direct=r"\boxed{B}"), samples, protocol, LoopSettings(), group_size=2)
    assert [group.sample_id for group in groups] == ["broken", "s1", "missing"]
    assert [len(group.rollouts) for group in groups] == [2, 2, 2]
    assert [group.rollouts[0].outcome for group in groups] == ["error", "ok", "error"]
    assert groups[1].rollouts[0].score.value == 1.0
    assert "broken.png" in groups[0].rollouts[0].error
    assert "nowhere.png" in groups[2].rollouts[0].error
    # Not scored is not wrong.
    assert groups[0].rollouts[0].score == Score(value=None, extracted=None, expected="B", rule="none")


def test_an_image_that_breaks_after_turn_1_is_an_error_rollout(sample: Sample, tmp_path: Path) -> None:
    # A JPEG whose reduced overview decodes, while the file is cut short before the crops are taken.
    path = tmp_path / "photo.jpg"
    noise = np.random.default_rng(1).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=90)

    def cut_short(_: object) -> str:
        path.write_bytes(path.read_bytes()[:20_000])
        return BOX

    model = make_model(grounding=cut_short)
    samples = [sample.model_copy(update={"id": "cut", "image": str(path)}), sample]
    groups = closed_loop.run(model, samples, "crops_only", LoopSettings())
    rollout = groups[0].rollouts[0]
    assert rollout.outcome == "error"
    assert "photo.jpg" in rollout.error
    assert [turn.kind for turn in rollout.turns] == ["grounding"]
    assert groups[1].rollouts[0].outcome == "ok"


def test_one_grounding_serves_two_protocols(sample: Sample) -> None:
    model = make_model()
    views = closed_loop.prepare_samples(model, [sample], LoopSettings())
    attempts = closed_loop.ground_and_crop(model, views, LoopSettings())
    crops_only = closed_loop.run_answering(model, attempts, "crops_only", LoopSettings())
    both = closed_loop.run_answering(model, attempts, "full_and_crops", LoopSettings())
    assert model.kinds() == [["grounding"], ["crops_only"], ["full_and_crops"]]
    assert crops_only[0].rollouts[0].crops == both[0].rollouts[0].crops
    assert crops_only[0].rollouts[0].turns[0] == both[0].rollouts[0].turns[0]
    assert images_in(model.requests("crops_only")[0]) == images_in(model.requests("full_and_crops")[0])[1:]


def test_stages_equal_the_whole(sample: Sample) -> None:
    settings = LoopSettings(padding=0.2)
    model = make_model()
    staged = closed_loop.run_answering(
        model,
        closed_loop.ground_and_crop(model, closed_loop.prepare_samples(model, [sample], settings), settings),
        "crops_only",
        settings,
    )
    assert staged == closed_loop.run(make_model(), [sample], "crops_only", settings)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_sample_no_rollout(protocol: Protocol) -> None:
    assert closed_loop.run(ScriptedModel(), [], protocol, LoopSettings()) == []


def test_every_image_carries_its_own_budget(sample: Sample) -> None:
    settings = LoopSettings(overview_max_pixels=40_000, crop_max_pixels=10_000)
    model = make_model()
    run_one(model, sample, "full_and_crops", settings)
    overview, crop = images_in(model.requests("full_and_crops")[0])
    assert isinstance(overview, ImageInput)
    assert (overview.max_pixels, crop.max_pixels) == (40_000, 10_000)
    assert overview.pixels.size[0] * overview.pixels.size[1] <= 40_000
    assert crop.pixels.size == (240, 180), "the pixels stay native; only the reading is limited"


def test_an_answer_keeps_its_model_calls(sample: Sample) -> None:
    model = make_model()
    views = closed_loop.prepare_samples(model, [sample], LoopSettings())
    attempts = closed_loop.ground_and_crop(model, views, LoopSettings(), group_size=2)
    (answers,) = closed_loop.answer_grounded(model, attempts, "crops_only", LoopSettings())
    for answered, request in zip(answers, model.requests("crops_only"), strict=True):
        assert answered.grounding and answered.answer
        assert answered.answer.request is request
        assert answered.grounding.request is model.requests("grounding")[0]
        calls = (answered.grounding, answered.answer)
        assert [call.completion.text for call in calls] == [turn.text for turn in answered.rollout.turns]
    ((only,),) = closed_loop.answer_direct(model, views, LoopSettings())
    assert only.grounding is None
    assert only.answer and only.answer.request is model.requests("direct")[0]
