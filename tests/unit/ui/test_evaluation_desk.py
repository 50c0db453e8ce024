"""What the Evaluate page is told and may do, and that nothing a browser sends is trusted."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import HartError, ImageError, InputError
from hart_studio.evaluation.config import EvaluationConfig, read_config
from hart_studio.evaluation.job import prepare_run
from hart_studio.evaluation.parts import append_records, part_path
from hart_studio.records import Box
from hart_studio.runs.config import RunConfig
from hart_studio.runs.events import EventLog, StepDone
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.queue import LaunchPlan, find_plan, plan_launch
from hart_studio.runs.reader import list_runs, read_events
from hart_studio.runs.status import read_status, write_status
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.ui import evaluation_outputs
from hart_studio.ui.evaluation_desk import EvaluationDesk
from hart_studio.ui.evaluation_outputs import EvaluationOutputs
from hart_studio.ui.launch_desk import LaunchDesk
from hart_studio.ui.run_watch import RunWatch
from hart_studio.ui.services import AskService
from tests.evaluations import (
    FAR_XYXY,
    GOLD_XYXY,
    PROVENANCE,
    WH,
    draw_picture,
    make_record,
    make_records,
    write_evaluation,
)

WANTED = {"benchmark": "needle", "model": "built-in", "protocols": ["crops_only", "direct"], "limit": 8}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationDesk:
    """Over a queue that starts nothing."""
    monkeypatch.setattr(LaunchDesk, "gpus", lambda self: [])
    return make_desk(tmp_path, is_open=True, monkeypatch=monkeypatch)


def make_desk(folder: Path, *, is_open: bool, monkeypatch: pytest.MonkeyPatch) -> EvaluationDesk:
    monkeypatch.setattr("hart_studio.runs.queue.RunQueue.open", lambda self: None)
    launch = LaunchDesk(folder / "runs", is_open=is_open, find_gpus=list)
    return EvaluationDesk(launch, RunWatch(launch.runs_root, folder / "served" / "runs"))


@pytest.fixture
def outputs(desk: EvaluationDesk, tmp_path: Path) -> EvaluationOutputs:
    return EvaluationOutputs(desk, AskService(tmp_path / "served"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return draw_picture(tmp_path / "sign.png")


@pytest.fixture
def layout(desk: EvaluationDesk, picture: Path) -> RunLayout:
    """A complete evaluation of twelve questions."""
    return write_evaluation(desk.launch.runs_root, make_records(picture), title="Made up")


def look(desk: EvaluationDesk, signature: str = "") -> Any:
    return desk.evaluations({"signature": signature})


def test_the_list_tells_figures_so_far_and_then_nothing_new(desk: EvaluationDesk, layout: RunLayout) -> None:
    create_run(desk.launch.runs_root, "training", RunConfig(), "ap_grpo", total=3)
    first = look(desk)
    (row,) = first["evaluations"]
    assert (row["id"], row["title"], row["state"], row["benchmark"]) == (
        layout.run_id,
        "Made up",
        "completed",
        "Needle",
    )
    assert (row["step"], row["total"], row["protocols"]) == (12, 12, ["crops_only", "direct"])
    # Of 11 scored ones, numbers 0, 3, 6 and 9 are wrong; of 12 boxes those of 0, 4 and 8 are far off.
    assert row["figures"]["crops_only/accuracy"] == pytest.approx(7 / 11)
    assert row["figures"]["iog_above_0.3"] == pytest.approx(9 / 12)
    assert row["figures"]["crops_only/unscored"] == 1.0
    assert row["eta_seconds"] is None, "it has ended"
    json.dumps(first)
    assert look(desk, first["signature"]) is None


def test_the_time_that_is_left_comes_from_the_pace(desk: EvaluationDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = prepare_run(desk.launch.runs_root, EvaluationConfig())
    with RunWriter(layout, 100) as run:
        assert look(desk)["evaluations"][0]["eta_seconds"] is None, "no pace is known yet"
        run.start(PROVENANCE)
        log = EventLog(layout.events)
        begun = read_events(layout).events[0]
        first = log.append(StepDone(stage="", metrics={}), 10)
        loading = look(desk)["evaluations"][0]["pace"]
        assert loading == pytest.approx((first.at - begun.at).total_seconds() / 10), (
            "from the start, until there are two"
        )
        second = log.append(StepDone(stage="", metrics={"crops_only/accuracy": 0.5}), 30)
        write_status(layout, read_status(layout).replace(step=30))
        pace = (second.at - first.at).total_seconds() / 20
        (row,) = look(desk)["evaluations"]
        assert row["state"] == "running" and row["pace"] == pytest.approx(pace)
        assert row["eta_seconds"] == (round(pace * 70) or 0)
        assert row["figures"] == {"crops_only/accuracy": 0.5}
        assert run.attempt == 1


def test_an_evaluation_whose_settings_are_gone_is_listed_with_the_reason(
    desk: EvaluationDesk, layout: RunLayout
) -> None:
    layout.config.write_text("{}x")
    (row,) = look(desk)["evaluations"]
    assert row["title"] == layout.run_id and "expected the settings" in row["problem"]


def test_starting_makes_a_run_that_waits_in_the_queue(desk: EvaluationDesk) -> None:
    run = desk.start({**WANTED, "title": " Mine ", "fallback": True})["run"]
    layout = find_run(desk.launch.runs_root, run)
    config = read_config(layout)
    assert (config.benchmark, config.model, config.title, config.limit) == ("needle", "built-in", "Mine", 8)
    assert (config.protocols, config.loop.fallback, config.device) == (("crops_only", "direct"), "direct", "cpu")
    assert config.loop.temperature == 0.0, "greedy"
    plan = find_plan(layout)
    assert plan is not None and plan.gpus == ()
    root = str(desk.launch.runs_root)
    assert plan.argv[1:] == ("-m", "hart_studio.evaluation", "--resume", run, "--runs-root", root)
    assert (read_status(layout).job, read_status(layout).state) == ("evaluation", "queued")
    (row,) = look(desk)["evaluations"]
    assert (row["state"], row["ahead"]) == ("queued", 0)


def test_a_double_click_starts_one(desk: EvaluationDesk) -> None:
    runs = [desk.start(WANTED)["run"], desk.start(WANTED)["run"], desk.start({**WANTED, "limit": 9})["run"]]
    assert runs[0] == runs[1] != runs[2]
    assert len(list_runs(desk.launch.runs_root)) == 2


def test_training_and_evaluation_wait_for_the_same_device(
    desk: EvaluationDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(
        "hart_studio.runs.queue.start_run", lambda layout, argv, environment, is_queued: begun.append(layout.run_id)
    )
    training = create_run(desk.launch.runs_root, "training", RunConfig(), "sft", total=1)
    plan_launch(training, LaunchPlan(argv=(sys.executable, "train")))
    evaluation = desk.start(WANTED)["run"]
    elsewhere = desk.start({**WANTED, "gpu": 1})["run"]
    started = desk.launch.queue.start_next()
    assert sorted(started) == sorted(begun) and len(started) == 2 and elsewhere in started
    assert len({training.run_id, evaluation} & set(started)) == 1, "one of them waits for the CPU"


@pytest.mark.parametrize(
    "wrong",
    [
        {"benchmark": "gone"},
        {"benchmark": None},
        {"model": ""},
        {"model": "x" * 301},
        {"model": "a\0b"},
        {"protocols": []},
        {"protocols": ["sideways"]},
        {"protocols": ["direct", "direct"]},
        {"limit": 0},
        {"limit": "many"},
        {"path": "x" * 1001},
        {"gpu": -1},
        {"served": {"url": "http://127.0.0.1:1"}},
        {"device": "cuda"},
    ],
)
def test_settings_that_cannot_be_used(desk: EvaluationDesk, wrong: dict[str, Any]) -> None:
    for act in (desk.start, desk.command):
        with pytest.raises(InputError):
            act({**WANTED, **wrong})
    assert list_runs(desk.launch.runs_root) == []


def test_the_command_line_does_the_same_and_is_quoted(desk: EvaluationDesk) -> None:
    line = desk.command({**WANTED, "path": "/data/$(rm -rf x)", "title": "-'quoted'"})["line"]
    assert "-m hart_studio.evaluation --benchmark=needle --model=built-in" in line
    assert "--protocol=crops_only --protocol=direct" in line and "--limit=8" in line and "--device=cpu" in line
    assert "'--path=/data/$(rm -rf x)'" in line


def test_one_that_ended_early_goes_on(desk: EvaluationDesk, picture: Path) -> None:
    layout = write_evaluation(desk.launch.runs_root, make_records(picture, 4), total=9)
    (row,) = look(desk)["evaluations"]
    assert (row["state"], row["step"], row["total"]) == ("stopped", 4, 9)
    assert row["warnings"] == ["q999: the picture is missing"]
    desk.resume({"run": layout.run_id})
    assert read_status(layout).state == "queued"
    plan = find_plan(layout)
    assert plan is not None and "--resume" in plan.argv
    desk.stop({"run": layout.run_id})
    assert layout.stop.exists()


def test_a_complete_one_is_not_resumed_but_deleted(desk: EvaluationDesk, layout: RunLayout) -> None:
    with pytest.raises(InputError, match="completed"):
        desk.resume({"run": layout.run_id})
    desk.delete({"run": layout.run_id})
    assert not layout.folder.exists() and look(desk)["evaluations"] == []


def test_one_behind_an_address_is_not_resumed_from_a_page(desk: EvaluationDesk, picture: Path) -> None:
    served = {"url": "http://127.0.0.1:9/v1", "model": "far", "family": "qwen2_5_vl"}
    layout = write_evaluation(desk.launch.runs_root, make_records(picture, 4), total=9, served=served)
    with pytest.raises(InputError, match="go on in a terminal"):
        desk.resume({"run": layout.run_id})


HOSTILE_IDS = ["", "..", "../../etc", "/etc/passwd", "20260101-000000-evaluation-abcdef/..", "x" * 500, None, 7, {}]


@pytest.mark.parametrize("run_id", HOSTILE_IDS)
def test_no_id_from_a_browser_leads_out_of_the_evaluations(
    desk: EvaluationDesk, outputs: EvaluationOutputs, layout: RunLayout, run_id: Any
) -> None:
    acts = (desk.stop, desk.resume, desk.delete, outputs.tables, outputs.failures, outputs.failure, outputs.report)
    request = {"run": run_id, "runs": [run_id], "sample": "q000", "protocol": "crops_only"}
    for act in acts:
        with pytest.raises(InputError):
            act(request)
    assert layout.folder.is_dir()


def test_a_training_run_is_no_evaluation(desk: EvaluationDesk, outputs: EvaluationOutputs) -> None:
    run = create_run(desk.launch.runs_root, "training", RunConfig(), "sft", total=1).run_id
    for act in (desk.stop, desk.resume, desk.delete):
        with pytest.raises(InputError, match="expected an evaluation"):
            act({"run": run})
    with pytest.raises(InputError, match="expected an evaluation"):
        outputs.tables({"runs": [run]})


def test_a_public_page_shows_and_makes_nothing(
    tmp_path: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = make_desk(tmp_path, is_open=False, monkeypatch=monkeypatch)
    for act in (closed.command, closed.start, closed.stop, closed.resume, closed.delete):
        with pytest.raises(InputError, match="switched off"):
            act({**WANTED, "run": layout.run_id})
    assert len(look(closed)["evaluations"]) == 1
    assert EvaluationOutputs(closed, AskService(tmp_path / "seen")).tables({"runs": [layout.run_id]})["tables"]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("/home/ann/models/mine/", "mine"),
        ("../models/mine", "mine"),
        ("C:\\models\\mine", "mine"),
        ("owner/model-7B", "owner/model-7B"),
        ("owner/" + "x" * 290, "owner/" + "x" * 290),
        ("built-in-hart", "built-in-hart"),
    ],
)
def test_a_public_page_tells_no_folders(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, place: str, told: str
) -> None:
    for is_open, expected in ((True, place), (False, told)):
        folder = tmp_path / str(is_open)
        desk = make_desk(folder, is_open=is_open, monkeypatch=monkeypatch)
        write_evaluation(desk.launch.runs_root, make_records(picture, 4), model=place, path=place)
        (row,) = look(desk)["evaluations"]
        assert (row["model"], row["path"]) == (expected, expected)


def test_a_local_folder_may_look_like_a_hub_id(tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    closed = make_desk(tmp_path, is_open=False, monkeypatch=monkeypatch)
    write_evaluation(closed.launch.runs_root, make_records(picture, 4), model="private/mine")
    assert look(closed)["evaluations"][0]["model"] == "mine"


def test_figures_stay_until_the_next_attempt_has_some(desk: EvaluationDesk, picture: Path) -> None:
    layout = write_evaluation(desk.launch.runs_root, make_records(picture, 4), total=9)
    before = look(desk)["evaluations"][0]["figures"]
    assert before
    with RunWriter(layout, 9) as run:
        run.start(PROVENANCE, resumed_from=4)
        (row,) = look(desk)["evaluations"]
        assert (row["figures"], row["pace"], row["warnings"]) == (before, None, [])
        EventLog(layout.events).append(StepDone(stage="", metrics={"crops_only/accuracy": 0.25}), 6)
        assert look(desk)["evaluations"][0]["figures"] == {"crops_only/accuracy": 0.25}


def test_tables_and_figures_travel_as_texts(outputs: EvaluationOutputs, layout: RunLayout) -> None:
    answer = outputs.tables({"runs": [layout.run_id, layout.run_id]})
    json.dumps(answer)
    assert answer["notes"] == []
    for table in answer["tables"]:
        assert {row["kind"] for row in table["rows"]} <= {"measured", "published"}
        assert all(len(row["cells"]) == len(table["columns"]) for row in table["rows"])
        assert all(isinstance(cell, str) for row in table["rows"] for cell in row["cells"])
    cells = [cell for table in answer["tables"] for row in table["rows"] for cell in row["cells"]]
    assert any("±" in cell for cell in cells) and any("Made up" in cell for cell in cells)
    assert answer["figures"] and all(figure["svg"].startswith("<svg") for figure in answer["figures"])


def test_tables_are_made_once_while_nothing_is_new(
    outputs: EvaluationOutputs, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = outputs.tables({"runs": [layout.run_id]})
    monkeypatch.setattr(evaluation_outputs, "make_tables", lambda evaluations: pytest.fail("made again"))
    assert outputs.tables({"runs": [layout.run_id]}) == first


@pytest.mark.parametrize("runs", [[], None, "x", [None], [1] * 7])
def test_one_to_six_are_compared(outputs: EvaluationOutputs, layout: RunLayout, runs: Any) -> None:
    with pytest.raises(InputError):
        outputs.tables({"runs": runs})


def test_one_that_has_not_begun_is_a_note(desk: EvaluationDesk, outputs: EvaluationOutputs, layout: RunLayout) -> None:
    waiting = desk.start({**WANTED, "title": "Later"})["run"]
    answer = outputs.tables({"runs": [waiting, layout.run_id]})
    assert answer["notes"] == ["Later has not read its questions yet"] and answer["tables"]
    assert outputs.tables({"runs": [waiting]})["tables"] == []
    with pytest.raises(InputError, match="Later has not read"):
        outputs.report({"runs": [waiting]})


def ask(outputs: EvaluationOutputs, layout: RunLayout, **more: Any) -> dict[str, Any]:
    return outputs.failures({"run": layout.run_id, "protocol": "crops_only", **more})


def test_lucky_answers_come_first_and_everything_is_counted(outputs: EvaluationOutputs, layout: RunLayout) -> None:
    answer = ask(outputs, layout)
    # Wrong answers: 0 3 6 9. Boxes far off: 0 4 8. Number 11 is unscored.
    assert answer["endings"] == {
        "right answer, wrong box": 2,
        "wrong answer, right box": 3,
        "wrong answer, wrong box": 1,
        "unscored": 1,
        "right answer, right box": 5,
    }
    assert [row["id"] for row in answer["rows"]][:3] == ["q004", "q008", "q003"]
    assert answer["rows"][0]["ending"] == "right answer, wrong box" and answer["count"] == 12
    assert answer["categories"] == ["detail", "detail/left", "detail/right"]


def test_questions_are_filtered_and_paged(
    outputs: EvaluationOutputs, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [row["id"] for row in ask(outputs, layout, ending="wrong answer, wrong box")["rows"]] == ["q000"]
    assert ask(outputs, layout, category="detail/left")["count"] == 5
    assert ask(outputs, layout, category="deta")["count"] == 0, "a category is a whole word"
    assert [row["id"] for row in ask(outputs, layout, text="SIGN 10?")["rows"]] == ["q010"]
    monkeypatch.setattr(evaluation_outputs, "LIST_ROWS", 5)
    pages = [ask(outputs, layout, offset=offset) for offset in (0, 5, 10, 15)]
    assert [len(page["rows"]) for page in pages] == [5, 5, 2, 0] and pages[3]["count"] == 12
    assert len({row["id"] for page in pages for row in page["rows"]}) == 12


@pytest.mark.parametrize("wrong", [{"ending": "odd"}, {"offset": -1}, {"protocol": "full_and_crops"}, {"more": 1}])
def test_a_filter_that_cannot_be_used(outputs: EvaluationOutputs, layout: RunLayout, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ask(outputs, layout, **wrong)


def test_a_question_comes_with_its_picture_both_kinds_of_boxes_and_every_answer(
    outputs: EvaluationOutputs, layout: RunLayout
) -> None:
    shown = outputs.failure({"run": layout.run_id, "sample": "q004"})
    json.dumps(shown)
    xyxy = [shown["boxes"][0][side] for side in ("x_min", "y_min", "x_max", "y_max")]
    assert tuple(xyxy) == FAR_XYXY and shown["gold"][0]["x_min"] == GOLD_XYXY[0]
    assert shown["matches"] == [{"is_found": False, "iog": 0.0, "iou": 0.0}]
    assert (shown["answer"], shown["choices"]) == ("A", ["five", "six", "seven"])
    assert [(said["protocol"], said["score"]["value"]) for said in shown["answers"]] == [
        ("crops_only", 1.0),
        ("direct", 0.0),
    ]
    assert (shown["picture"]["width"], shown["picture"]["height"]) == WH
    assert (outputs.service.folder / shown["picture"]["detail"]["path"]).read_bytes()[:2] == b"\xff\xd8"


def test_a_picture_that_is_gone_leaves_the_answers(
    outputs: EvaluationOutputs, layout: RunLayout, picture: Path
) -> None:
    picture.unlink()
    shown = outputs.failure({"run": layout.run_id, "sample": "q004"})
    assert shown["picture"] is None and "sign.png" in shown["problem"] and len(shown["answers"]) == 2
    with pytest.raises(HartError):
        outputs.ask_again({"run": layout.run_id, "sample": "q004"})


def test_a_file_that_is_no_picture_is_never_served(
    desk: EvaluationDesk, outputs: EvaluationOutputs, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    layout = write_evaluation(desk.launch.runs_root, [make_record(1, tmp_path / "secret.txt")])
    assert outputs.failure({"run": layout.run_id, "sample": "q001"})["picture"] is None
    with pytest.raises(ImageError):
        outputs.ask_again({"run": layout.run_id, "sample": "q001"})
    served = [path for path in (tmp_path / "served").rglob("*") if path.is_file()]
    assert not any(b"secret" in path.read_bytes() for path in served)


@pytest.mark.parametrize("sample", ["", "q999", "../q000", None, 3, "x" * 2000])
def test_a_question_of_another_evaluation_is_none(outputs: EvaluationOutputs, layout: RunLayout, sample: Any) -> None:
    with pytest.raises(InputError):
        outputs.failure({"run": layout.run_id, "sample": sample})


def test_the_path_of_a_picture_is_never_the_client_s(outputs: EvaluationOutputs, layout: RunLayout) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        outputs.failure({"run": layout.run_id, "sample": "q004", "image": "/etc/passwd"})


def test_a_question_is_asked_again_with_the_original(
    desk: EvaluationDesk, outputs: EvaluationOutputs, picture: Path
) -> None:
    record = make_record(3, picture, choices=("two\nlines", "six", "seven"))
    layout = write_evaluation(desk.launch.runs_root, [record], model="built-in")
    found = outputs.ask_again({"run": layout.run_id, "sample": "q003"})
    assert found.image.read_bytes() == picture.read_bytes() and found.image != picture
    assert found.image.is_relative_to(outputs.service.folder) and found.image.name == "sign.png"
    assert (found.question, found.choices, found.answer) == ("Which number is on sign 3?", "two lines\nsix\nseven", "A")
    assert found.model == "built-in"


def test_new_records_are_seen(
    desk: EvaluationDesk, outputs: EvaluationOutputs, layout: RunLayout, picture: Path
) -> None:
    assert ask(outputs, layout)["count"] == 12
    append_records(part_path(layout, 1), [make_record(50, picture)])
    assert ask(outputs, layout)["count"] == 13


def test_one_without_gold_boxes_or_crops(desk: EvaluationDesk, outputs: EvaluationOutputs, picture: Path) -> None:
    bare = [
        make_record(n, picture, gold_boxes=(), boxes=(), is_pointed=False, category="").model_copy(
            update={"answers": {"direct": make_record(n, picture).answers["direct"]}}
        )
        for n in range(3)
    ]
    layout = write_evaluation(desk.launch.runs_root, bare, protocols=("direct",), benchmark="mmstar")
    answer = outputs.failures({"run": layout.run_id, "protocol": "direct"})
    assert answer["endings"] == {"wrong answer": 3} and answer["categories"] == []
    shown = outputs.failure({"run": layout.run_id, "sample": "q001"})
    assert shown["gold"] == [] and shown["matches"] == [] and not shown["is_pointed"]
    json.dumps(outputs.tables({"runs": [layout.run_id]}), allow_nan=False)


def test_the_report_is_written_where_it_is_served(outputs: EvaluationOutputs, layout: RunLayout) -> None:
    answer = outputs.report({"runs": [layout.run_id]})
    page = (outputs.service.folder / answer["page"]).read_text("utf-8")
    assert page.startswith("<!doctype html>") and "Made up" in page
    with zipfile.ZipFile(outputs.service.folder / answer["archive"]) as archive:
        names = archive.namelist()
    assert "report.html" in names and "report.md" in names and any(name.endswith(".csv") for name in names)


def test_boxes_carry_their_labels_as_text(desk: EvaluationDesk, outputs: EvaluationOutputs, picture: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    layout = write_evaluation(
        desk.launch.runs_root, [make_record(1, picture, boxes=(Box.of(GOLD_XYXY, label=evil),))], title=evil
    )
    assert outputs.failure({"run": layout.run_id, "sample": "q001"})["boxes"][0]["label"] == evil
    assert look(desk)["evaluations"][0]["title"] == evil, "texts travel as they are; the page shows them as text"
