from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hart_studio.data.sources import load_jsonl
from hart_studio.errors import DataError, ModelError
from hart_studio.evaluation.statistics import ONE_SIDED_Z, wilson
from hart_studio.image_domains import NEEDLE_CUSTOM
from hart_studio.labeling import calibrate, self_verify
from hart_studio.labeling.__main__ import main
from hart_studio.labeling.box_refinement import BoxRefinementSettings
from hart_studio.labeling.calibrate import (
    CalibrationExample,
    EvaluatedProposal,
    choose_threshold,
    describe_calibration,
    evaluate_proposals,
    fit_curve,
    fit_logistic,
    fit_signed,
    infer_calibration_domain,
    make_bins,
    make_calibration,
    select_gold_samples,
)
from hart_studio.labeling.calibration import (
    ScoreModel,
    load_calibration,
    read_features,
    save_calibration,
)
from hart_studio.labeling.calibration_lookup import CALIBRATION, get_calibration
from hart_studio.labeling.records import EvidenceKind
from hart_studio.labeling.self_verify import MAX_CONSECUTIVE_FAILURES, Proposal, ProposalSettings
from hart_studio.models.catalog import TRAINED_MODEL
from hart_studio.models.model_identity import ModelIdentity, digest_model, identify_model
from hart_studio.records import Box, GoldSample, Sample
from tests.fakes import ScriptedModel
from tests.unit.labeling.conftest import WH, draw_marked, make_check
from tests.unit.labeling.test_calibration import DRAWN
from tests.unit.labeling.test_calibration import make_calibration as make_stored
from tests.unit.pipeline.conftest import boxes_text

HERE, AWAY = (250, 333, 500, 667), (750, 0, 1000, 333)


@pytest.fixture
def samples(tmp_path: Path) -> list[GoldSample]:
    Image.new("RGB", WH).save(tmp_path / "a.png")
    return [
        GoldSample(
            id=f"{n}", image=str(tmp_path / "a.png"), question="?", choices=("a", "b"), answer="A",
            gold_boxes=(Box.from_xyxy((100, 100, 200, 200)),),
        )
        for n in range(4)
    ]  # fmt: skip


def test_each_question_is_judged_with_and_without_its_answer(samples: list[GoldSample]) -> None:
    found = [boxes_text(HERE), boxes_text(AWAY)] * 8
    model = ScriptedModel(grounding=[text for text in found for _ in range(2)], crops_only="A", direct="A")
    batches = list(evaluate_proposals(model, samples, ProposalSettings(rollouts=2), batch=2))
    assert [len(batch) for batch in batches] == [4, 4]
    records = [record for batch in batches for record in batch]
    assert [record.kind for record in batches[0]] == ["known_answer"] * 2 + ["agreement"] * 2
    right = [record.example.is_right for record in records if record.example]
    assert right == [True, False] * 4
    assert [round(record.iou, 2) for record in records[:2]] == [1.0, 0.0]
    unknown = [record.example.check for record in records if record.kind == "agreement" and record.example]
    assert {check.majority_answer for check in unknown} == {"A"}


def test_labels_without_a_box_are_no_labels(samples: list[GoldSample]) -> None:
    model = ScriptedModel(grounding="nowhere", direct="A")
    (records,) = evaluate_proposals(model, samples, ProposalSettings(rollouts=2), batch=8)
    assert all(record.example is None and record.iou == 0 for record in records)
    with pytest.raises(DataError, match="Too few labels for the fit half: 0 "):
        make_calibration(
            records, model=ModelIdentity("m", "", ""), data="d", domain=DRAWN, settings=ProposalSettings(rollouts=2)
        )


def test_the_domain_is_found_in_the_files_and_not_in_names(samples: list[GoldSample], tmp_path: Path) -> None:
    settings = ProposalSettings(rollouts=2)
    found = infer_calibration_domain(samples, "needle", settings)
    assert (found.images, found.data_set, found.answer_forms) == ("", "needle", ("multiple_choice",))
    drawn = draw_marked(tmp_path / "b.jpg")
    scenes = [sample.model_copy(update={"image": str(drawn)}) for sample in samples]
    assert infer_calibration_domain(scenes, "photographs", settings) == DRAWN
    refined = settings.model_copy(update={"refinement": BoxRefinementSettings()})
    assert infer_calibration_domain(scenes, "", refined).is_refined
    with pytest.raises(DataError, match="mix image domains: other images, synthetic needle scenes"):
        infer_calibration_domain([*samples, *scenes], "both", settings)


