from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.data.rows import InvalidRow, LoadedSamples
from hart_studio.labeling.export_plan import ExportOptions
from hart_studio.labeling.exporting import export_labels
from hart_studio.labeling.importing import get_invalid_rows, import_items, import_samples, import_source, inspect_image
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.records import ImageFile, LabeledSample
from hart_studio.labeling.review import ReviewQueue
from hart_studio.labeling.sources import SourceSettings
from hart_studio.records import Box, GoldSample, Sample
from tests.unit.labeling.conftest import BOX, WH, ask


def load(*samples: Sample, invalid_rows: tuple[InvalidRow, ...] = ()) -> LoadedSamples[Sample]:
    return LoadedSamples("streets", samples, invalid_rows)


def test_several_questions_about_one_image_stay_separate(project: Project, image: Path) -> None:
    report = import_samples(project, load(ask(image, 0), ask(image, 1)))
    assert (report.added, report.known, report.invalid_count) == (2, 0, 0)
    first, second = project.items()
    assert first.image == second.image == inspect_image(image)
    assert (first.image.width, first.image.height) == WH
    assert (first.sample, first.label.status) == (ask(image, 0), "new")


def test_the_same_rows_again_change_nothing(project: Project, image: Path) -> None:
    rows = load(ask(image, 0), ask(image, 1))
    import_samples(project, rows)
    before = list(project.items(with_history=True))
    report = import_samples(project, rows)
    assert (report.added, report.updated, report.known) == (0, 0, 2)
    assert list(project.items(with_history=True)) == before


def test_a_copy_of_the_image_is_the_same_image(project: Project, image: Path) -> None:
    copy = image.with_name("copy.png")
    shutil.copyfile(image, copy)
    report = import_samples(project, load(ask(image), ask(copy)))
    assert (report.added, report.known) == (1, 1)
    assert next(project.items()).image.path == str(image)


def test_an_image_that_moved_is_found_again(project: Project, image: Path) -> None:
    import_samples(project, load(ask(image)))
    moved = image.with_name("moved.png")
    image.rename(moved)
    report = import_samples(project, load(ask(moved)))
    assert (report.added, report.updated) == (0, 1)
    assert next(project.items()).sample.image == str(moved)


def test_an_image_whose_old_path_holds_another_file_now_is_found_again(project: Project, image: Path) -> None:
    import_samples(project, load(ask(image, 0), ask(image, 1)))
    moved = image.with_name("moved.png")
    shutil.copyfile(image, moved)
    Image.new("RGB", WH, "red").save(image)
    report = import_samples(project, load(ask(moved, 0), ask(moved, 1)))
    assert (report.added, report.updated + report.known) == (0, 2)
    assert report.updated
    assert {item.image.path for item in project.items()} == {str(moved)}
    assert import_samples(project, load(ask(moved, 0))).known == 1


def test_items_of_another_project_restore_a_lost_image(project: Project, image: Path, tmp_path: Path) -> None:
    import_samples(project, load(ask(image)))
    moved = image.with_name("moved.png")
    shutil.copyfile(image, moved)
    other = create_project(tmp_path / "other")
    import_samples(other, load(ask(moved)))
    Image.new("RGB", WH, "red").save(image)
    report = import_items(project, list(other.items()), load())
    assert (report.added, report.updated, report.known) == (0, 1, 0)
    assert next(project.items()).image.path == str(moved)


