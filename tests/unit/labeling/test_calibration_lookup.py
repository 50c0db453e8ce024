"""Description of the scores of a run before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError
from hart_studio.image_domains import NEEDLE_CUSTOM
from hart_studio.labeling.box_refinement import BoxRefinementSettings
from hart_studio.labeling.calibration import save_calibration
from hart_studio.labeling.calibration_lookup import CALIBRATION, describe_score_basis
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project
from hart_studio.labeling.self_verify import ProposalSettings
from hart_studio.models.catalog import TRAINED_MODEL
from hart_studio.pipeline.settings import LoopSettings
from tests.unit.labeling.conftest import ask, draw_marked
from tests.unit.labeling.test_calibration import make_calibration


def settings(rollouts: int = 8, temperature: float = 1.0, *, is_refining: bool = False) -> ProposalSettings:
    refinement = BoxRefinementSettings() if is_refining else None
    return ProposalSettings(rollouts=rollouts, loop=LoopSettings(temperature=temperature), refinement=refinement)


@pytest.fixture
def drawn(project: Project, drawn_image: Path) -> Project:
    import_samples(project, LoadedSamples("s", tuple(ask(drawn_image, number) for number in range(6))))
    return project


def test_a_run_like_the_calibrations_own_has_its_basis_and_no_caution(drawn: Project) -> None:
    found = describe_score_basis(TRAINED_MODEL, drawn, settings())
    assert (found.cautions, found.warnings) == ((), ())
    assert found.basis.startswith("Scores are calibrated on needle, 500 questions of needle-val, with 8 rollouts at ")
    assert "valid for synthetic needle scenes, multiple choice; other labels are uncalibrated" in found.basis


@pytest.mark.parametrize("proposals", [settings(4), settings(temperature=0.7)])
def test_other_settings_than_the_calibrations_leave_no_score(drawn: Project, proposals: ProposalSettings) -> None:
    found = describe_score_basis(TRAINED_MODEL, drawn, proposals)
    assert found.basis == ""
    (caution,) = found.cautions
    assert "6 of 6 items will be uncalibrated" in caution
    assert "number of rollouts or temperature differs from the calibration (8 rollouts" in caution


def test_refinement_is_reported(drawn: Project) -> None:
    (caution,) = describe_score_basis(TRAINED_MODEL, drawn, settings(is_refining=True)).cautions
    assert "box refinement differs" in caution


def test_scenes_with_other_than_the_default_settings_get_no_score_and_no_warning(
    project: Project, tmp_path: Path
) -> None:
    custom = draw_marked(tmp_path / "custom.jpg", domain=NEEDLE_CUSTOM)
    import_samples(project, LoadedSamples("s", (ask(custom),)))
    found = describe_score_basis(TRAINED_MODEL, project, settings())
    assert (found.basis, found.warnings) == ("", ()), "the model can read them"
    assert "1 of 1 items will be uncalibrated" in found.cautions[0]
    assert "images differ from those of the calibration" in found.cautions[0]


def test_photographs_are_warned_of_and_get_no_score(filled: Project) -> None:
    found = describe_score_basis(TRAINED_MODEL, filled, settings())
    assert found.basis == ""
    assert "6 of 6 items will be uncalibrated" in found.cautions[0]
    (warning,) = found.warnings
    assert warning.startswith(
        "hart-tiny was trained only on synthetic needle scenes; its answers on images of this project are"
    )


def test_what_is_inside_and_outside_is_counted(project: Project, image: Path, drawn_image: Path) -> None:
    open_question = ask(drawn_image, 3).model_copy(update={"choices": (), "answer": "7"})
    samples = ask(image, 1), ask(drawn_image, 2), open_question
    import_samples(project, LoadedSamples("s", samples))
    found = describe_score_basis(TRAINED_MODEL, project, settings())
    assert found.basis
    assert (
        sorted(text.partition(":")[0] for text in found.cautions)
        == ["1 of 3 items will be uncalibrated and need review"] * 2
    )
    assert any("answer format differs" in text for text in found.cautions)
    assert any("images differ" in text for text in found.cautions)


def test_evidence_that_no_threshold_is_known_for_is_reported_when_it_occurs(project: Project, image: Path) -> None:
    curve = make_calibration().curves["known_answer"].model_copy(update={"threshold": None})
    save_calibration(project.folder / CALIBRATION, make_calibration(curves={"known_answer": curve}))
    assert describe_score_basis("m", project, settings(4)).cautions == (), "there is no label yet that it could concern"
    samples = ask(image, 1), ask(image, 2, answer=None)
    import_samples(project, LoadedSamples("s", samples))
    outside, origin, unsure = describe_score_basis("m", project, settings(4)).cautions
    assert outside.startswith(
        "1 of 2 items will be uncalibrated and need review: the calibration does not cover this kind of evidence"
    )
    assert origin.startswith("Scores and auto-accept thresholds come from calibration.json in the project folder")
    assert unsure.startswith("No threshold reaches the target precision for labels with known answers")


def test_a_model_without_its_own_calibration_is_reported_alone(filled: Project) -> None:
    found = describe_score_basis("org/another-model", filled, settings(3, 0.5))
    assert (found.basis, found.warnings) == ("", ())
    (caution,) = found.cautions
    assert "no calibration for this model: all labels are uncalibrated" in caution


def test_a_calibration_that_cannot_be_read_is_an_error(filled: Project) -> None:
    (filled.folder / CALIBRATION).write_text("{")
    with pytest.raises(DataError, match="Create it again"):
        describe_score_basis(TRAINED_MODEL, filled, settings())