def test_scenes_with_other_settings_cannot_be_calibrated_on(samples: list[GoldSample], tmp_path: Path) -> None:
    drawn = draw_marked(tmp_path / "b.jpg", domain=NEEDLE_CUSTOM)
    scenes = [sample.model_copy(update={"image": str(drawn)}) for sample in samples]
    with pytest.raises(DataError, match="not be valid for other scene settings"):
        infer_calibration_domain(scenes, "needle", ProposalSettings(rollouts=2))


def write_model(folder: Path, weights: bytes = b"weights") -> str:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    return digest_model(folder)


def test_a_calibration_says_which_files_it_was_made_with(samples: list[GoldSample], tmp_path: Path) -> None:
    digest = write_model(tmp_path / "run-a" / "model")
    model = ScriptedModel(grounding=boxes_text(HERE), crops_only="A", direct="A")
    (batch,) = evaluate_proposals(model, samples, ProposalSettings(rollouts=2), 8)
    known = [record for record in batch if record.kind == "known_answer"]
    agreeing = [record for record in batch if record.kind == "agreement"]
    identity = identify_model(str(tmp_path / "run-a" / "model"))
    records = [*mix(known[0], 120), *agreeing]
    found = make_calibration(records, model=identity, data="d", domain=DRAWN, settings=ProposalSettings(rollouts=2))
    made = found.calibration
    assert (made.model, made.model_digest, made.model_revision) == ("model", digest, "")
    assert set(made.curves) == {"known_answer"}, "four labels make no curve of agreement"
    assert found.shortages == {"agreement": found.shortages["agreement"]}
    assert "Too few labels for the fit half: 2 (2 correct, 0 wrong)" in found.shortages["agreement"]
    reported = describe_calibration(made)
    assert "known_answer: 60 tested, 90.0 % (79.9 % – 95.3 %) correct" in reported
    assert "auto-accept disabled: no threshold reliably reaches precision 0.95" in reported, "54 of 60 share a score"


def mix(record: EvaluatedProposal, count: int) -> list[EvaluatedProposal]:
    """Copies of a record of a right label; two in a row of every twenty are wrong: one to fit, one to test on."""
    assert record.example is not None
    wrong = record.model_copy(update={"example": record.example._replace(is_right=False)})
    return [wrong if place % 20 < 2 else record for place in range(count)]


def write_samples(folder: Path, samples: list[GoldSample], **changes: dict[str, object]) -> Path:
    """A folder to calibrate on, each sample with its own image; ``changes`` by id."""
    folder.mkdir()
    rows = []
    for sample in samples:
        Image.effect_noise(WH, 50).convert("RGB").save(folder / f"{sample.id}.png")
        row = {
            "id": sample.id, "image": f"{sample.id}.png", "question": "?", "choices": ["a", "b"], "answer": "A",
            "gold_boxes": [[100, 100, 200, 200]],
        }  # fmt: skip
        rows.append({**row, **changes.get(f"s{sample.id}", {})})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "samples.jsonl"


