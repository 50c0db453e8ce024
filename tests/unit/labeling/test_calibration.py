from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from hart_studio.errors import DataError
from hart_studio.labeling.calibration import (
    REASONS,
    Calibration,
    CalibrationDomain,
    LabelOrigin,
    ScoreModel,
    contradicts,
    describe_score,
    get_answer_form,
    get_domain_mismatch,
    is_calibration,
    load_calibration,
    read_features,
    save_calibration,
)
from hart_studio.labeling.records import BoxCheck, EvidenceKind, Label, Uncalibrated
from hart_studio.models.catalog import BUILT_IN_MODEL, TRAINED_MODEL
from hart_studio.records import Sample
from tests.unit.labeling.conftest import make_check

STREETS = CalibrationDomain(images="", data_set="streets", answer_forms=("multiple_choice",))
DRAWN = CalibrationDomain(images="needle", data_set="", answer_forms=("multiple_choice",))
ORIGIN = LabelOrigin("", "streets", "multiple_choice", rollouts=4, temperature=1.0)


def test_images_decide_by_evidence_and_a_data_set_by_its_name() -> None:
    assert get_domain_mismatch(STREETS, ORIGIN) is None
    assert get_domain_mismatch(DRAWN, ORIGIN._replace(data_set="needle")) == "images"
    assert get_domain_mismatch(DRAWN, ORIGIN._replace(image_domain="needle", data_set="anything")) is None


def test_a_domain_names_images_that_can_be_distinguished() -> None:
    with pytest.raises(ValidationError, match="images"):
        CalibrationDomain(images="photographs", data_set="", answer_forms=("free_text",))
    with pytest.raises(ValidationError, match="answer_forms"):
        CalibrationDomain(images="needle", data_set="", answer_forms=())


def test_a_domain_in_words() -> None:
    assert DRAWN.describe() == "synthetic needle scenes, multiple choice"
    both = STREETS.model_copy(update={"answer_forms": ("free_text", "multiple_choice")})
    assert both.describe() == "images of the dataset 'streets', free text and multiple choice"


def test_the_answer_format_of_a_question() -> None:
    assert get_answer_form(Sample(id="a", image="a", question="?")) == "free_text"
    assert get_answer_form(Sample(id="a", image="a", question="?", choices=("a", "b"))) == "multiple_choice"


@pytest.mark.parametrize(
    ("evidence", "is_against"),
    [
        ({"crops_correct": False, "sufficiency": 1.0}, True),
        ({"crops_correct": True, "sufficiency": 0.0}, True),
        ({"crops_correct": None, "sufficiency": 0.125}, False),
        ({"crops_correct": True, "sufficiency": 1.0}, False),
        ({}, False),
    ],
)
def test_evidence_against_the_boxes(evidence: dict[str, object], is_against: bool) -> None:
    assert contradicts(make_check(**evidence)) is is_against


def test_every_reason_has_its_words() -> None:
    assert set(REASONS) == set(get_args(Uncalibrated))


@pytest.mark.parametrize(
    ("score", "check", "text"),
    [
        (0.774, make_check(), "0.77"),
        (None, make_check(), "Uncalibrated"),
        (None, make_check(rollouts=0), "–"),
        (None, None, "–"),
    ],
)
def test_a_score_for_people(score: float | None, check: BoxCheck | None, text: str) -> None:
    label = Label(revision=1, status="proposed", origin="model", score=score, check=check, at=datetime.now(UTC))
    assert describe_score(label) == text
    assert label.is_uncalibrated is (text == "Uncalibrated")


def make_calibration(**fields: object) -> Calibration:
    """Score 0.5 for no sufficiency, and sigmoid(4) for full sufficiency."""
    curve = ScoreModel(
        weights=(0.0, 4.0, 0, 0, 0, 0, 0, 0), fitted_on=1, tested_on=1, scored=1, base_rate=0.5, threshold=0.9,
        precision=1.0, recall=1.0, brier=0.0, calibration_error=0.0, bins=(),
    )  # fmt: skip
    chosen = {
        "model": "m", "data": "d", "domain": STREETS, "rollouts": 4, "temperature": 1.0, "target_precision": 0.9,
        "curves": {"known_answer": curve}, **fields,
    }  # fmt: skip
    return Calibration(**chosen)  # type: ignore[arg-type]


def test_features_by_hand() -> None:
    check = make_check(
        sufficiency=0.5, consensus=0.25, support=0.75, crops_correct=True, necessity=False, area_share=0.05
    )
    assert read_features(check).tolist() == [1.0, 0.5, 0.25, 0.75, 1.0, 0.0, 1.0, 0.5]
    assert read_features(make_check(area_share=0.9)).tolist() == [1.0, 0, 0, 0, 0, 0, 0, 1.0]


def test_the_score_is_the_logistic_of_the_evidence() -> None:
    calibration = make_calibration()
    assert calibration.score_label(make_check(sufficiency=1.0), True, ORIGIN).score == pytest.approx(
        1 / (1 + math.exp(-4))
    )
    assert calibration.score_label(make_check(), True, ORIGIN) == (0.5, None)
    assert calibration.score_label(make_check(sufficiency=1.0), False, ORIGIN) == (0.0, None)


