"""Records may state any score; only calibrations of this project count. Unchanged boxes keep their reviews."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.geometry import XYXY
from hart_studio.labeling.calibration import (
    Calibration,
    CalibrationDomain,
    LabelOrigin,
    load_calibration,
    save_calibration,
)
from hart_studio.labeling.calibration_lookup import CALIBRATION
from hart_studio.labeling.export_plan import ExportOptions
from hart_studio.labeling.exporting import export_labels
from hart_studio.labeling.formats.reading import META
from hart_studio.labeling.formats.table import FORMATS
from hart_studio.labeling.imported_labels import ScoreChecker, clip_imported_boxes
from hart_studio.labeling.importing import import_samples, import_source
from hart_studio.labeling.project import Project, ProjectSettings
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.records import ImageFile, Item, Label, LabelProvenance
from hart_studio.labeling.review import ReviewQueue
from hart_studio.labeling.sources import SourceSettings, detect_source_kind
from hart_studio.models.catalog import TRAINED_MODEL
from hart_studio.records import Box, Sample
from tests.labels import draw_image
from tests.unit.labeling.conftest import add_label, ask, make_check
from tests.unit.labeling.test_calibration import make_calibration

GOOD = make_check(sufficiency=1.0, crops_correct=True)
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
        ({"check": make_check(sufficiency=1.0, crops_correct=False)}, "contradiction"),
        ({"check": make_check(kind="agreement", sufficiency=1.0, crops_correct=True)}, "evidence"),
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
    check = make_check(rollouts=8, sufficiency=1.0, consensus=1.0, support=1.0, crops_correct=True, necessity=True)
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


WRITTEN = [name for name, info in FORMATS.items() if info.save]
OF_SIGNS = make_calibration(domain=CalibrationDomain(images="", data_set="signs", answer_forms=("multiple_choice",)))
CHECK = make_check(sufficiency=1.0, crops_correct=True)
SCORE = OF_SIGNS.score_label(CHECK, True, LabelOrigin("", "signs", "multiple_choice", 4, 1.0)).score
STATUSES = ("accepted", "edited", "rejected", "auto_accepted")


@pytest.fixture
def decided(tmp_path: Path) -> Project:
    """Eight images: accepted as proposed, edited, rejected, and auto-accepted."""
    project = create_project(tmp_path / "project", "Signs", ProjectSettings(classes=("sign", "car")))
    samples = tuple(
        Sample(
            id=f"s{number}", image=str(draw_image(tmp_path / "in" / f"{number}.png", (640, 480))), choices=("3", "7"),
            question=f"Which digit is on sign {number}?", answer="B", source="signs",
        )
        for number in range(8)
    )  # fmt: skip
    import_samples(project, LoadedSamples("signs", samples))
    review = ReviewQueue(project)
    for number, item in enumerate(list(project.items())):
        box = Box.from_xyxy((10 + number, 20, 101.5, 90.25), "Z")
        kind = STATUSES[number % 4]
        label = add_label(
            project, item.id, status="auto_accepted" if number % 4 == 3 else "proposed", boxes=(box,), score=SCORE,
            check=CHECK, provenance=PROVENANCE,
        )  # fmt: skip
        if kind == "accepted":
            review.decide("ann", item.id, label.revision, "accept")
        elif kind == "edited":
            drawn = (Box.from_xyxy((5, 5, 50, 60 + number), "car"), Box.from_xyxy((200.5, 100, 300, 200)))
            review.decide("bob", item.id, label.revision, "edit", drawn, note="moved")
        elif kind == "rejected":
            review.decide("ann", item.id, label.revision, "reject")
    return project


def export(project: Project, name: str, folder: Path, **options: Any) -> Path:
    chosen = ExportOptions(
        statuses=STATUSES, splits={"train": 0.5, "val": 0.5}, classes=project.settings.classes, salt="b", **options
    )
    export_labels(project.items(with_history=True), name, folder, chosen)
    return folder


def reimport(folder: Path, name: str, project_folder: Path) -> tuple[Project, Any]:
    project = create_project(project_folder, "Again")
    save_calibration(project.folder / CALIBRATION, OF_SIGNS)  # scores that no calibration supports do not come back
    return project, import_source(project, str(folder), SourceSettings(kind=name))


def labels_of(items: Any) -> dict[str, tuple[Any, ...]]:
    """Reviewed label and its history."""
    found: dict[str, tuple[Any, ...]] = {}
    item: Item
    for item in items:
        found[item.id] = (item.label, item.history)
    return found


@pytest.mark.parametrize("name", WRITTEN)
def test_every_format_round_trips(name: str, decided: Project, tmp_path: Path) -> None:
    again, report = reimport(export(decided, name, tmp_path / "out"), name, tmp_path / "again")
    before, after = labels_of(decided.items(with_history=True)), labels_of(again.items(with_history=True))
    if name == "grounded_chat":  # has no form for "nothing here"
        before = {item: labels for item, labels in before.items() if labels[0].status != "rejected"}
    assert after == before
    assert report.changed == report.invalid_count == 0
    assert report.added == len(before)
    assert report.restored == (0 if name == "native" else len(before))
    assert report.unsupported == 0
    if name != "native":
        assert "car" in again.settings.classes
        assert "Z" not in again.settings.classes


@pytest.mark.parametrize("name", WRITTEN)
def test_every_export_is_recognized_without_its_kind(name: str, decided: Project, tmp_path: Path) -> None:
    folder = export(decided, name, tmp_path / "out")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "out")
    for number, source in enumerate((str(folder), archive)):
        assert detect_source_kind(source) == name
        project = create_project(tmp_path / f"back{number}")
        report = import_source(project, source, SourceSettings())
        assert report.added > 0 and report.changed == 0


@pytest.mark.parametrize(
    "records", [b"", b"no JSON\n", b'{"export": {"format": "other"}}\n', b'{"export": {"format": 3}}\n']
)
def test_records_that_state_no_format_are_passed_over(records: bytes, tmp_path: Path) -> None:
    (tmp_path / META).write_bytes(records)
    draw_image(tmp_path / "a.png")
    assert detect_source_kind(str(tmp_path)) == "images"


def test_a_second_import_changes_nothing(decided: Project, tmp_path: Path) -> None:
    folder = export(decided, "coco", tmp_path / "out")
    before = labels_of(decided.items(with_history=True))
    report = import_source(decided, str(folder), SourceSettings(kind="coco"))
    assert (report.added, report.known, report.restored) == (0, 8, 8)
    assert labels_of(decided.items(with_history=True)) == before


def move_box(path: Path, question: str, xywh: XYXY | None) -> None:
    """Changes of another tool: one box of that question is moved or removed."""
    document = json.loads(path.read_text())
    (chosen,) = [each for each in document["annotations"] if each["attributes"]["question"] == question]
    if xywh:
        chosen["bbox"] = list(xywh)
    else:
        document["annotations"].remove(chosen)
    path.write_text(json.dumps(document))


def test_boxes_that_another_tool_changed_are_proposals_of_that_tool(decided: Project, tmp_path: Path) -> None:
    folder = export(decided, "coco", tmp_path / "out")
    question = "Which digit is on sign 0?"
    (file,) = [file for file in folder.glob("annotations/instances_*.json") if question in file.read_text()]
    move_box(file, question, (30, 30, 40, 40))
    again, report = reimport(folder, "coco", tmp_path / "again")
    assert (report.added, report.restored, report.changed) == (8, 7, 1)
    assert "7 restored with their reviews, 1 changed in another tool" in report.describe()
    (item,) = [item for item in again.items() if item.sample.question == question]
    assert (item.label.status, item.label.origin, item.label.reviewer) == ("proposed", "imported", "")
    assert item.label.boxes[0].xyxy == (30, 30, 70, 70)


def test_another_class_is_a_change_too(decided: Project, tmp_path: Path) -> None:
    folder = export(decided, "yolo", tmp_path / "out")
    file = next(file for file in sorted(folder.glob("labels/*/*.txt")) if file.read_text().startswith("0 "))
    file.write_text(f"1{file.read_text()[1:]}")
    again, report = reimport(folder, "yolo", tmp_path / "again")
    assert (report.restored, report.changed) == (7, 1)
    assert again.count_by("status")["proposed"] == 1


def test_a_box_on_an_image_that_was_rejected_is_a_change(decided: Project, tmp_path: Path) -> None:
    folder = export(decided, "yolo", tmp_path / "out")
    file = next(file for file in sorted(folder.glob("labels/*/*.txt")) if not file.read_text())
    file.write_text("0 0.5 0.5 0.1 0.1\n")
    _, report = reimport(folder, "yolo", tmp_path / "again")
    assert (report.restored, report.changed) == (7, 1)


@pytest.mark.parametrize("records", [b"", b"no JSON\n", b'{"export": 3}\n', b"[" * 100_000, b"\xff\n"])
def test_records_that_are_none_restore_nothing_and_stop_nothing(
    records: bytes, decided: Project, tmp_path: Path
) -> None:
    folder = export(decided, "coco", tmp_path / "out")
    (folder / META).write_bytes(records)
    _, report = reimport(folder, "coco", tmp_path / "again")
    assert (report.added, report.restored, report.changed) == (8, 0, 0)


def test_records_of_other_images_restore_nothing(decided: Project, tmp_path: Path) -> None:
    """The other tool has rewritten the images."""
    folder = export(decided, "yolo", tmp_path / "out")
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        draw_image(tmp_path / f"other{number}" / "x.png", (640, 480)).replace(path)
    _, report = reimport(folder, "yolo", tmp_path / "again")
    assert report.restored == 0
    assert report.invalid_count == 2  # rejected ones, which have neither a box nor a question


@pytest.mark.parametrize("name", ["native", "coco"])
def test_scores_that_no_calibration_supports_do_not_come_back(name: str, decided: Project, tmp_path: Path) -> None:
    folder = export(decided, name, tmp_path / "out")
    again = create_project(tmp_path / "again", "Again")
    report = import_source(again, str(folder), SourceSettings(kind=name))
    assert (report.added, report.invalid_count, report.unsupported) == (8, 0, 8)
    assert "8 imported without score and auto-accept status" in report.describe()
    assert again.count_by("status") == {"proposed": 2, "accepted": 2, "edited": 2, "rejected": 2}
    labels = [label for item in again.items(with_history=True) for label in (item.label, *item.history)]
    assert all(label.score is None and label.status != "auto_accepted" for label in labels)
    before = {item.id: item.label for item in decided.items()}
    for item in again.items():
        assert (item.label.boxes, item.label.reviewer) == (before[item.id].boxes, before[item.id].reviewer)
