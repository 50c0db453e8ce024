from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hart_studio.errors import DataError
from hart_studio.evaluation.statistics import ONE_SIDED_Z, wilson
from hart_studio.labeling.calibration import (
    Calibration,
    CalibrationCurve,
    CalibrationExample,
    choose_threshold,
    fit_curve,
    fit_logistic,
    fit_signed,
    is_calibration,
    load_calibration,
    make_bins,
    read_features,
    save_calibration,
)
from hart_studio.labeling.calibration_domain import CalibrationDomain, LabelOrigin
from hart_studio.labeling.records import EvidenceKind
from hart_studio.models.catalog import BUILT_IN_MODEL, TRAINED_MODEL
from tests.unit.labeling.conftest import make_check

STREETS = CalibrationDomain(images="", data_set="streets", answer_forms=("multiple_choice",))
DRAWN = CalibrationDomain(images="needle", data_set="", answer_forms=("multiple_choice",))
ORIGIN = LabelOrigin("", "streets", "multiple_choice", rollouts=4, temperature=1.0)


def make_calibration(**fields: object) -> Calibration:
    """Score 0.5 for no sufficiency, and sigmoid(4) for full sufficiency."""
    curve = CalibrationCurve(
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
        sufficiency=0.5, consensus=0.25, support=0.75, crops_right=True, necessity=False, area_share=0.05
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
    good = make_check(sufficiency=1.0, crops_right=True)
    assert make_calibration().score_label(good, True, ORIGIN._replace(**changes)) == (None, reason)
    assert make_calibration().score_label(good, False, ORIGIN._replace(**changes)) == (None, reason), "nor one of 0"


def test_no_name_of_a_data_set_makes_a_photograph_a_drawn_scene() -> None:
    calibration = make_calibration(domain=DRAWN)
    good = make_check(sufficiency=1.0)
    assert calibration.score_label(good, True, ORIGIN._replace(data_set="needle")) == (None, "images")
    assert calibration.score_label(good, True, ORIGIN._replace(image_domain="needle")).score is not None


def test_scenes_with_other_than_the_default_settings_get_no_score() -> None:
    good = make_check(sufficiency=1.0, crops_right=True)
    custom = ORIGIN._replace(image_domain="needle-custom")
    assert make_calibration(domain=DRAWN).score_label(good, True, custom) == (None, "images")
    assert make_calibration().score_label(good, True, custom) == (None, "images"), "nor by the name of their data set"
    with pytest.raises(ValidationError):
        CalibrationDomain(images="needle-custom", data_set="", answer_forms=("multiple_choice",))


@pytest.mark.parametrize(
    "evidence",
    [{"crops_right": False, "sufficiency": 0.0}, {"crops_right": False, "sufficiency": 1.0}, {"sufficiency": 0.0}],
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
    base: dict[str, Any] = {"sufficiency": 0.5, "consensus": 0.5, "support": 0.5, "crops_right": True}
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


def test_logistic_regression_recovers_the_weights_it_was_drawn_from() -> None:
    rng = np.random.default_rng(0)
    features = np.column_stack([np.ones(20_000), rng.normal(size=(20_000, 2))])
    truth = (rng.random(20_000) < 1 / (1 + np.exp(-(features @ [0.5, 2.0, -1.0])))).astype(float)
    assert fit_logistic(features, truth) == pytest.approx([0.5, 2.0, -1.0], abs=0.1)


def test_the_gradient_of_the_fit_is_zero_where_it_ends() -> None:
    rng = np.random.default_rng(1)
    features = np.column_stack([np.ones(50), rng.random((50, 3))])
    truth = (rng.random(50) < 0.5).astype(float)
    weights = fit_logistic(features, truth)
    chance = 1 / (1 + np.exp(-(features @ weights)))
    ridge = np.array([1e-6, 1.0, 1.0, 1.0])
    assert features.T @ (truth - chance) - ridge * weights == pytest.approx(np.zeros(4), abs=1e-6)


def test_a_fit_on_labels_that_are_all_right_stays_finite() -> None:
    weights = fit_logistic(np.column_stack([np.ones(10), np.linspace(0, 1, 10)]), np.ones(10))
    assert np.isfinite(weights).all()


def test_a_fit_keeps_no_weight_of_the_wrong_sign() -> None:
    rng = np.random.default_rng(2)
    features = np.column_stack([np.ones(400), rng.random((400, 2))])
    truth = (rng.random(400) < 1 / (1 + np.exp(-(features @ [0.0, 3.0, -3.0])))).astype(float)
    free = fit_signed(features, truth, (0, 0, 0))
    signed = fit_signed(features, truth, (0, 1, 1))
    assert free == pytest.approx(fit_logistic(features, truth))
    assert free[2] < 0 and signed[2] == 0 < signed[1]
    assert signed[:2] == pytest.approx(fit_logistic(features[:, :2], truth))


def test_the_threshold_is_the_least_that_is_sure_to_reach_the_target() -> None:
    scores = np.repeat([0.9, 0.8, 0.7, 0.6], 60)
    truth = np.concatenate([np.ones(60), np.ones(57), np.zeros(3), np.ones(30), np.zeros(30), np.zeros(60)])
    # Precisions from each score on are 60 of 60, 117 of 120, 147 of 180, 147 of 240; lower ends of one-sided 95 %
    # Wilson intervals 0.957, 0.939, 0.765, 0.560.
    assert choose_threshold(scores, truth, 0.95) == 0.9, "117 of 120 are 97.5 %, and may be 93.9 %"
    assert choose_threshold(scores, truth, 0.935) == 0.8
    assert choose_threshold(scores, truth, 0.76) == 0.7
    assert choose_threshold(scores, truth, 0.5) == 0.6
    assert choose_threshold(scores, truth, 0.96) is None
    assert choose_threshold(scores, np.zeros(240), 0.5) is None
    assert choose_threshold(np.array([]), np.array([]), 0.5) is None


@pytest.mark.parametrize(("count", "threshold"), [(2, None), (51, None), (52, 0.9)])
def test_few_labels_are_not_enough_however_right_they_are(count: int, threshold: float | None) -> None:
    assert choose_threshold(np.full(count, 0.9), np.ones(count), 0.95) == threshold


def test_labels_of_one_score_are_accepted_together() -> None:
    truth = np.append(np.ones(60), np.zeros(60))
    assert choose_threshold(np.full(120, 0.9), truth, 0.9) is None


@pytest.mark.parametrize(
    ("fit_right", "fit_wrong", "test_right", "test_wrong", "reported"),
    [
        (2, 0, 2, 0, r"fit half: 2 \(2 correct, 0 wrong\)"),
        (49, 0, 60, 10, "fit half: 49 "),
        (60, 4, 60, 10, r"fit half: 64 \(60 correct, 4 wrong\)"),
        (60, 10, 4, 60, r"test half: 64 \(4 correct, 60 wrong\)"),
        (60, 10, 20, 10, "test half: 30 "),
    ],
)
def test_too_few_labels_make_no_curve(
    fit_right: int, fit_wrong: int, test_right: int, test_wrong: int, reported: str
) -> None:
    good = CalibrationExample(make_check(sufficiency=1.0, crops_right=True), True)
    bad = CalibrationExample(make_check(sufficiency=0.25), False)
    with pytest.raises(DataError, match=f"Too few labels for the {reported}"):
        fit_curve([good] * fit_right + [bad] * fit_wrong, [good] * test_right + [bad] * test_wrong)


@pytest.mark.parametrize("target", [0.0, 1.0, -1.0, 2.0, math.nan, math.inf])
def test_a_target_precision_lies_between_0_and_1(target: float) -> None:
    with pytest.raises(ValidationError):
        make_calibration(target_precision=target)


@pytest.mark.parametrize("kind", ["known_answer", "agreement"])
def test_the_thresholds_of_the_trained_model_are_sure_to_reach_their_target(kind: EvidenceKind) -> None:
    calibration = load_calibration(Path(TRAINED_MODEL) / "calibration.json")
    curve = calibration.curves[kind]
    found = curve.precision_estimate
    assert found is not None and found.value == pytest.approx(curve.precision)
    accepted = {"known_answer": 171, "agreement": 169}[kind]
    assert wilson(round(found.value * accepted), accepted) == pytest.approx(found)
    assert wilson(round(found.value * accepted), accepted, ONE_SIDED_Z).low >= calibration.target_precision


def test_bins_by_hand() -> None:
    bins = make_bins(np.array([0.05, 0.95, 1.0, 0.92]), np.array([0.0, 1.0, 1.0, 0.0]))
    assert (bins[0].count, bins[0].score, bins[0].right) == (1, 0.05, 0.0)
    assert bins[9].count == 3
    assert (bins[9].score, bins[9].right) == (pytest.approx(2.87 / 3), pytest.approx(2 / 3))
    assert (bins[5].count, bins[5].score, bins[5].right) == (0, None, None)


def test_a_curve_is_tested_on_other_labels_than_it_was_fitted_on() -> None:
    good = CalibrationExample(make_check(sufficiency=1.0, crops_right=True), True)
    bad = CalibrationExample(make_check(sufficiency=0.0, crops_right=False), False)
    curve = fit_curve([good, bad] * 50, [good] * 60 + [bad] * 20, 0.95)
    assert (curve.fitted_on, curve.tested_on, curve.base_rate) == (100, 80, 0.75)
    assert (curve.precision, curve.recall) == (1.0, 1.0)
    assert (curve.right_estimate, curve.precision_estimate, curve.recall_estimate) == (
        wilson(60, 80), wilson(60, 60), wilson(60, 60),
    )  # fmt: skip
    assert curve.brier < 0.05
    assert (curve.scored, curve.threshold) == (60, pytest.approx(make_score(curve, good)))
    odd = CalibrationExample(make_check(sufficiency=1.0, crops_right=False), True)
    with pytest.raises(DataError, match="None of the 60 tested labels has a score"):
        fit_curve([good, bad] * 50, [odd] * 50 + [bad] * 10, 0.95)


def make_score(curve: CalibrationCurve, example: CalibrationExample) -> float:
    return 1 / (1 + math.exp(-float(read_features(example.check) @ np.array(curve.weights))))


def test_right_labels_without_a_score_count_as_not_accepted() -> None:
    good = CalibrationExample(make_check(sufficiency=1.0, crops_right=True), True)
    odd = CalibrationExample(make_check(sufficiency=1.0, crops_right=False), True)
    bad = CalibrationExample(make_check(sufficiency=0.0, crops_right=False), False)
    curve = fit_curve([good, bad] * 50, [good] * 60 + [odd] * 20 + [bad] * 20, 0.95)
    assert (curve.tested_on, curve.scored, curve.base_rate) == (100, 60, 0.8)
    assert (curve.precision, curve.recall) == (1.0, 0.75)


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
