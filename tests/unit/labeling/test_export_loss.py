from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import InputError
from hart_studio.labeling.__main__ import main
from hart_studio.labeling.export_loss import ExportLoss, count_losses, preview_export, read_exclusions
from hart_studio.labeling.export_plan import NO_BACKGROUND, ExportOptions, LabelState, plan_export
from hart_studio.labeling.exporting import export_project
from hart_studio.labeling.formats.table import get_format
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import Item, Status
from hart_studio.records import Box
from tests.labels import draw_image, full_item, make_item
from tests.unit.labeling.conftest import BOX, add_label, ask, fill_many


def losses_of(name: str, *items: Item, **options: Any) -> tuple[ExportLoss, ...]:
    info = get_format(name)
    return count_losses(info.fit_plan(plan_export(items, ExportOptions(**options))), info)


def counts(name: str, *items: Item, **options: Any) -> dict[str, int]:
    losses = losses_of(name, *items, **options)
    assert all(str(loss.count) in loss.text for loss in losses)
    return {loss.what: loss.count for loss in losses}


def test_our_own_records_lose_nothing(tmp_path: Path) -> None:
    assert counts("native", full_item(draw_image(tmp_path / "a.png"))) == {}


def test_losses_of_labels(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png", (1000, 1000))
    plain = make_item(path, [(1, 2, 3, 4), (1.5, 2, 3, 4.25)])
    assert counts("coco", plain) == {}
    assert counts("yolo", plain) == {"questions": 1, "statuses": 1}
    assert counts("pascal_voc", plain) == {"questions": 1, "rounded": 1, "statuses": 1}
    (loss,) = [loss for loss in losses_of("pascal_voc", plain) if loss.what == "rounded"]
    assert loss.text == "coordinates of 1 box (rounded, up to 0.75 px)"  # 4.25 moves out to 5
    assert counts("yolo", make_item(path, [(1 / 3, 2, 3, 4)]))["rounded"] == 1


def test_everything_that_can_be_lost(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    items = [
        full_item(path),
        make_item(path, [(1, 2, 3, 4)], "Another?"),
        make_item(path, [(1, 2, 3, 4)], status="rejected"),
    ]
    options: dict[str, Any] = {"statuses": ("edited", "accepted", "rejected")}
    assert counts("createml", *items, **options) == {
        "questions": 3,
        "merged": 1,
        "labels": 2,
        "box_scores": 3,
        "scores": 1,
        "statuses": 3,
        "rejected": 1,
        "evidence": 1,
        "provenance": 1,
        "reviews": 1,
        "history": 1,
    }
    assert counts("grounded_chat", *items, **options)["excluded"] == 1
    assert counts("grounded_chat", *items, **options)["classes"] == 3


def test_scores_of_an_image_folder_are_kept_only_together(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    scored = make_item(path, [Box.from_xyxy((1, 2, 3, 4), "region", 0.5)], score=0.5, origin="model")
    assert counts("image_folder", scored) == {}
    assert counts("image_folder", scored, make_item(path, [(1, 2, 3, 4)], "b?")) == {"scores": 1}


def test_losses_of_box_scores_and_model_texts_are_reported(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    changed = make_item(path, [Box.from_xyxy((1, 2, 3, 4), "sign", 0.5)], score=0.5, status="edited")
    proposed = make_item(path, [Box.from_xyxy((1, 2, 3, 4), "Z")], "b?", score=0.5, origin="model")
    assert counts("coco", changed, proposed) == {"box_scores": 1, "labels": 1, "scores": 1}


def test_items_that_are_not_chosen_lose_nothing(tmp_path: Path) -> None:
    path = draw_image(tmp_path / "a.png")
    assert counts("yolo", make_item(path, [(1, 2, 3, 4)], status="proposed", note="x")) == {}
    assert counts("yolo", make_item(path, status="new"), statuses=("new",)) == {"excluded": 1}


@pytest.mark.parametrize("name", ["x_anylabeling", "pdf"])
def test_a_format_that_is_not_written(name: str, project: Project) -> None:
    with pytest.raises(InputError, match="Choose one of: native, coco"):
        preview_export(project, name, ExportOptions())


ONE_SPLIT = {"train": 1.0}


@pytest.fixture
def negatives(project: Project, tmp_path: Path) -> Project:
    """Five images with two questions each; the first one of each is an accepted negative."""
    seconds: list[tuple[Status, bool] | None] = [
        None, ("proposed", True), ("auto_accepted", True), ("rejected", True), ("bad_question", False),
    ]  # fmt: skip
    for place, second in enumerate(seconds):
        image = draw_image(tmp_path / f"{place}.png", (400, 300))
        import_samples(project, LoadedSamples("streets", (ask(image, 2 * place), ask(image, 2 * place + 1))))
        first, other = list(project.items())[-2:]
        add_label(project, first.id, status="accepted", origin="human", boxes=(), reviewer="Ada")
        if second:
            add_label(project, other.id, status=second[0], boxes=(BOX,) if second[1] else ())
    return project


def test_open_questions_are_counted_by_image(negatives: Project) -> None:
    by_name = {item.image.sha256: Path(item.image.path).name for item in negatives.items()}
    found = read_exclusions(negatives, ("accepted",))
    assert found.statuses == {"auto_accepted": 1, "bad_question": 1, "new": 1, "proposed": 1, "rejected": 1}
    assert {by_name[key]: count for key, count in found.undecided_questions.items()} == {
        "0.png": 1,
        "1.png": 1,
        "2.png": 1,
    }
    found = read_exclusions(negatives, ("accepted", "auto_accepted", "proposed"))
    assert {by_name[key] for key in found.undecided_questions} == {"0.png"}
    assert found.reasons == {"status bad_question": 1, "status new": 1, "status rejected": 1}


@pytest.mark.parametrize("status", ["new", "proposed", "failed", "auto_accepted", "accepted", "edited", "rejected"])
@pytest.mark.parametrize("has_boxes", [False, True])
def test_the_query_and_the_rule_agree(project: Project, image: Path, status: Status, has_boxes: bool) -> None:
    import_samples(project, LoadedSamples("streets", (ask(image),)))
    add_label(project, next(project.items()).id, status=status, boxes=(BOX,) if has_boxes else ())
    is_open = bool(read_exclusions(project, ("bad_question",)).undecided_questions)
    assert is_open == LabelState(status, has_boxes, has_boxes).may_have_region


def test_no_image_with_an_undecided_question_becomes_background(negatives: Project, tmp_path: Path) -> None:
    options = ExportOptions(statuses=("accepted",), splits=ONE_SPLIT)
    preview = preview_export(negatives, "pascal_voc", options)
    report = export_project(negatives, "pascal_voc", tmp_path / "out", options)
    assert report.items == report.negatives == preview.items == 2, "beside a rejected label, and beside a bad question"
    assert report.losses == preview.losses
    assert report.excluded == preview.excluded == {
        NO_BACKGROUND: 3, "status auto_accepted": 1, "status bad_question": 1, "status new": 1,
        "status proposed": 1, "status rejected": 1,
    }  # fmt: skip
    assert export_project(negatives, "coco", tmp_path / "coco", options).items == 5, "it says of which question"


def test_a_label_below_the_least_score_leaves_its_image_open(negatives: Project, tmp_path: Path) -> None:
    options = ExportOptions(statuses=("accepted", "auto_accepted"), min_score=0.9, splits=ONE_SPLIT)
    report = export_project(negatives, "pascal_voc", tmp_path / "out", options)
    assert (report.excluded["no score"], report.excluded[NO_BACKGROUND]) == (1, 3)
    assert preview_export(negatives, "pascal_voc", options).excluded == report.excluded


def test_the_command_prints_exclusions(negatives: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["export", str(negatives.folder), str(tmp_path / "out"), "--format", "pascal_voc"]
    assert main([*asked, "--dry-run"]) == 0
    reported = [line for line in capsys.readouterr().out.splitlines() if "excluded" in line]
    assert f"  2 excluded: {NO_BACKGROUND}" in reported and "  1 excluded: status proposed" in reported
    assert main(asked) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "excluded" in line] == reported
    texts = [path.read_text() for path in (tmp_path / "out" / "Annotations").rglob("*.xml")]
    assert sum("<object>" not in text for text in texts) == 2, "background images"


def test_images_with_boxes_and_open_questions_are_noted(negatives: Project, tmp_path: Path) -> None:
    first = next(negatives.items())
    add_label(negatives, first.id, status="edited", origin="human", boxes=(BOX,), reviewer="Ada")
    report = export_project(negatives, "pascal_voc", tmp_path / "out", ExportOptions(splits=ONE_SPLIT))
    assert any("unreviewed or excluded boxes: 1 (1 questions)" in n for n in report.notes)


def test_the_exclusions_of_many_items_are_read_in_a_moment(project: Project, image: Path) -> None:
    fill_many(project, image, 40_000)
    began = time.process_time()
    found = read_exclusions(project, ("accepted",))
    assert time.process_time() - began < 40_000 * 2e-5, "less than 20 µs of the processor an item"
    assert found.reasons == {"status proposed": 40_000} and list(found.undecided_questions.values()) == [40_000]
