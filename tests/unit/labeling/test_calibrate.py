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
        make_calibration(records, model="m", data="d", domain=DRAWN, settings=ProposalSettings(rollouts=2))


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


def test_the_projects_own_calibration_comes_first(tmp_path: Path) -> None:
    own, of_model = tmp_path / "project", tmp_path / "model"
    own.mkdir()
    of_model.mkdir()
    save_calibration(of_model / CALIBRATION, make_stored(model="model", data="of the model", domain=DRAWN))
    found = find_calibration(str(of_model), own)
    assert found is not None
    assert found.data == "of the model"
    save_calibration(own / CALIBRATION, make_stored(model="model", data="of the project"))
    found = find_calibration(str(of_model), own)
    assert found is not None
    assert found.data == "of the project"


def test_a_calibration_on_a_named_data_set_counts_in_the_projects_folder_alone(tmp_path: Path) -> None:
    of_model = tmp_path / "model"
    of_model.mkdir()
    save_calibration(of_model / CALIBRATION, make_stored(model="model"))
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