def test_there_is_no_score_without_evidence_of_rollouts_or_of_that_kind() -> None:
    calibration = make_calibration()
    assert calibration.score_label(None, True, ORIGIN) == (None, None)
    assert calibration.score_label(make_check(rollouts=0), True, ORIGIN) == (None, None)
    assert calibration.score_label(make_check(kind="agreement"), True, ORIGIN) == (None, "evidence")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_set": "beaches"}, "images"),
        ({"answer_format": "free_text"}, "answer_format"),
        ({"rollouts": 8}, "sampling"),
        ({"temperature": 0.7}, "sampling"),
        ({"is_refined": True}, "refinement"),
        ({"is_given": True}, "given_boxes"),
    ],
)
def test_there_is_no_score_outside_of_the_domain(changes: dict[str, object], reason: str) -> None:
    good = make_check(sufficiency=1.0, crops_correct=True)
    assert make_calibration().score_label(good, True, ORIGIN._replace(**changes)) == (None, reason)
    assert make_calibration().score_label(good, False, ORIGIN._replace(**changes)) == (None, reason), "nor one of 0"


def test_no_name_of_a_data_set_makes_a_photograph_a_drawn_scene() -> None:
    calibration = make_calibration(domain=DRAWN)
    good = make_check(sufficiency=1.0)
    assert calibration.score_label(good, True, ORIGIN._replace(data_set="needle")) == (None, "images")
    assert calibration.score_label(good, True, ORIGIN._replace(image_domain="needle")).score is not None


def test_scenes_with_other_than_the_default_settings_get_no_score() -> None:
    good = make_check(sufficiency=1.0, crops_correct=True)
    custom = ORIGIN._replace(image_domain="needle-custom")
    assert make_calibration(domain=DRAWN).score_label(good, True, custom) == (None, "images")
    assert make_calibration().score_label(good, True, custom) == (None, "images"), "nor by the name of their data set"
    with pytest.raises(ValidationError):
        CalibrationDomain(images="needle-custom", data_set="", answer_forms=("multiple_choice",))


@pytest.mark.parametrize(
    "evidence",
    [{"crops_correct": False, "sufficiency": 0.0}, {"crops_correct": False, "sufficiency": 1.0}, {"sufficiency": 0.0}],
)
@pytest.mark.parametrize("kind", ["known_answer", "agreement"])
@pytest.mark.parametrize("folder", [BUILT_IN_MODEL, TRAINED_MODEL])
def test_evidence_against_the_boxes_leaves_no_score_however_strong_the_rest(
    folder: str, kind: EvidenceKind, evidence: dict[str, Any]
) -> None:
    calibration = load_calibration(Path(folder) / "calibration.json")
    origin = LabelOrigin("needle", "", "multiple_choice", calibration.rollouts, calibration.temperature)
    check = make_check(kind=kind, consensus=1.0, support=1.0, necessity=True, area_share=1.0, **evidence)
    assert calibration.score_label(check, True, origin) == (None, "contradiction")
    assert not calibration.auto_accepts(check, 1.0)


@pytest.mark.parametrize("name", ["sufficiency", "consensus", "support"])
@pytest.mark.parametrize("kind", ["known_answer", "agreement"])
@pytest.mark.parametrize("folder", [BUILT_IN_MODEL, TRAINED_MODEL])
def test_more_evidence_never_lowers_the_score_of_the_built_in_models(
    folder: str, kind: EvidenceKind, name: str
) -> None:
    calibration = load_calibration(Path(folder) / "calibration.json")
    origin = LabelOrigin("needle", "", "multiple_choice", calibration.rollouts, calibration.temperature)
    base: dict[str, Any] = {"sufficiency": 0.5, "consensus": 0.5, "support": 0.5, "crops_correct": True}
    steps = [make_check(kind=kind, **{**base, name: share / 8}) for share in range(1, 9)]
    scores = [calibration.score_label(check, True, origin).score or 0.0 for check in steps]
    assert scores == sorted(scores) and scores[0] < scores[-1]


def test_a_label_with_a_caution_is_never_auto_accepted() -> None:
    calibration = make_calibration()
    good, odd = make_check(sufficiency=1.0), make_check(sufficiency=1.0, cautions=("scattered",))
    assert calibration.auto_accepts(good, 0.95)
    assert not calibration.auto_accepts(good, 0.89)
    assert not calibration.auto_accepts(odd, 0.95)
    assert not calibration.auto_accepts(None, None)


@pytest.mark.parametrize("target", [0.0, 1.0, -1.0, 2.0, math.nan, math.inf])
def test_a_target_precision_lies_between_0_and_1(target: float) -> None:
    with pytest.raises(ValidationError):
        make_calibration(target_precision=target)


def test_it_survives_the_disk(tmp_path: Path) -> None:
    save_calibration(tmp_path / "c.json", make_calibration())
    assert load_calibration(tmp_path / "c.json") == make_calibration()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": 1'])
def test_a_file_that_is_none_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataError, match="Cannot read calibration"):
        load_calibration(tmp_path / "c.json")


def test_numbers_that_do_not_fit_together_have_no_interval() -> None:
    curve = make_calibration().curves["known_answer"]
    assert (curve.tested_on, curve.base_rate, curve.recall) == (1, 0.5, 1.0), "half of one label"
    assert (curve.precision_estimate, curve.recall_estimate) == (None, None)


def test_another_number_of_weights_is_refused(tmp_path: Path) -> None:
    curve = make_calibration().curves["known_answer"].model_copy(update={"weights": (1.0,)})
    save_calibration(tmp_path / "c.json", make_calibration(curves={"known_answer": curve}))
    with pytest.raises(DataError, match="weights"):
        load_calibration(tmp_path / "c.json")


def test_a_calibration_is_recognized_by_its_content(tmp_path: Path) -> None:
    save_calibration(tmp_path / "c.json", make_calibration())
    assert is_calibration((tmp_path / "c.json").read_bytes())
    assert not is_calibration(b"{}") and not is_calibration(b"\xff")
