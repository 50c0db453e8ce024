"""What is told of the scores of a run before anybody waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError
from hart_studio.labeling.calibration import save_calibration
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.known_calibrations import CALIBRATION, tell_scores
from hart_studio.labeling.project import Project
from hart_studio.models.catalog import TRAINED_MODEL
from tests.unit.labeling.conftest import ask
from tests.unit.labeling.test_calibration import make_calibration


def test_a_run_like_the_calibrations_own_has_its_basis_and_no_caution(filled: Project) -> None:
    found = tell_scores(TRAINED_MODEL, filled, 8, 1.0)
    assert found.cautions == ()
    assert found.basis.startswith("Scores are calibrated on needle, 500 questions of needle-val, with 8 rollouts at ")
    assert "On other pictures they may be off" in found.basis


@pytest.mark.parametrize(("rollouts", "temperature", "told"), [(4, 1.0, "has 4 at 1:"), (8, 0.7, "has 8 at 0.7:")])
def test_other_settings_than_the_calibrations_are_told(
    filled: Project, rollouts: int, temperature: float, told: str
) -> None:
    (caution,) = tell_scores(TRAINED_MODEL, filled, rollouts, temperature).cautions
    assert "the scores are calibrated for 8 rollouts at temperature 1, and this run" in caution
    assert told in caution


def test_evidence_that_no_threshold_is_known_for_is_told_when_it_occurs(project: Project, picture: Path) -> None:
    curve = make_calibration().curves["known_answer"].model_copy(update={"threshold": None})
    save_calibration(project.folder / CALIBRATION, make_calibration(curves={"known_answer": curve}))
    (origin,) = tell_scores("m", project, 4, 1.0).cautions
    assert origin.startswith("Scores and auto-accept thresholds come from calibration.json in the project folder")
    samples = ask(picture, 1), ask(picture, 2, answer=None)
    import_samples(project, LoadedSamples("s", samples))
    told = tell_scores("m", project, 4, 1.0).cautions
    assert told[0] == origin, "a project may have been copied from somebody else"
    assert [text.partition(" was sure")[0] for text in told[1:]] == [
        "no score of a label with a known answer",
        "no score of a label without a known answer",
    ]


def test_a_model_without_its_own_calibration_is_told_alone(filled: Project) -> None:
    found = tell_scores("org/another-model", filled, 3, 0.5)
    assert found.basis == ""
    (caution,) = found.cautions
    assert "no calibration of this model" in caution


def test_a_calibration_that_cannot_be_read_is_an_error(filled: Project) -> None:
    (filled.folder / CALIBRATION).write_text("{")
    with pytest.raises(DataError, match="make it again"):
        tell_scores(TRAINED_MODEL, filled, 8, 1.0)