def test_invalid_rows_are_counted_listed_and_stop_nothing(project: Project, image: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nrest")
    rows = load(
        ask(broken, 7), ask(tmp_path / "gone.png", 8), ask(image), invalid_rows=(InvalidRow("line 3", "no JSON"),)
    )
    report = import_samples(project, rows)
    assert (report.added, report.invalid_count) == (1, 3)
    assert [bad.row for bad in report.invalid_rows] == ["line 3", "s7", "s8"]
    stored = get_invalid_rows(project)
    assert [row[:2] for row in stored] == [
        ("streets", "line 3"),
        ("streets", "s7"),
        ("streets", "s8"),
    ]
    assert "check the path" in stored[2][2]


def test_another_answer_to_the_same_question_is_reported(project: Project, image: Path) -> None:
    report = import_samples(project, load(ask(image, answer="B"), ask(image, answer="A")))
    assert (report.added, report.invalid_count) == (1, 1)
    assert "with the answer 'B'; the row has 'A'" in report.invalid_rows[0].reason
    assert next(project.items()).sample.answer == "B"


def test_questions_without_an_answer_are_of_the_other_kind_of_evidence(project: Project, image: Path) -> None:
    import_samples(project, load(ask(image, 0), ask(image, 1, answer=None)))
    assert project.count_by("evidence") == {"agreement": 1, "known_answer": 1}


def test_existing_boxes_come_in_to_be_verified(project: Project, image: Path) -> None:
    labeled = LabeledSample(**ask(image).model_dump(), boxes=(BOX,))
    report = import_samples(project, load(labeled))
    item = next(project.items(with_history=True))
    assert report.added == 1
    assert (item.label.status, item.label.origin, item.label.boxes) == ("proposed", "imported", (BOX,))
    assert [label.status for label in item.history] == ["new"]
    assert import_samples(project, load(labeled)).known == 1


def test_boxes_for_a_question_that_is_there(project: Project, image: Path) -> None:
    import_samples(project, load(ask(image)))
    report = import_samples(project, load(LabeledSample(**ask(image).model_dump(), boxes=(BOX,))))
    assert (report.updated, next(project.items()).label.boxes) == (1, (BOX,))


def test_a_box_outside_of_the_image_is_an_invalid_row(project: Project, image: Path) -> None:
    outside = LabeledSample(**ask(image).model_dump(), boxes=(Box.from_xyxy((400, 0, 500, 100)),))
    report = import_samples(project, load(outside))
    assert (report.added, report.invalid_count) == (0, 1)
    assert "outside of the image of 400 x 300" in report.invalid_rows[0].reason


def test_gold_boxes_go_where_no_item_has_them(project: Project, image: Path) -> None:
    import_samples(project, load(GoldSample(**ask(image).model_dump(), gold_boxes=(BOX,))))
    item = next(project.items(with_history=True))
    assert type(item.sample) is Sample
    assert "100.0" not in item.model_dump_json()
    with project.database.reading() as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM gold_boxes").fetchone()
    assert count == 1


def test_progress_reaches_the_end(project: Project, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hart_studio.labeling.importing.BATCH", 2)
    reported: list[tuple[int, int]] = []
    import_samples(project, load(*(ask(image, number) for number in range(5))), lambda *done: reported.append(done))
    assert reported == [(2, 5), (4, 5), (5, 5)]


def test_inspecting_an_image_turns_it_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    found = inspect_image(tmp_path / "turned.jpg")
    assert isinstance(found, ImageFile)
    assert (found.width, found.height) == (30, 40)


def test_a_project_moves_to_another_with_its_whole_history(filled: Project, image: Path, tmp_path: Path) -> None:
    queue = ReviewQueue(filled)
    for item, decision in zip(list(filled.items()), ("accept", "reject"), strict=False):
        queue.decide("Ada", item.id, 1, decision)  # type: ignore[arg-type]
    queue.undo("Ada")
    items = list(filled.items(with_history=True))
    everything = ExportOptions(statuses=("accepted", "proposed"), splits={"train": 1.0})
    export_labels(items, "native", tmp_path / "out", everything)
    other = create_project(tmp_path / "other")
    report = import_source(other, str(tmp_path / "out" / "labels.jsonl"), SourceSettings())
    assert (report.added, report.invalid_count, report.unsupported) == (6, 0, 6)
    moved = {item.id: [*item.history, item.label] for item in other.items(with_history=True)}
    assert moved == {
        item.id: [label.model_copy(update={"score": None}) for label in (*item.history, item.label)] for item in items
    }
    assert import_source(other, str(tmp_path / "out" / "labels.jsonl"), SourceSettings()).known == 6


def test_an_item_that_was_tampered_with_is_an_invalid_row(filled: Project, image: Path, tmp_path: Path) -> None:
    first, second, third, *_ = filled.items(with_history=True)
    wrong = (
        first.model_copy(update={"id": "0" * 16}),
        second.model_copy(update={"history": ()}),
        third.model_copy(update={"image": third.image.model_copy(update={"sha256": "0" * 64})}),
    )
    other = create_project(tmp_path / "other")
    report = import_items(other, wrong, LoadedSamples("native", ()))
    assert (report.added, report.invalid_count) == (0, 3)
    assert [bad.reason for bad in report.invalid_rows] == [
        "the id does not match image, question and choices",
        "review history is incomplete (revisions missing)",
        "image content differs from the exported label",
    ]


def test_boxes_of_another_project_are_checked_like_those_of_another_tool(filled: Project, tmp_path: Path) -> None:
    boxes = [
        (Box.from_xyxy((5000, 5000, 6000, 6000)),),
        (Box.from_xyxy((-1e9, -1e9, 1e9, 1e9)),),
        (BOX,) * 101,
        (BOX,) * 100,
    ]
    items = [
        item.model_copy(update={"label": item.label.model_copy(update={"boxes": found})})
        for item, found in zip(filled.items(with_history=True), boxes, strict=False)
    ]
    in_history = items[3].model_copy(
        update={"id": items[3].id, "history": (items[3].history[0].model_copy(update={"boxes": boxes[0]}),)}
    )
    other = create_project(tmp_path / "other")
    report = import_items(other, (*items[:3], in_history, items[3]), LoadedSamples("native", ()))
    assert (report.added, report.invalid_count) == (2, 3)
    reasons = [bad.reason for bad in report.invalid_rows]
    assert "outside of the image" in reasons[0] and "outside of the image" in reasons[2]
    assert reasons[1] == "label has 101 boxes; the limit is 100"
    assert other.item(items[1].id).label.boxes[0].xyxy == (0, 0, *WH)


def test_too_many_boxes_are_an_invalid_row(project: Project, image: Path) -> None:
    row = LabeledSample(**ask(image).model_dump(), boxes=(BOX,) * 101)
    report = import_samples(project, load(row))
    assert (report.added, report.invalid_rows[0].reason) == (0, "label has 101 boxes; the limit is 100")


def test_the_file_decides_of_which_domain_an_image_is_and_not_a_record(
    project: Project, image: Path, drawn_image: Path, tmp_path: Path
) -> None:
    named = tuple(ask(path).model_copy(update={"source": "needle"}) for path in (image, drawn_image))
    import_samples(project, LoadedSamples("needle", named))
    assert [item.image.domain for item in project.items()] == ["", "needle"]
    assert project.image_domains() == ["", "needle"]
    assert project.count_origins() == [
        ("", "needle", True, "known_answer", 1),
        ("needle", "needle", True, "known_answer", 1),
    ]
    claimed = [
        item.model_copy(update={"image": item.image.model_copy(update={"domain": domain})})
        for item, domain in zip(project.items(), ("needle", ""), strict=True)
    ]
    other = create_project(tmp_path / "other")
    assert import_items(other, claimed, LoadedSamples("native", ())).added == 2
    assert [item.image.domain for item in other.items()] == ["", "needle"]
