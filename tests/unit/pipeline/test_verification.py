from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hart_studio.errors import InputError
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.verification import (
    Verification,
    answer_masked,
    check_rollout_count,
    describe_correct_answer,
    guess_probability,
    verify_rollouts,
)
from hart_studio.records import Box, GoldSample, Protocol, Rollout, Sample, Score
from tests.fakes import ScriptedModel, images_in
from tests.unit.pipeline.conftest import boxes_text

WARM = LoopSettings(temperature=1.0)
LEFT, RIGHT = (0, 0, 500, 1000), (500, 0, 1000, 1000)


def make_rollout(
    answer: str | None,
    expected: str | None = "B",
    protocol: Protocol = "crops_only",
    boxes: tuple[Box, ...] = (),
    used_fallback: bool = False,
) -> Rollout:
    value = None if expected is None else float(answer == expected)
    return Rollout(
        sample_id="s",
        protocol=protocol,
        boxes=boxes,
        outcome="ok",
        used_fallback=used_fallback,
        score=Score(value=value, extracted=answer, expected=expected, rule="boxed" if answer else "none"),
    )


def judge(answers: list[str | None], full: str | None = None, masked: str | None = None, **more: Any) -> Verification:
    """Verify crops-only answers, with optional full and masked answers."""
    return verify_rollouts(
        [make_rollout(answer, **more) for answer in answers],
        make_rollout(full, protocol="direct", **more) if full else None,
        make_rollout(masked, protocol="direct", **more) if masked else None,
        (100, 100),
    )


def verify(
    model: ScriptedModel, samples: list[Sample], settings: LoopSettings, rollouts: int = 1
) -> list[Verification]:
    """Verify samples with the stages of the loop."""
    views = closed_loop.prepare_samples(model, samples, settings)
    attempts = closed_loop.ground_and_crop(model, views, settings, rollouts)
    crops_only = closed_loop.run_answering(model, attempts, "crops_only", settings)
    full = closed_loop.run_direct(model, views, settings)
    masked = answer_masked(model, attempts, settings)
    sizes = [None if isinstance(view, closed_loop.FailedSample) else view.image.wh for view in views]
    return [
        verify_rollouts(group.rollouts, direct.rollouts[0], without, wh)
        for group, direct, without, wh in zip(crops_only, full, masked, sizes, strict=True)
    ]


def test_known_answer_sufficiency_is_the_share_of_right_answers() -> None:
    verification = judge(["B", "A", None, "B"])
    assert verification.evidence == "known_answer"
    assert verification.sufficiency == 0.5
    assert (verification.agreement, verification.majority_answer) == (0.5, "B")


def test_unknown_answer_sufficiency_is_the_agreement() -> None:
    verification = judge(["A", "A", "B", None], expected=None)
    assert verification.evidence == "agreement"
    assert verification.sufficiency == verification.agreement == 0.5
    assert verification.majority_answer == "A"


def test_one_rollout_agrees_with_no_one() -> None:
    assert judge(["B"]).agreement is None
    assert judge(["B"]).sufficiency == 1.0
    assert judge(["B"], expected=None).sufficiency is None


def test_no_one_answered() -> None:
    verification = judge([None, None])
    assert (verification.sufficiency, verification.agreement, verification.majority_answer) == (0.0, 0.0, None)


def test_an_answer_from_the_full_image_is_no_evidence_for_the_crops() -> None:
    rollouts = [make_rollout("B", used_fallback=True), make_rollout("B")]
    verification = verify_rollouts(rollouts, None, None, (100, 100))
    assert (verification.sufficiency, verification.agreement) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("expected", "full", "masked", "necessity"),
    [
        ("B", "B", "A", True),  # right with the region, wrong without
        ("B", "B", "B", False),  # right all the same
        ("B", "A", "B", None),  # wrong from the start: nothing to lose
        ("B", "A", "C", None),
        (None, "A", "B", True),  # the answer changes
        (None, "A", "A", False),
        ("B", "B", None, None),  # the masked image was not asked
        ("B", None, "A", None),  # the full image was not asked
    ],
)
def test_necessity(expected: str | None, full: str | None, masked: str | None, necessity: bool | None) -> None:
    assert judge(["B"], full, masked, expected=expected).necessity is necessity


