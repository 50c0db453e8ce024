"""Records may state any score; only calibrations of this project count."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.labeling.calibration import Calibration, load_calibration, save_calibration
from hart_studio.labeling.calibration_domain import CalibrationDomain
from hart_studio.labeling.calibration_lookup import CALIBRATION
from hart_studio.labeling.import_validation import ScoreChecker, clip_imported_boxes
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import ImageFile, Item, Label, LabelProvenance
from hart_studio.models.catalog import TRAINED_MODEL
from hart_studio.records import Box
from tests.unit.labeling.conftest import ask, make_check
from tests.unit.labeling.test_calibration import make_calibration

GOOD = make_check(sufficiency=1.0, crops_right=True)
OWN_SCORE = 0.9820137900379085  # the logistic of 4
PROVENANCE = LabelProvenance(model="m", run_id="r", rollouts=4, temperature=1.0, seed=0)


def calibrate(project: Project, **fields: object) -> None:
    domain = CalibrationDomain(images="", data_set="streets", answer_forms=("multiple_choice",))
    save_calibration(project.folder / CALIBRATION, make_calibration(**{"domain": domain, **fields}))


def accepted(project: Project, image: Path, **fields: object) -> Item:
    """An item with an auto-accepted label."""
    import_samples(project, LoadedSamples("streets", (ask(image),)))
    item = next(project.items(with_history=True))
    chosen = {
        "revision": 1, "status": "auto_accepted", "origin": "model", "boxes": (Box.from_xyxy((1, 1, 50, 50)),),
        "score": 0.999,
        "check": GOOD, "provenance": PROVENANCE, "at": item.label.at, **fields,
    }  # fmt: skip
    return item.model_copy(update={"label": Label(**chosen), "history": (item.label,)})  # type: ignore[arg-type]


def test_the_project_scores_the_evidence_and_not_the_record(project: Project, image: Path) -> None:
    calibrate(project)
    checker = ScoreChecker(project)
    found = checker.check_item(accepted(project, image)).label
    assert (found.status, found.uncalibrated) == ("auto_accepted", None)
    assert found.score == pytest.approx(OWN_SCORE)
    assert checker.dropped == 0
    exact = accepted(project, image, score=OWN_SCORE)
    assert checker.check_item(exact) == exact


@pytest.mark.parametrize(
    ("fields", "uncalibrated"),
    [
        ({"check": None}, None),
        ({"provenance": None}, "model"),
        ({"check": None, "provenance": None}, None),
        ({"provenance": PROVENANCE.model_copy(update={"model": "another"})}, "model"),
        ({"provenance": PROVENANCE.model_copy(update={"model": "x" * 100_000})}, "model"),
        ({"provenance": PROVENANCE.model_copy(update={"model": "a\0b"})}, "model"),
        ({"provenance": PROVENANCE.model_copy(update={"temperature": 0.5})}, "sampling"),
        ({"provenance": PROVENANCE.model_copy(update={"is_refined": True})}, "refinement"),
        ({"check": make_check(sufficiency=1.0, crops_right=False)}, "contradiction"),
        ({"check": make_check(kind="agreement", sufficiency=1.0, crops_right=True)}, "evidence"),
        ({"origin": "imported"}, "given_boxes"),
    ],
)
def test_labels_without_a_matching_calibration_need_review(
    project: Project, image: Path, fields: dict[str, object], uncalibrated: str | None
) -> None:
    calibrate(project)
    checker = ScoreChecker(project)
    found = checker.check_item(accepted(project, image, **fields)).label
    assert (found.status, found.score, found.uncalibrated) == ("proposed", None, uncalibrated)
    assert checker.dropped == 1


def test_a_low_score_is_no_acceptance(project: Project, image: Path) -> None:
    calibrate(project)
    found = ScoreChecker(project).check_item(accepted(project, image, check=make_check(sufficiency=0.1))).label
    assert found.status == "proposed" and found.score == pytest.approx(0.5987, abs=1e-4)


def test_a_photograph_gets_no_score_of_drawn_scenes(project: Project, image: Path, drawn_image: Path) -> None:
    known = load_calibration(Path(TRAINED_MODEL) / CALIBRATION)
    provenance = LabelProvenance(
        model="/elsewhere/hart-tiny", run_id="r", rollouts=known.rollouts, temperature=known.temperature, seed=0
    )
    check = make_check(rollouts=8, sufficiency=1.0, consensus=1.0, support=1.0, crops_right=True, necessity=True)
    item = accepted(project, image, provenance=provenance, check=check)
    found = ScoreChecker(project).check_item(item).label
    assert (found.status, found.score, found.uncalibrated) == ("proposed", None, "images")
    drawn = item.model_copy(update={"image": item.image.model_copy(update={"domain": "needle"})})
    found = ScoreChecker(project).check_item(drawn).label
    assert found.score is not None and found.uncalibrated is None


def test_a_calibration_that_the_record_leads_to_is_not_read(project: Project, image: Path, tmp_path: Path) -> None:
    calibration: Calibration = make_calibration(
        model="evil", domain=CalibrationDomain(images="needle", data_set="", answer_forms=("multiple_choice",))
    )
    (tmp_path / "evil").mkdir()
    save_calibration(tmp_path / "evil" / CALIBRATION, calibration)
    item = accepted(project, image, provenance=PROVENANCE.model_copy(update={"model": str(tmp_path / "evil")}))
    drawn = item.model_copy(update={"image": item.image.model_copy(update={"domain": "needle"})})
    assert ScoreChecker(project).check_item(drawn).label.uncalibrated == "model"


def test_decisions_of_people_stay(project: Project, image: Path) -> None:
    item = accepted(project, image, status="accepted", reviewer="Ada")
    found = ScoreChecker(project).check_item(item).label
    assert (found.status, found.reviewer, found.boxes) == ("accepted", "Ada", item.label.boxes)
    assert (found.score, found.uncalibrated) == (None, "model")


def test_the_history_is_checked_too(project: Project, image: Path) -> None:
    item = accepted(project, image)
    decided = item.label.model_copy(update={"revision": 2, "status": "accepted", "score": None})
    moved = item.model_copy(update={"label": decided, "history": (*item.history, item.label)})
    found = ScoreChecker(project).check_item(moved)
    assert [label.status for label in (*found.history, found.label)] == ["new", "proposed", "accepted"]


def test_boxes_are_clipped_to_the_image() -> None:
    image = ImageFile(path="/a", sha256="0" * 64, width=10, height=20)
    assert [box.xyxy for box in clip_imported_boxes((Box.from_xyxy((-5, -5, 5, 50)),), image)] == [(0, 0, 5, 20)]
    with pytest.raises(ValueError, match="outside of the image of 10 x 20 pixels"):
        clip_imported_boxes((Box.from_xyxy((10, 0, 20, 5)),), image)
