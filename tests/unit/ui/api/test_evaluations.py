"""JSON API of the Evaluate tab; requests are not trusted."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from hart_studio.errors import InputError
from hart_studio.evaluation.config import DRAWN_QUESTIONS, EvaluationConfig, read_config
from hart_studio.evaluation.job import compute_metrics, prepare_run
from hart_studio.runs.config import RunConfig
from hart_studio.runs.events import EventLog, StepDone
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.queue import LaunchPlan, enqueue_launch, load_verified_plan
from hart_studio.runs.reader import list_runs, read_events
from hart_studio.runs.status import read_status, write_status
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.evaluation_results import EvaluationResultsApi
from hart_studio.ui.api.evaluations import EvaluationApi
from hart_studio.ui.api.handler import call_handler
from tests.evaluations import (
    PROVENANCE,
    draw_image,
    make_records,
    write_evaluation,
)
from tests.unit.ui.conftest import make_api

WANTED = {"benchmark": "needle", "model": "built-in", "protocols": ["crops_only", "direct"], "limit": 8}


def poll(api: EvaluationApi, signature: str = "") -> Any:
    return call_handler(api.evaluations, {"signature": signature})


def test_the_list_has_current_metrics_and_then_nothing_new(api: EvaluationApi, layout: RunLayout) -> None:
    create_run(api.launch.runs_root, "training", RunConfig(), "ap_grpo", total=3)
    first = poll(api)
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
    assert poll(api, first["signature"]) is None


def test_the_time_that_is_left_comes_from_the_pace(api: EvaluationApi, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = prepare_run(api.launch.runs_root, EvaluationConfig())
    with RunWriter(layout, 100) as run:
        assert poll(api)["evaluations"][0]["eta_seconds"] is None, "no pace is known yet"
        run.start(PROVENANCE)
        log = EventLog(layout.events)
        begun = read_events(layout).events[0]
        first = log.append(StepDone(stage="", metrics={}), 10)
        loading = poll(api)["evaluations"][0]["pace"]
        assert loading == pytest.approx((first.at - begun.at).total_seconds() / 10), (
            "from the start, until there are two"
        )
        second = log.append(StepDone(stage="", metrics={"crops_only/accuracy": 0.5}), 30)
        write_status(layout, read_status(layout).replace(step=30))
        pace = (second.at - first.at).total_seconds() / 20
        (row,) = poll(api)["evaluations"]
        assert row["state"] == "running" and row["pace"] == pytest.approx(pace)
        assert row["eta_seconds"] == (round(pace * 70) or 0)
        assert row["figures"] == {"crops_only/accuracy": 0.5}
        assert run.attempt == 1


def test_the_count_of_a_card_is_that_of_its_figures(api: EvaluationApi, tmp_path: Path) -> None:
    layout = prepare_run(api.launch.runs_root, EvaluationConfig())
    with RunWriter(layout, 30) as run:
        run.start(PROVENANCE)
        EventLog(layout.events).append(
            StepDone(stage="", metrics=compute_metrics(make_records(tmp_path / "x.png", 16))), 16
        )
        assert read_status(layout).step == 0, "the status is written less often"
        (row,) = poll(api)["evaluations"]
        assert (row["step"], row["figures"]["questions"], row["total"]) == (16, 16, 30)


def test_an_evaluation_whose_settings_are_gone_is_listed_with_the_reason(api: EvaluationApi, layout: RunLayout) -> None:
    layout.config.write_text("{}x")
    (row,) = poll(api)["evaluations"]
    assert row["title"] == layout.run_id and "Cannot read the settings" in row["problem"]


def test_starting_makes_a_run_that_waits_in_the_queue(api: EvaluationApi) -> None:
    run = call_handler(api.start, {**WANTED, "title": " Mine ", "fallback": True})["run"]
    layout = find_run(api.launch.runs_root, run)
    config = read_config(layout)
    assert (config.benchmark, config.model, config.title, config.limit) == ("needle", "built-in", "Mine", 8)
    assert (config.protocols, config.loop.fallback, config.device) == (("crops_only", "direct"), "direct", "cpu")
    assert config.loop.temperature == 0.0, "greedy"
    plan = load_verified_plan(layout)
    assert plan is not None and plan.gpus == ()
    root = str(api.launch.runs_root)
    assert plan.argv[1:] == ("-m", "hart_studio.evaluation", "--resume", run, "--runs-root", root)
    assert (read_status(layout).job, read_status(layout).state) == ("evaluation", "queued")
    (row,) = poll(api)["evaluations"]
    assert (row["state"], row["phase"]) == ("queued", "starting")


def test_a_double_click_starts_one(api: EvaluationApi) -> None:
    runs = [
        call_handler(api.start, WANTED)["run"],
        call_handler(api.start, WANTED)["run"],
        call_handler(api.start, {**WANTED, "limit": 9})["run"],
    ]
    assert runs[0] == runs[1] != runs[2]
    assert len(list_runs(api.launch.runs_root)) == 2


def test_training_and_evaluation_wait_for_the_same_device(api: EvaluationApi, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(
        "hart_studio.runs.queue.start_run", lambda layout, argv, environment, is_queued: begun.append(layout.run_id)
    )
    training = create_run(api.launch.runs_root, "training", RunConfig(), "sft", total=1)
    enqueue_launch(training, LaunchPlan(argv=(sys.executable, "train")))
    evaluation = call_handler(api.start, WANTED)["run"]
    elsewhere = call_handler(api.start, {**WANTED, "gpu": 1})["run"]
    started = api.launch.queue.start_next()
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
def test_settings_that_cannot_be_used(api: EvaluationApi, wrong: dict[str, Any]) -> None:
    for act in (api.start, api.command):
        with pytest.raises(InputError):
            call_handler(act, {**WANTED, **wrong})
    assert list_runs(api.launch.runs_root) == []


def test_the_command_line_does_the_same_and_is_quoted(api: EvaluationApi) -> None:
    line = call_handler(api.command, {**WANTED, "path": "/data/$(rm -rf x)", "title": "-'quoted'"})["line"]
    assert "-m hart_studio.evaluation --benchmark=needle --model=built-in" in line
    assert "--protocol=crops_only --protocol=direct" in line and "--limit=8" in line and "--device=cpu" in line
    assert "'--path=/data/$(rm -rf x)'" in line


def test_one_that_ended_early_goes_on(api: EvaluationApi, image: Path) -> None:
    layout = write_evaluation(api.launch.runs_root, make_records(image, 4), total=9)
    (row,) = poll(api)["evaluations"]
    assert (row["state"], row["step"], row["total"]) == ("stopped", 4, 9)
    assert row["warnings"] == ["q999: the image is missing"]
    call_handler(api.resume, {"run": layout.run_id})
    assert read_status(layout).state == "queued"
    plan = load_verified_plan(layout)
    assert plan is not None and "--resume" in plan.argv
    call_handler(api.stop, {"run": layout.run_id})
    assert layout.stop.exists()


def test_a_complete_one_is_not_resumed_but_deleted(api: EvaluationApi, layout: RunLayout) -> None:
    with pytest.raises(InputError, match="completed"):
        call_handler(api.resume, {"run": layout.run_id})
    call_handler(api.delete, {"run": layout.run_id})
    assert not layout.folder.exists() and poll(api)["evaluations"] == []


def test_one_behind_an_address_is_not_resumed_from_a_page(api: EvaluationApi, image: Path) -> None:
    served = {"url": "http://127.0.0.1:9/v1", "model": "far", "family": "qwen2_5_vl"}
    layout = write_evaluation(api.launch.runs_root, make_records(image, 4), total=9, served=served)
    with pytest.raises(InputError, match="Resume it in a terminal"):
        call_handler(api.resume, {"run": layout.run_id})


HOSTILE_IDS = ["", "..", "../../etc", "/etc/passwd", "20260101-000000-evaluation-abcdef/..", "x" * 500, None, 7, {}]


@pytest.mark.parametrize("run_id", HOSTILE_IDS)
def test_no_id_from_a_browser_leads_out_of_the_evaluations(
    api: EvaluationApi, outputs: EvaluationResultsApi, layout: RunLayout, run_id: Any
) -> None:
    acts = (api.stop, api.resume, api.delete, outputs.tables, outputs.failures, outputs.failure, outputs.report)
    request = {"run": run_id, "runs": [run_id], "sample": "q000", "protocol": "crops_only"}
    for act in acts:
        with pytest.raises(InputError):
            call_handler(act, request)
    assert layout.folder.is_dir()


def test_a_training_run_is_no_evaluation(api: EvaluationApi, outputs: EvaluationResultsApi) -> None:
    run = create_run(api.launch.runs_root, "training", RunConfig(), "sft", total=1).run_id
    for act in (api.stop, api.resume, api.delete):
        with pytest.raises(InputError, match="is not an evaluation"):
            call_handler(act, {"run": run})
    with pytest.raises(InputError, match="is not an evaluation"):
        call_handler(outputs.tables, {"runs": [run]})


def test_a_public_page_shows_and_makes_nothing(
    tmp_path: Path, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = make_api(tmp_path, is_open=False, monkeypatch=monkeypatch)
    for act in (closed.command, closed.start, closed.stop, closed.resume, closed.delete):
        with pytest.raises(InputError, match="disabled on a public Space"):
            call_handler(act, WANTED if act in {closed.command, closed.start} else {"run": layout.run_id})
    assert len(poll(closed)["evaluations"]) == 1
    assert call_handler(EvaluationResultsApi(closed, AskService(tmp_path / "seen")).tables, {"runs": [layout.run_id]})[
        "tables"
    ]


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("/home/ann/models/mine/", "mine"),
        ("../models/mine", "mine"),
        ("C:\\models\\mine", "mine"),
        ("owner/model-7B", "owner/model-7B"),
        ("owner/" + "x" * 290, "owner/" + "x" * 290),
        ("built-in-hart", "built-in-hart"),
    ],
)
def test_a_public_page_shows_no_folders(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch, place: str, shown: str
) -> None:
    for is_open, expected in ((True, place), (False, shown)):
        folder = tmp_path / str(is_open)
        api = make_api(folder, is_open=is_open, monkeypatch=monkeypatch)
        write_evaluation(api.launch.runs_root, make_records(image, 4), model=place, path=place)
        (row,) = poll(api)["evaluations"]
        assert (row["model"], row["path"]) == (expected, expected)


def test_a_local_folder_may_resemble_a_hub_id(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    closed = make_api(tmp_path, is_open=False, monkeypatch=monkeypatch)
    write_evaluation(closed.launch.runs_root, make_records(image, 4), model="private/mine")
    assert poll(closed)["evaluations"][0]["model"] == "mine"


def test_figures_stay_until_the_next_attempt_has_some(api: EvaluationApi, image: Path) -> None:
    layout = write_evaluation(api.launch.runs_root, make_records(image, 4), total=9)
    before = poll(api)["evaluations"][0]["figures"]
    assert before
    with RunWriter(layout, 9) as run:
        run.start(PROVENANCE, resumed_from=4)
        (row,) = poll(api)["evaluations"]
        assert (row["figures"], row["pace"], row["warnings"]) == (before, None, [])
        EventLog(layout.events).append(StepDone(stage="", metrics={"crops_only/accuracy": 0.25}), 6)
        assert poll(api)["evaluations"][0]["figures"] == {"crops_only/accuracy": 0.25}


def test_a_limit_beyond_all_bounds_is_refused_before_anything_is_made(api: EvaluationApi) -> None:
    before = list_runs(api.launch.runs_root)
    for act in (api.start, api.command):
        with pytest.raises(InputError, match="limit: Input should be less than or equal to"):
            call_handler(act, {**WANTED, "limit": 10**20})
    assert list_runs(api.launch.runs_root) == before


def test_one_broken_evaluation_does_not_take_the_list_along(
    api: EvaluationApi, layout: RunLayout, caplog: pytest.LogCaptureFixture
) -> None:
    huge = prepare_run(api.launch.runs_root, EvaluationConfig())
    huge.status.write_text(huge.status.read_text().replace('"total": 200', f'"total": {10**20}'))
    nowhen = huge.folder.with_name("20269999-999999-evaluation-abcdef")
    shutil.copytree(layout.folder, nowhen)
    found = poll(api)
    orjson.dumps(found)  # what the server makes of an answer
    assert [row["id"] for row in found["evaluations"]] == [layout.run_id] and found["unreadable"] == 2
    assert poll(api, found["signature"]) is None
    assert sum("incident" in record.message for record in caplog.records) == 1, "logged once, not with every poll"


def test_a_pace_from_a_broken_clock_is_a_time_that_can_be_sent(api: EvaluationApi) -> None:
    layout = prepare_run(api.launch.runs_root, EvaluationConfig(limit=10_000_000))
    with RunWriter(layout, 10_000_000) as run:
        run.start(PROVENANCE)
        log = EventLog(layout.events)
        for step in (1, 2):
            log.append(StepDone(stage="", metrics={}), step)
        lines = layout.events.read_text().splitlines()
        lines[-1] = re.sub(r'"at": ?"\d{4}', '"at": "9000', lines[-1])
        layout.events.write_text("\n".join(lines) + "\n")
        row = next(row for row in poll(api)["evaluations"] if row["id"] == layout.run_id)
    assert row["pace"] > 1e11 and row["eta_seconds"] == 10**9


def test_what_an_evaluation_does_before_its_first_answer_is_shown(api: EvaluationApi) -> None:
    layout = prepare_run(api.launch.runs_root, EvaluationConfig())
    with RunWriter(layout, 200) as run:
        run.set_phase("loading the model")
        row = next(row for row in poll(api)["evaluations"] if row["id"] == layout.run_id)
    assert (row["step"], row["phase"]) == (0, "loading the model")


MEASURED: dict[str, Any] = {"model": "built-in", "device": "cpu", "protocols": ("direct", "crops_only")}


def foresee(api: EvaluationApi, **more: Any) -> tuple[int | None, int | None]:
    answer = call_handler(api.command, {**WANTED, "limit": None, **more})
    return answer["count"], answer["seconds"]


def test_the_number_of_questions_is_shown_where_it_is_known(api: EvaluationApi) -> None:
    assert foresee(api) == (DRAWN_QUESTIONS, None)
    assert foresee(api, limit=8) == (8, None)
    assert foresee(api, benchmark="treebench") == (405, None)
    assert foresee(api, path="/data/own") == (None, None)


def test_a_queued_evaluation_has_it_before_anything_is_read(api: EvaluationApi) -> None:
    run = call_handler(api.start, {**WANTED, "limit": None})["run"]
    assert read_status(api.find(run)).total == DRAWN_QUESTIONS
    (row,) = call_handler(api.evaluations, {})["evaluations"]  # type: ignore[index]
    assert (row["state"], row["total"]) == ("queued", DRAWN_QUESTIONS)


def test_the_time_is_that_of_the_newest_evaluation_of_the_same(
    api: EvaluationApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = make_records(draw_image(tmp_path / "sign.png"), 4)
    paces = {
        write_evaluation(api.launch.runs_root, records, **{**MEASURED, **other}).run_id: pace
        for pace, other in enumerate(
            [{}, {"model": "built-in-hart"}, {"protocols": ("direct",)}, {"device": "auto"}, {"path": "/data/x"}], 2
        )
    }
    monkeypatch.setattr(api, "_summary", lambda layout: {"pace": paces.get(layout.run_id)})
    assert foresee(api, limit=50) == (50, 100), "protocols are the same in any order, all others are not the same"
    assert foresee(api, limit=50, model="built-in-hart") == (50, 150)
    assert foresee(api, limit=50, protocols=["full_and_crops"]) == (50, None)
    assert foresee(api, path="/data/x") == (None, None), "without a count there is no time"


def test_a_pace_comes_from_what_was_really_measured(api: EvaluationApi, tmp_path: Path) -> None:
    records = make_records(draw_image(tmp_path / "sign.png"), 4)
    write_evaluation(api.launch.runs_root, records, **MEASURED)
    count, seconds = foresee(api, limit=10_000_000)
    assert count == 10_000_000 and seconds is not None and seconds > 0