def test_samples_that_cannot_be_used_are_left_out_and_counted(
    samples: list[GoldSample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [samples[0].model_copy(update={"id": str(number)}) for number in range(9)]
    changes: dict[str, dict[str, object]] = {
        "s1": {"gold_boxes": []}, "s2": {"gold_boxes": None}, "s3": {"answer": None}, "s4": {"image": "gone.png"},
        "s7": {"gold_boxes": [[500, 10, 600, 20]]},
    }  # fmt: skip
    monkeypatch.setattr(calibrate, "MIN_LABELS", 1)
    path = write_samples(tmp_path / "gold", many, **changes)
    (path.parent / "5.png").write_bytes(b"junk")
    whole = (path.parent / "6.png").read_bytes()
    (path.parent / "6.png").write_bytes(whole[: len(whole) // 3])
    found = select_gold_samples(load_jsonl(path))
    assert [sample.id for sample in found.samples] == ["0", "8"]
    assert found.excluded["no gold box"] == 2 and found.excluded["no answer"] == 1
    assert sum(found.excluded.values()) == 7
    assert any("box is outside of the image" in reason for reason in found.excluded)


def test_missing_gold_boxes_are_reported_before_the_model_is_loaded(
    samples: list[GoldSample], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hart_studio.labeling.__main__.load_chat_model", lambda *_, **__: pytest.fail("loaded the model")
    )
    path = write_samples(tmp_path / "gold", samples, **{f"s{number}": {"gold_boxes": []} for number in range(4)})
    assert main(["calibrate", "--data", str(path.parent), "--out", str(tmp_path / "c.json")]) == 2
    reported = capsys.readouterr().err
    assert "Too few samples for a calibration: 0 of 'gold' are usable, 100 are needed; 4 x no gold box." in reported
    for target in ("0", "1", "-1", "2", "nan"):
        assert main(["calibrate", "--data", str(path.parent), "--target-precision", target]) == 2
        assert "--target-precision must be above 0 and below 1" in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


def test_the_command_makes_no_calibration_from_labels_that_are_all_right(
    samples: list[GoldSample], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "MIN_LABELS", 1)
    model = ScriptedModel(grounding=boxes_text(HERE), crops_only="A", direct="A")
    monkeypatch.setattr("hart_studio.labeling.__main__.load_chat_model", lambda *_, **__: model)
    path = write_samples(tmp_path / "gold", samples, s1={"gold_boxes": []})
    command = ["calibrate", "--data", str(path.parent), "--rollouts", "2", "--out", str(tmp_path / "c.json")]
    assert main(command) == 2
    reported = capsys.readouterr()
    assert "1 excluded: no gold box" in reported.out
    assert "Too few labels for the fit half: 2 (2 correct, 0 wrong)" in reported.err
    assert not (tmp_path / "c.json").exists()


def test_a_question_at_which_the_model_fails_stops_no_calibration(
    samples: list[GoldSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ScriptedModel(grounding=boxes_text(HERE), crops_only="A", direct="A")
    plain = self_verify.propose

    def fail_at_two(model: ScriptedModel, asked: list[Sample], *rest: object) -> list[Proposal]:
        if any(sample.id == "2" for sample in asked):
            raise RuntimeError("out of memory")
        return plain(model, asked, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(self_verify, "propose", fail_at_two)
    (records,) = evaluate_proposals(model, samples, ProposalSettings(rollouts=2), 8)
    assert [record.example is None for record in records] == [False, False, True, False] * 2

    monkeypatch.setattr(self_verify, "propose", lambda *_: 1 / 0)
    many = [samples[0].model_copy(update={"id": str(number)}) for number in range(MAX_CONSECUTIVE_FAILURES)]
    with pytest.raises(ModelError, match="The model failed on the last 16 proposals: ZeroDivisionError"):
        list(evaluate_proposals(model, many, ProposalSettings(rollouts=2), 4))


def test_no_other_model_in_a_folder_of_the_same_name_gets_the_calibration(tmp_path: Path) -> None:
    digest = write_model(tmp_path / "run-a" / "model")
    write_model(tmp_path / "run-b" / "model", b"WEIGHTS")
    stored = make_stored(model="model", model_digest=digest)
    save_calibration(tmp_path / CALIBRATION, stored)
    assert get_calibration(str(tmp_path / "run-a" / "model"), tmp_path) == stored
    assert get_calibration(str(tmp_path / "run-b" / "model"), tmp_path) is None
    save_calibration(tmp_path / CALIBRATION, make_stored(model="model"))
    assert get_calibration(str(tmp_path / "run-a" / "model"), tmp_path) is None, "one without a digest is for no folder"


def test_another_revision_of_a_hub_model_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = make_stored(model="org/m", model_revision="c0ffee")
    for revision, expected in (("c0ffee", True), ("", True), ("beef", False)):
        found = ModelIdentity("org/m", "", revision)
        monkeypatch.setattr("hart_studio.labeling.calibration.identify_model", lambda name, found=found: found)
        assert stored.matches_model("org/m") is expected
        assert make_stored(model="org/m").matches_model("org/m")
        assert not make_stored(model="org/other").matches_model("org/m")


def test_the_projects_own_calibration_comes_first(tmp_path: Path) -> None:
    own, of_model = tmp_path / "project", tmp_path / "model"
    own.mkdir()
    digest = write_model(of_model)
    stored = make_stored(model="model", model_digest=digest, data="of the model", domain=DRAWN)
    save_calibration(of_model / CALIBRATION, stored)
    found = get_calibration(str(of_model), own)
    assert found is not None
    assert found.data == "of the model"
    save_calibration(own / CALIBRATION, make_stored(model="x", model_digest=digest, data="of the project"))
    found = get_calibration(str(of_model), own)
    assert found is not None
    assert found.data == "of the project"


def test_a_calibration_on_a_named_data_set_counts_in_the_projects_folder_alone(tmp_path: Path) -> None:
    of_model = tmp_path / "model"
    save_calibration(of_model / CALIBRATION, make_stored(model="model", model_digest=write_model(of_model)))
    assert get_calibration(str(of_model), tmp_path) is None


def test_no_model_gets_the_calibration_of_another(tmp_path: Path) -> None:
    assert get_calibration("org/another-model", tmp_path) is None
    save_calibration(tmp_path / CALIBRATION, make_stored(model="another"))
    assert get_calibration("org/another-model", tmp_path) is None


def test_the_built_in_models_ship_with_theirs(tmp_path: Path) -> None:
    found = get_calibration(TRAINED_MODEL, tmp_path)
    assert found is not None
    assert found.domain == DRAWN
    assert set(found.curves) == {"agreement", "known_answer"}
    assert all(curve.threshold is not None and curve.precision for curve in found.curves.values())


def test_a_damaged_calibration_is_no_silent_fallback(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION).write_text("{")
    with pytest.raises(DataError, match="Create it again"):
        get_calibration(TRAINED_MODEL, tmp_path)


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
    good = CalibrationExample(make_check(sufficiency=1.0, crops_correct=True), True)
    bad = CalibrationExample(make_check(sufficiency=0.25), False)
    with pytest.raises(DataError, match=f"Too few labels for the {reported}"):
        fit_curve([good] * fit_right + [bad] * fit_wrong, [good] * test_right + [bad] * test_wrong)


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
    good = CalibrationExample(make_check(sufficiency=1.0, crops_correct=True), True)
    bad = CalibrationExample(make_check(sufficiency=0.0, crops_correct=False), False)
    curve = fit_curve([good, bad] * 50, [good] * 60 + [bad] * 20, 0.95)
    assert (curve.fitted_on, curve.tested_on, curve.base_rate) == (100, 80, 0.75)
    assert (curve.precision, curve.recall) == (1.0, 1.0)
    assert (curve.right_estimate, curve.precision_estimate, curve.recall_estimate) == (
        wilson(60, 80), wilson(60, 60), wilson(60, 60),
    )  # fmt: skip
    assert curve.brier < 0.05
    assert (curve.scored, curve.threshold) == (60, pytest.approx(make_score(curve, good)))
    odd = CalibrationExample(make_check(sufficiency=1.0, crops_correct=False), True)
    with pytest.raises(DataError, match="None of the 60 tested labels has a score"):
        fit_curve([good, bad] * 50, [odd] * 50 + [bad] * 10, 0.95)


def make_score(curve: ScoreModel, example: CalibrationExample) -> float:
    return 1 / (1 + math.exp(-float(read_features(example.check) @ np.array(curve.weights))))


def test_right_labels_without_a_score_count_as_not_accepted() -> None:
    good = CalibrationExample(make_check(sufficiency=1.0, crops_correct=True), True)
    odd = CalibrationExample(make_check(sufficiency=1.0, crops_correct=False), True)
    bad = CalibrationExample(make_check(sufficiency=0.0, crops_correct=False), False)
    curve = fit_curve([good, bad] * 50, [good] * 60 + [odd] * 20 + [bad] * 20, 0.95)
    assert (curve.tested_on, curve.scored, curve.base_rate) == (100, 60, 0.8)
    assert (curve.precision, curve.recall) == (1.0, 0.75)
