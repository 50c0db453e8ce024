"""What the Evaluate tab shows of evaluations: tables, failures and reports, whatever a browser asks for."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import HartError, ImageError, InputError
from hart_studio.evaluation.job import DATASET_INFO_FILE, DatasetInfo
from hart_studio.evaluation.shards import append_records, shard_path
from hart_studio.files import write_json
from hart_studio.records import Box
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.queue import LaunchPlan, write_plan
from hart_studio.ui.api import evaluation_results
from hart_studio.ui.api.evaluation_results import EvaluationResultsApi
from hart_studio.ui.api.evaluations import EvaluationApi
from hart_studio.ui.api.handler import call_handler
from tests.evaluations import FAR_XYXY, GOLD_XYXY, WH, make_record, write_evaluation


def test_tables_and_figures_travel_as_texts(outputs: EvaluationResultsApi, layout: RunLayout) -> None:
    answer = call_handler(outputs.tables, {"runs": [layout.run_id, layout.run_id]})
    json.dumps(answer)
    assert answer["notes"] == []
    for table in answer["tables"]:
        assert {row["kind"] for row in table["rows"]} <= {"measured", "published"}
        assert all(len(row["cells"]) == len(table["columns"]) for row in table["rows"])
        assert all(isinstance(cell, str) for row in table["rows"] for cell in row["cells"])
    cells = [cell for table in answer["tables"] for row in table["rows"] for cell in row["cells"]]
    assert any("±" in cell for cell in cells) and any("Made up" in cell for cell in cells)
    assert answer["figures"] and all(figure["svg"].startswith("<svg") for figure in answer["figures"])


def test_tables_name_what_they_are_made_from_and_what_they_leave_out(
    api: EvaluationApi, outputs: EvaluationResultsApi, tmp_path: Path
) -> None:
    image = tmp_path / "x.png"
    records = [make_record(0, image), make_record(1, image, None, error="the model failed")]
    layout = write_evaluation(api.launch.runs_root, records, total=9, title="Half")
    asked = DatasetInfo(benchmark="needle", samples=9, fingerprint="f" * 64, invalid_count=1)
    write_json(layout.folder / DATASET_INFO_FILE, asked.model_dump(mode="json"))
    answer = call_handler(outputs.tables, {"runs": [layout.run_id]})
    assert answer["answered"] == {layout.run_id: (2, 9)}
    half = answer["gaps"][0].partition(" on ")[0]
    assert answer["gaps"][:2] == [
        f"{half} on needle is partial: 2 of 9 questions are measured.",
        f"{half} on needle: n = 9 of 10 rows in the file. Invalid rows were dropped; the warnings of the evaluation "
        "say why.",
    ]
    assert "1 of 2 questions are unscored (1 x the model failed)" in answer["gaps"][2]


def test_tables_are_made_once_while_nothing_is_new(
    outputs: EvaluationResultsApi, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = call_handler(outputs.tables, {"runs": [layout.run_id]})
    monkeypatch.setattr(evaluation_results, "make_tables", lambda evaluations: pytest.fail("made again"))
    assert call_handler(outputs.tables, {"runs": [layout.run_id]}) == first


@pytest.mark.parametrize("runs", [[], None, "x", [None], [1] * 7])
def test_one_to_six_are_compared(outputs: EvaluationResultsApi, layout: RunLayout, runs: Any) -> None:
    with pytest.raises(InputError):
        call_handler(outputs.tables, {"runs": runs})


def test_one_that_has_not_begun_is_a_note(api: EvaluationApi, outputs: EvaluationResultsApi, layout: RunLayout) -> None:
    waiting = call_handler(
        api.start, {"benchmark": "needle", "model": "built-in", "protocols": ["direct"], "title": "Later"}
    )["run"]
    answer = call_handler(outputs.tables, {"runs": [waiting, layout.run_id]})
    assert answer["notes"] == ["Later has not loaded its questions yet"] and answer["tables"]
    assert call_handler(outputs.tables, {"runs": [waiting]})["tables"] == []
    with pytest.raises(InputError, match="Later has not loaded"):
        call_handler(outputs.report, {"runs": [waiting]})


def ask(outputs: EvaluationResultsApi, layout: RunLayout, **more: Any) -> dict[str, Any]:
    return call_handler(outputs.failures, {"run": layout.run_id, "protocol": "crops_only", **more})


def test_lucky_answers_come_first_and_everything_is_counted(outputs: EvaluationResultsApi, layout: RunLayout) -> None:
    answer = ask(outputs, layout)
    # Wrong answers: 0 3 6 9. Boxes far off: 0 4 8. Number 11 is unscored.
    assert answer["verdicts"] == {
        "correct answer, wrong or no box": 2,
        "wrong answer, correct box": 3,
        "wrong answer, wrong box": 1,
        "unscored": 1,
        "correct answer, correct box": 5,
    }
    assert [row["id"] for row in answer["rows"]][:3] == ["q004", "q008", "q003"]
    assert answer["rows"][0]["verdict"] == "correct answer, wrong or no box" and answer["count"] == 12
    assert answer["categories"] == ["detail", "detail/left", "detail/right"]


def test_questions_are_filtered_and_paged(
    outputs: EvaluationResultsApi, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [row["id"] for row in ask(outputs, layout, verdict="wrong answer, wrong box")["rows"]] == ["q000"]
    assert ask(outputs, layout, category="detail/left")["count"] == 5
    assert ask(outputs, layout, category="deta")["count"] == 0, "a category is a whole word"
    assert [row["id"] for row in ask(outputs, layout, text="SIGN 10?")["rows"]] == ["q010"]
    monkeypatch.setattr(evaluation_results, "LIST_ROWS", 5)
    pages = [ask(outputs, layout, offset=offset) for offset in (0, 5, 10, 15)]
    assert [len(page["rows"]) for page in pages] == [5, 5, 2, 0] and pages[3]["count"] == 12
    assert len({row["id"] for page in pages for row in page["rows"]}) == 12


@pytest.mark.parametrize("wrong", [{"verdict": "odd"}, {"offset": -1}, {"protocol": "full_and_crops"}, {"more": 1}])
def test_a_filter_that_cannot_be_used(outputs: EvaluationResultsApi, layout: RunLayout, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ask(outputs, layout, **wrong)


def test_a_question_comes_with_its_image_both_kinds_of_boxes_and_every_answer(
    outputs: EvaluationResultsApi, layout: RunLayout
) -> None:
    shown = call_handler(outputs.failure, {"run": layout.run_id, "sample": "q004"})
    json.dumps(shown)
    xyxy = [shown["boxes"][0][side] for side in ("x_min", "y_min", "x_max", "y_max")]
    assert tuple(xyxy) == FAR_XYXY and shown["gold"][0]["x_min"] == GOLD_XYXY[0]
    assert shown["matches"] == [{"is_found": False, "iog": 0.0, "iou": 0.0}]
    assert (shown["answer"], shown["choices"]) == ("A", ["five", "six", "seven"])
    assert [(said["protocol"], said["score"]["value"]) for said in shown["answers"]] == [
        ("crops_only", 1.0),
        ("direct", 0.0),
    ]
    assert (shown["image"]["width"], shown["image"]["height"]) == WH
    assert (outputs.service.folder / shown["image"]["detail"]["path"]).read_bytes()[:2] == b"\xff\xd8"


def test_a_image_that_is_gone_leaves_the_answers(outputs: EvaluationResultsApi, layout: RunLayout, image: Path) -> None:
    image.unlink()
    shown = call_handler(outputs.failure, {"run": layout.run_id, "sample": "q004"})
    assert shown["image"] is None and "sign.png" in shown["problem"] and len(shown["answers"]) == 2
    with pytest.raises(HartError):
        call_handler(outputs.prefill_ask, {"run": layout.run_id, "sample": "q004"})


def test_a_file_that_is_no_image_is_never_served(
    api: EvaluationApi, outputs: EvaluationResultsApi, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    layout = write_evaluation(api.launch.runs_root, [make_record(1, tmp_path / "secret.txt")])
    assert call_handler(outputs.failure, {"run": layout.run_id, "sample": "q001"})["image"] is None
    with pytest.raises(ImageError):
        call_handler(outputs.prefill_ask, {"run": layout.run_id, "sample": "q001"})
    served = [path for path in (tmp_path / "served").rglob("*") if path.is_file()]
    assert not any(b"secret" in path.read_bytes() for path in served)


@pytest.mark.parametrize("sample", ["", "q999", "../q000", None, 3, "x" * 2000])
def test_a_question_of_another_evaluation_is_none(
    outputs: EvaluationResultsApi, layout: RunLayout, sample: Any
) -> None:
    with pytest.raises(InputError):
        call_handler(outputs.failure, {"run": layout.run_id, "sample": sample})


def test_the_path_of_a_image_is_never_the_client_s(outputs: EvaluationResultsApi, layout: RunLayout) -> None:
    with pytest.raises(InputError, match="Invalid request: image"):
        call_handler(outputs.failure, {"run": layout.run_id, "sample": "q004", "image": "/etc/passwd"})


def test_a_question_is_asked_again_with_the_original(
    api: EvaluationApi, outputs: EvaluationResultsApi, image: Path
) -> None:
    record = make_record(3, image, choices=("two\nlines", "six", "seven"))
    layout = write_evaluation(api.launch.runs_root, [record], model="built-in")
    found = call_handler(outputs.prefill_ask, {"run": layout.run_id, "sample": "q003"})
    assert found.image.read_bytes() == image.read_bytes() and found.image != image
    assert found.image.is_relative_to(outputs.service.folder) and found.image.name == "sign.png"
    assert (found.question, found.choices, found.answer) == ("Which number is on sign 3?", "two lines\nsix\nseven", "A")
    assert found.model == "built-in"


def test_a_model_that_someone_else_wrote_is_not_filled_in(
    api: EvaluationApi, outputs: EvaluationResultsApi, image: Path
) -> None:
    """One click on the Ask tab would fetch it."""
    layout = write_evaluation(api.launch.runs_root, [make_record(3, image)], model="owner/model")
    wanted = {"run": layout.run_id, "sample": "q003"}
    found = call_handler(outputs.prefill_ask, wanted)
    assert found.model is None and found.question == "Which number is on sign 3?"
    write_plan(layout, LaunchPlan(argv=("python",)))
    assert call_handler(outputs.prefill_ask, wanted).model == "owner/model", "what this server has signed is filled in"
    config = json.loads(layout.config.read_text())
    layout.config.write_text(json.dumps({**config, "model": "evil/model"}))
    assert call_handler(outputs.prefill_ask, wanted).model is None, (
        "neither the new name, nor the one that was read before"
    )
    layout.config.write_text(json.dumps({**config, "model": "built-in", "title": "edited"}))
    assert call_handler(outputs.prefill_ask, wanted).model == "built-in"


def test_new_records_are_seen(
    api: EvaluationApi, outputs: EvaluationResultsApi, layout: RunLayout, image: Path
) -> None:
    assert ask(outputs, layout)["count"] == 12
    append_records(shard_path(layout, 1), [make_record(50, image)])
    assert ask(outputs, layout)["count"] == 13


def test_one_without_gold_boxes_or_crops(api: EvaluationApi, outputs: EvaluationResultsApi, image: Path) -> None:
    bare = [
        make_record(n, image, gold_boxes=(), boxes=(), has_grounding_turn=False, category="").model_copy(
            update={"answers": {"direct": make_record(n, image).answers["direct"]}}
        )
        for n in range(3)
    ]
    layout = write_evaluation(api.launch.runs_root, bare, protocols=("direct",), benchmark="mmstar")
    answer = call_handler(outputs.failures, {"run": layout.run_id, "protocol": "direct"})
    assert answer["verdicts"] == {"wrong answer": 3} and answer["categories"] == []
    shown = call_handler(outputs.failure, {"run": layout.run_id, "sample": "q001"})
    assert shown["gold"] == [] and shown["matches"] == [] and not shown["has_grounding_turn"]
    json.dumps(call_handler(outputs.tables, {"runs": [layout.run_id]}), allow_nan=False)


def test_the_report_is_written_where_it_is_served(outputs: EvaluationResultsApi, layout: RunLayout) -> None:
    answer = call_handler(outputs.report, {"runs": [layout.run_id]})
    page = (outputs.service.folder / answer["page"]).read_text("utf-8")
    assert page.startswith("<!doctype html>") and "Made up" in page
    with zipfile.ZipFile(outputs.service.folder / answer["archive"]) as archive:
        names = archive.namelist()
    assert "report.html" in names and "report.md" in names and any(name.endswith(".csv") for name in names)


def test_boxes_carry_their_labels_as_text(api: EvaluationApi, outputs: EvaluationResultsApi, image: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    layout = write_evaluation(
        api.launch.runs_root, [make_record(1, image, boxes=(Box.from_xyxy(GOLD_XYXY, label=evil),))], title=evil
    )
    assert call_handler(outputs.failure, {"run": layout.run_id, "sample": "q001"})["boxes"][0]["label"] == evil
    assert call_handler(api.evaluations, {"signature": ""})["evaluations"][0]["title"] == evil, (
        "texts travel as they are; the page shows them as text"
    )


def test_an_unchanged_report_is_written_once(outputs: EvaluationResultsApi, layout: RunLayout) -> None:
    request = {"runs": [layout.run_id]}
    first = call_handler(outputs.report, request)
    assert call_handler(outputs.report, request) == first
    archive = outputs.service.folder / first["archive"]
    archive.unlink()
    again = call_handler(outputs.report, request)
    assert again["archive"] != first["archive"] and (outputs.service.folder / again["archive"]).exists()
    part = next(layout.folder.rglob("shard_*.jsonl"))
    os.utime(part, ns=(1, 1))
    assert call_handler(outputs.report, request)["archive"] != again["archive"], "its records are others"