@pytest.mark.parametrize(("expected", "necessity"), [("B", True), (None, True)])
def test_an_answer_that_becomes_unreadable_is_spoiled(expected: str | None, necessity: bool) -> None:
    verification = verify_rollouts(
        [make_rollout("B", expected)],
        make_rollout("B", expected, "direct"),
        make_rollout(None, expected, "direct"),
        (100, 100),
    )
    assert verification.necessity is necessity


def test_consensus_and_area() -> None:
    # 40 x 40 and 40 x 40 shifted by 20: overlap 800, union 2400; each covers 0.16 of the image.
    boxes = Box.from_xyxy((0, 0, 40, 40)), Box.from_xyxy((20, 0, 60, 40))
    verification = verify_rollouts([make_rollout("B", boxes=(box,)) for box in boxes], None, None, (100, 100))
    assert verification.consensus == pytest.approx(800 / 2400)
    assert verification.area_share == pytest.approx(0.16)
    alone = verify_rollouts([make_rollout("B")], None, None, (100, 100))
    assert (alone.consensus, alone.area_share) == (None, None)


def test_the_whole_check_of_one_sample(sample: Sample, image: Path) -> None:
    model = ScriptedModel(
        grounding=[boxes_text(LEFT), boxes_text(LEFT), boxes_text(RIGHT)],
        crops_only=[r"\boxed{B}", r"\boxed{B}", r"\boxed{A}"],
        direct=[r"\boxed{B}", r"\boxed{A}"],
    )
    (verification,) = verify(model, [sample], WARM, rollouts=3)
    assert model.kinds() == [["grounding"], ["crops_only"] * 3, ["direct"], ["direct"]]
    assert verification.sufficiency == pytest.approx(2 / 3)
    assert verification.agreement == pytest.approx(2 / 3)
    assert verification.consensus == pytest.approx(1 / 3)  # one pair agrees fully, two not at all
    assert verification.area_share == pytest.approx(0.5)
    assert verification.necessity is True
    assert len(verification.rollouts) == 3
    overview, masked = (images_in(request)[0] for request in model.requests("direct"))
    before, after = np.asarray(overview.pixels), np.asarray(masked.pixels)
    half = after.shape[1] // 2
    assert (after[:, :half] == after[0, 0]).all(), "the region is one color"
    np.testing.assert_array_equal(after[:, half + 1 :], before[:, half + 1 :])
    assert (masked.min_pixels, masked.max_pixels) == (overview.min_pixels, overview.max_pixels)


def test_what_the_crops_showed_is_masked_and_not_the_smaller_box(sample: Sample) -> None:
    model = ScriptedModel(grounding=boxes_text((400, 400, 600, 600)), direct=r"\boxed{B}")
    settings = LoopSettings(padding=0.5)
    attempts = closed_loop.ground_and_crop(model, closed_loop.prepare_samples(model, [sample], settings), settings)
    assert isinstance(answer_masked(model, attempts, settings)[0], Rollout)
    pixels = np.asarray(images_in(model.requests("direct")[0])[0].pixels)
    height, width, _ = pixels.shape
    region = pixels[int(0.31 * height) : int(0.69 * height), int(0.31 * width) : int(0.69 * width)]
    assert (region == region[0, 0]).all()


