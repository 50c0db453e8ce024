"""Estimates of the Evaluate tab before an evaluation starts: number of questions and time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hart_studio.evaluation.config import DRAWN_QUESTIONS
from hart_studio.runs.status import read_status
from hart_studio.ui.api.evaluations import EvaluationApi
from hart_studio.ui.api.launch import RunLauncher
from hart_studio.ui.api.runs import RunMonitor
from tests.evaluations import draw_image, make_records, write_evaluation

WANTED = {"benchmark": "needle", "model": "built-in", "protocols": ["crops_only", "direct"]}
MEASURED: dict[str, Any] = {"model": "built-in", "device": "cpu", "protocols": ("direct", "crops_only")}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationApi:
    monkeypatch.setattr("hart_studio.runs.queue.RunQueue.open", lambda self: None)
    launch = RunLauncher(tmp_path / "runs", find_gpus=list)
    return EvaluationApi(launch, RunMonitor(launch.runs_root, tmp_path / "served" / "runs"))


def foresee(api: EvaluationApi, **more: Any) -> tuple[int | None, int | None]:
    answer = api.command({**WANTED, **more})
    return answer["count"], answer["seconds"]


def test_the_number_of_questions_is_shown_where_it_is_known(api: EvaluationApi) -> None:
    assert foresee(api) == (DRAWN_QUESTIONS, None)
    assert foresee(api, limit=8) == (8, None)
    assert foresee(api, benchmark="treebench") == (405, None)
    assert foresee(api, path="/data/own") == (None, None)


def test_a_queued_evaluation_has_it_before_anything_is_read(api: EvaluationApi) -> None:
    run = api.start(WANTED)["run"]
    assert read_status(api.find(run)).total == DRAWN_QUESTIONS
    (row,) = api.evaluations({})["evaluations"]  # type: ignore[index]
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
