from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from hart_studio.errors import DataError
from hart_studio.image_domains import NEEDLE_CUSTOM
from hart_studio.labeling.calibrate import find_domain, judge_proposals, make_calibration
from hart_studio.labeling.calibration import save_calibration
from hart_studio.labeling.known_calibrations import CALIBRATION, find_calibration
from hart_studio.labeling.self_verify import ProposalSettings
from hart_studio.labeling.tightening import TighteningSettings
from hart_studio.models.catalog import TRAINED_MODEL
from hart_studio.models.model_identity import ModelIdentity, digest_model, identify_model
from hart_studio.records import Box, GoldSample
from tests.fakes import ScriptedModel
from tests.unit.labeling.conftest import WH, draw_marked
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
            gold_boxes=(Box.of((100, 100, 200, 200)),),
        )
        for n in range(4)
    ]  # fmt: skip


def test_each_question_is_judged_with_and_without_its_answer(samples: list[GoldSample]) -> None:
    found = [boxes_text(HERE), boxes_text(AWAY)] * 8
    model = ScriptedModel(grounding=[text for text in found for _ in range(2)], crops_only="A", direct="A")
    batches = list(judge_proposals(model, samples, ProposalSettings(rollouts=2), batch=2))
    assert [len(batch) for batch in batches] == [4, 4]
    records = [record for batch in batches for record in batch]
    assert [record.kind for record in batches[0]] == ["known_answer"] * 2 + ["agreement"] * 2
    right = [record.judged.is_right for record in records if record.judged]
    assert right == [True, False] * 4
    assert [round(record.iou, 2) for record in records[:2]] == [1.0, 0.0]
    unknown = [record.judged.check for record in records if record.kind == "agreement" and record.judged]
    assert {check.majority_answer for check in unknown} == {"A"}


def test_labels_without_a_box_are_no_labels(samples: list[GoldSample]) -> None:
    model = ScriptedModel(grounding="nowhere", direct="A")
    (records,) = judge_proposals(model, samples, ProposalSettings(rollouts=2), batch=8)
    assert all(record.judged is None and record.iou == 0 for record in records)
    with pytest.raises(DataError, match="labels to fit and to test on"):
        make_calibration(
            records, model=ModelIdentity("m", "", ""), data="d", domain=DRAWN, settings=ProposalSettings(rollouts=2)
        )


def test_the_domain_is_found_in_the_files_and_not_in_names(samples: list[GoldSample], tmp_path: Path) -> None:
    settings = ProposalSettings(rollouts=2)
    found = find_domain(samples, "needle", settings)
    assert (found.images, found.data_set, found.answer_forms) == ("", "needle", ("multiple_choice",))
    drawn = draw_marked(tmp_path / "b.jpg")
    scenes = [sample.model_copy(update={"image": str(drawn)}) for sample in samples]
    assert find_domain(scenes, "photographs", settings) == DRAWN
    tightened = settings.model_copy(update={"tightening": TighteningSettings()})
    assert find_domain(scenes, "", tightened).is_tightened
    with pytest.raises(DataError, match="images of one kind, got other images, drawn needle scenes"):
        find_domain([*samples, *scenes], "both", settings)


def test_scenes_with_other_than_the_default_settings_are_nothing_to_calibrate_on(
    samples: list[GoldSample], tmp_path: Path
) -> None:
    drawn = draw_marked(tmp_path / "b.jpg", domain=NEEDLE_CUSTOM)
    scenes = [sample.model_copy(update={"image": str(drawn)}) for sample in samples]
    with pytest.raises(DataError, match="not be valid for other settings"):
        find_domain(scenes, "needle", ProposalSettings(rollouts=2))


def write_model(folder: Path, weights: bytes = b"weights") -> str:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    return digest_model(folder)


def test_a_calibration_says_which_files_it_was_made_with(samples: list[GoldSample], tmp_path: Path) -> None:
    digest = write_model(tmp_path / "run-a" / "model")
    model = ScriptedModel(grounding=boxes_text(HERE), crops_only="A", direct="A")
    records = [record for batch in judge_proposals(model, samples, ProposalSettings(rollouts=2), 8) for record in batch]
    identity = identify_model(str(tmp_path / "run-a" / "model"))
    found = make_calibration(records, model=identity, data="d", domain=DRAWN, settings=ProposalSettings(rollouts=2))
    assert (found.model, found.model_digest, found.model_revision) == ("model", digest, "")


def test_no_other_model_in_a_folder_of_the_same_name_gets_the_calibration(tmp_path: Path) -> None:
    digest = write_model(tmp_path / "run-a" / "model")
    write_model(tmp_path / "run-b" / "model", b"WEIGHTS")
    stored = make_stored(model="model", model_digest=digest)
    save_calibration(tmp_path / CALIBRATION, stored)
    assert find_calibration(str(tmp_path / "run-a" / "model"), tmp_path) == stored
    assert find_calibration(str(tmp_path / "run-b" / "model"), tmp_path) is None
    save_calibration(tmp_path / CALIBRATION, make_stored(model="model"))
    assert find_calibration(str(tmp_path / "run-a" / "model"), tmp_path) is None, (
        "one without a digest is for no folder"
    )


def test_another_revision_of_a_hub_model_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = make_stored(model="org/m", model_revision="c0ffee")
    for revision, expected in (("c0ffee", True), ("", True), ("beef", False)):
        found = ModelIdentity("org/m", "", revision)
        monkeypatch.setattr("hart_studio.labeling.calibration.identify_model", lambda name, found=found: found)
        assert stored.is_for("org/m") is expected
        assert make_stored(model="org/m").is_for("org/m")
        assert not make_stored(model="org/other").is_for("org/m")


def test_the_projects_own_calibration_comes_first(tmp_path: Path) -> None:
    own, of_model = tmp_path / "project", tmp_path / "model"
    own.mkdir()
    digest = write_model(of_model)
    stored = make_stored(model="model", model_digest=digest, data="of the model", domain=DRAWN)
    save_calibration(of_model / CALIBRATION, stored)
    found = find_calibration(str(of_model), own)
    assert found is not None
    assert found.data == "of the model"
    save_calibration(own / CALIBRATION, make_stored(model="x", model_digest=digest, data="of the project"))
    found = find_calibration(str(of_model), own)
    assert found is not None
    assert found.data == "of the project"


def test_a_calibration_on_a_named_data_set_counts_in_the_projects_folder_alone(tmp_path: Path) -> None:
    of_model = tmp_path / "model"
    save_calibration(of_model / CALIBRATION, make_stored(model="model", model_digest=write_model(of_model)))
    assert find_calibration(str(of_model), tmp_path) is None


def test_no_model_gets_the_calibration_of_another(tmp_path: Path) -> None:
    assert find_calibration("org/another-model", tmp_path) is None
    save_calibration(tmp_path / CALIBRATION, make_stored(model="another"))
    assert find_calibration("org/another-model", tmp_path) is None


def test_the_built_in_models_ship_with_theirs(tmp_path: Path) -> None:
    found = find_calibration(TRAINED_MODEL, tmp_path)
    assert found is not None
    assert found.domain == DRAWN
    assert set(found.curves) == {"agreement", "known_answer"}
    assert all(curve.threshold is not None and curve.precision for curve in found.curves.values())


def test_a_damaged_calibration_is_no_silent_fallback(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION).write_text("{")
    with pytest.raises(DataError, match="make it again"):
        find_calibration(TRAINED_MODEL, tmp_path)
