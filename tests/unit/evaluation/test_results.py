from __future__ import annotations

import json
from pathlib import Path

import pytest

from hart_studio.evaluation.job import DATASET_INFO_FILE, DatasetInfo
from hart_studio.evaluation.records import describe_rows
from hart_studio.evaluation.results import load_evaluation, read_dataset_info, summarize_evaluation
from hart_studio.files import write_json
from tests.evaluations import draw_image, make_record, make_records, write_evaluation


def test_figures_come_with_their_numbers_and_intervals(tmp_path: Path) -> None:
    image = draw_image(tmp_path / "a.png")
    fault = make_record(12, image, None, answers={}, error="the image\x1b is gone " * 30)
    layout = write_evaluation(tmp_path / "runs", [*make_records(image), fault], total=20)
    asked = DatasetInfo(
        benchmark="needle",
        samples=20,
        fingerprint="f",
        invalid_count=3,
        invalid_rows=(("1", "no answer"), ("2", "no answer")),
    )
    lines = summarize_evaluation(load_evaluation(layout), asked).lines()
    assert lines[0] == "questions: 13 of 20 measured, 1 failed, 3 invalid rows skipped"
    assert lines[1] == "accuracy, crops_only: 63.6 % [35.4, 84.8], n = 11, 2 unscored"
    assert lines[2].startswith("accuracy, direct: 0.0 % [0.0, ") and lines[2].endswith("n = 12, 1 unscored")
    assert lines[3].startswith("boxes: IoG > 0.3 ") and "n = 12 gold boxes; mean IoU " in lines[3]
    assert lines[4] == "data: n = 20 of 23 rows in the file"
    assert lines[5].startswith("  1 failed: the image is gone") and lines[5].endswith("...")
    assert lines[6] == "  2 skipped: no answer"


def test_an_evaluation_without_an_answer_has_no_figures(tmp_path: Path) -> None:
    layout = write_evaluation(tmp_path / "runs", [], total=2)
    asked = DatasetInfo(benchmark="needle", samples=2, fingerprint="f")
    assert summarize_evaluation(load_evaluation(layout), asked).lines() == [
        "questions: 0 of 2 measured, 0 failed, 0 invalid rows skipped",
        "accuracy, crops_only: not known, n = 0",
        "accuracy, direct: not known, n = 0",
    ]


def test_reasons_that_are_not_shown_are_counted(tmp_path: Path) -> None:
    layout = write_evaluation(tmp_path / "runs", [], total=2)
    rows = tuple((str(number), f"reason {number}") for number in range(8))
    asked = DatasetInfo(benchmark="needle", samples=20, fingerprint="f", invalid_count=8, invalid_rows=rows)
    lines = summarize_evaluation(load_evaluation(layout), asked).lines()
    assert lines[-2:] == ["  1 skipped: reason 4", "  and 3 other reasons"]


def test_the_object_has_the_figures_of_the_lines(tmp_path: Path) -> None:
    image = draw_image(tmp_path / "a.png")
    layout = write_evaluation(tmp_path / "runs", make_records(image), total=20)
    asked = DatasetInfo(benchmark="needle", samples=20, fingerprint="f")
    found = json.loads(summarize_evaluation(load_evaluation(layout), asked, is_done=False).model_dump_json())
    assert (found["run"], found["state"], found["measured"], found["total"]) == (layout.run_id, "stopped", 12, 20)
    crops_only, direct = found["accuracy"]
    assert (crops_only["protocol"], crops_only["scored"], crops_only["unscored"]) == ("crops_only", 11, 1)
    assert crops_only["accuracy"]["value"] == pytest.approx(7 / 11) and direct["accuracy"]["value"] == 0
    assert found["boxes"]["gold_boxes"] == 12 and 0 <= found["boxes"]["found"]["low"] <= found["boxes"]["found"]["high"]


def test_the_rows_of_the_file_and_the_published_number_stand_beside_n(tmp_path: Path) -> None:
    layout = write_evaluation(tmp_path / "runs", [], total=3, benchmark="treebench")
    asked = read_dataset_info(layout).model_copy(update={"invalid_count": 9, "published": 405})
    write_json(layout.folder / DATASET_INFO_FILE, asked.model_dump(mode="json"))
    summary = summarize_evaluation(load_evaluation(layout), asked)
    assert "data: n = 3 of 12 rows in the file, 405 published" in summary.lines()
    assert (summary.rows, summary.invalid_rows, summary.published) == (12, 9, 405)
    assert describe_rows(405, 0, 405) == "" == describe_rows(3, 0, None)
    assert describe_rows(404, 0, 405) == "n = 404 of 404 rows in the file, 405 published"