def test_a_batch_is_four_calls_and_a_bad_image_measures_nothing(sample: Sample, tmp_path: Path) -> None:
    missing = sample.model_copy(update={"id": "missing", "image": str(tmp_path / "nowhere.png")})
    lost = sample.model_copy(update={"id": "lost", "question": "Lost?"})
    model = ScriptedModel(
        grounding=lambda request: "nowhere" if "Lost?" in str(request.messages[-1].parts) else boxes_text(LEFT),
        crops_only=r"\boxed{B}",
        direct=r"\boxed{B}",
    )
    checks = verify(model, [sample, missing, lost], LoopSettings())
    assert model.kinds() == [["grounding"] * 2, ["crops_only"], ["direct"] * 2, ["direct"]]
    assert [check.sample_id for check in checks] == ["s1", "missing", "lost"]
    assert (checks[0].sufficiency, checks[0].necessity) == (1.0, False)
    assert (checks[1].sufficiency, checks[1].necessity, checks[1].area_share) == (None, None, None)
    assert checks[1].rollouts[0].outcome == "error"
    assert (checks[2].sufficiency, checks[2].necessity, checks[2].masked) == (0.0, None, None)


@pytest.mark.parametrize(("rollouts", "settings"), [(0, WARM), (-1, WARM), (2, LoopSettings())])
def test_rollouts_that_would_say_nothing_are_refused(rollouts: int, settings: LoopSettings) -> None:
    with pytest.raises(InputError, match="expected"):
        check_rollout_count(rollouts, settings)


class _Guarded(GoldSample):
    """A sample that raises on access to its gold boxes."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("gold_boxes", "model_dump", "model_dump_json", "__dict__"):
            raise AssertionError(f"verification accessed the gold boxes through {name}")
        return super().__getattribute__(name)


def test_no_gold_box_is_ever_read(sample: Sample) -> None:
    gold = GoldSample(**sample.model_dump(), gold_boxes=(Box.from_xyxy((0, 0, 9, 9)),))
    guarded = _Guarded(**gold.model_dump())
    with pytest.raises(AssertionError):
        _ = guarded.gold_boxes
    script: dict[str, Any] = {"grounding": boxes_text(LEFT), "crops_only": r"\boxed{B}", "direct": r"\boxed{A}"}
    samples = (guarded, gold.without_gold_boxes())
    checked = [verify(ScriptedModel(**script), [each], LoopSettings()) for each in samples]
    assert checked[0] == checked[1]


def test_a_verification_survives_json(sample: Sample) -> None:
    model = ScriptedModel(grounding=boxes_text(LEFT), crops_only=r"\boxed{B}", direct=r"\boxed{B}")
    (verification,) = verify(model, [sample], LoopSettings())
    assert Verification.model_validate_json(verification.model_dump_json()) == verification


def test_the_masked_image_is_a_copy(sample: Sample, image: Path) -> None:
    model = ScriptedModel(grounding=boxes_text((0, 0, 1000, 1000)), crops_only="x", direct="y")
    verify(model, [sample], LoopSettings())
    overview = np.asarray(images_in(model.requests("grounding")[0])[0].pixels)
    assert overview.std() > 5
    assert np.asarray(Image.open(image)).std() > 5


@pytest.mark.parametrize(
    ("options", "necessity", "text", "is_proof"),
    [
        (4, None, "Correct from the crop (25 % by random guess)", False),
        (4, True, "Correct from the crop (25 % by random guess)", False),
        (2, False, "Correct from the crop (50 % by random guess, the same answer with the region masked)", False),
        (26, True, "Correct from the crop (4 % by random guess)", True),
        (26, False, "Correct from the crop (4 % by random guess, the same answer with the region masked)", False),
        (0, True, "Correct from the crop", True),
        (0, None, "Correct from the crop", True),
        (0, False, "Correct from the crop (the same answer with the region masked)", False),
    ],
)
def test_a_right_answer_is_proof_only_if_guessing_is_unlikely_and_the_region_needed(
    options: int, necessity: bool | None, text: str, is_proof: bool
) -> None:
    assert describe_correct_answer(options, necessity, is_from_crop=True) == (text, is_proof)


def test_an_answer_from_the_full_image_says_nothing_of_the_region() -> None:
    assert describe_correct_answer(4, False, is_from_crop=False) == ("Correct (25 % by random guess)", False)
    assert describe_correct_answer(0, False, is_from_crop=False) == ("Correct", True)


def test_the_chance_of_an_open_question_is_not_known() -> None:
    assert guess_probability(0) is None
    assert guess_probability(8) == 0.125
