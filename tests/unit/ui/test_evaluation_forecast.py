"""What the Evaluate page tells before an evaluation begins: how many questions, and about how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hart_studio.evaluation.config import DRAWN_QUESTIONS
from hart_studio.runs.status import read_status
from hart_studio.ui.evaluation_desk import EvaluationDesk
from hart_studio.ui.launch_desk import LaunchDesk
from hart_studio.ui.run_watch import RunWatch
from tests.evaluations import draw_image, make_records, write_evaluation

WANTED = {"benchmark": "needle", "model": "built-in", "protocols": ["crops_only", "direct"]}
MEASURED: dict[str, Any] = {"model": "built-in", "device": "cpu", "protocols": ("direct", "crops_only")}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationDesk:
    monkeypatch.setattr("hart_studio.runs.queue.RunQueue.open", lambda self: None)
    launch = LaunchDesk(tmp_path / "runs", find_gpus=list)
    return EvaluationDesk(launch, RunWatch(launch.runs_root, tmp_path / "served" / "runs"))


def foresee(desk: EvaluationDesk, **more: Any) -> tuple[int | None, int | None]:
    answer = desk.command({**WANTED, **more})
    return answer["count"], answer["seconds"]


def test_the_number_of_questions_is_told_where_it_is_known(desk: EvaluationDesk) -> None:
    assert foresee(desk) == (DRAWN_QUESTIONS, None)
    assert foresee(desk, limit=8) == (8, None)
    assert foresee(desk, benchmark="treebench") == (405, None)
    assert foresee(desk, path="/data/own") == (None, None)


def test_a_queued_evaluation_tells_it_before_anything_is_read(desk: EvaluationDesk) -> None:
    run = desk.start(WANTED)["run"]
    assert read_status(desk.find(run)).total == DRAWN_QUESTIONS
    (row,) = desk.evaluations({})["evaluations"]  # type: ignore[index]
    assert (row["state"], row["total"]) == ("queued", DRAWN_QUESTIONS)


def test_the_time_is_that_of_the_newest_evaluation_of_the_same(
    desk: EvaluationDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = make_records(draw_image(tmp_path / "sign.png"), 4)
    paces = {
        write_evaluation(desk.launch.runs_root, records, **{**MEASURED, **other}).run_id: pace
        for pace, other in enumerate(
            [{}, {"model": "built-in-hart"}, {"protocols": ("direct",)}, {"device": "auto"}, {"path": "/data/x"}], 2
        )
    }
    monkeypatch.setattr(desk, "_glance", lambda layout: {"pace": paces.get(layout.run_id)})
    assert foresee(desk, limit=50) == (50, 100), "protocols are the same in any order, all others are not the same"
    assert foresee(desk, limit=50, model="built-in-hart") == (50, 150)
    assert foresee(desk, limit=50, protocols=["full_and_crops"]) == (50, None)
    assert foresee(desk, path="/data/x") == (None, None), "without a count there is no time"


def test_a_pace_comes_from_what_was_really_measured(desk: EvaluationDesk, tmp_path: Path) -> None:
    records = make_records(draw_image(tmp_path / "sign.png"), 4)
    write_evaluation(desk.launch.runs_root, records, **MEASURED)
    count, seconds = foresee(desk, limit=10_000_000)
    assert count == 10_000_000 and seconds is not None and seconds > 0
