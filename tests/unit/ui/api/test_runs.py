"""JSON API of the Watch and Runs tabs; requests are not trusted."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from PIL import Image

from hart_studio.errors import DataError, InputError
from hart_studio.records import Box, Credit, Rollout, RolloutGroup, Sample, Score, Turn
from hart_studio.runs.config import RunConfig
from hart_studio.runs.events import EventLog, StepDone
from hart_studio.runs.history import RunHistory
from hart_studio.runs.launcher import start_run, stop_run
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.queue import LaunchPlan, enqueue_launch
from hart_studio.runs.rollouts import GroupImages
from hart_studio.runs.status import read_status, write_status
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.ui.api import runs as runs_module
from hart_studio.ui.api.changes import StampedCache
from hart_studio.ui.api.handler import api_handler, call_handler
from hart_studio.ui.api.rollouts import RolloutApi
from hart_studio.ui.api.runs import RunMonitor
from tests.unit.runs.conftest import PROVENANCE


def turn(kind: str, text: str) -> Turn:
    return Turn(
        kind=kind, prompt="?", image_sizes_wh=((10, 10),), text=text, finish_reason="stop",
        prompt_tokens=5, visual_tokens=3, completion_tokens=2, seconds=0.1,
    )  # fmt: skip


def group_images(sample_id: str, *, is_held_out: bool = False) -> GroupImages:
    sample = Sample(id=sample_id, image="x.png", question="Which?", choices=("red", "blue"), answer="A")
    box = Box.from_xyxy((10.0, 20.0, 30.0, 40.0), "star")
    rollouts = tuple(
        Rollout(
            sample_id=sample_id, protocol="crops_only", outcome="ok", boxes=(box,), crops=(box,),
            turns=(turn("grounding", "[box]"), turn("answer", text)),
            score=Score(value=value, extracted="A", expected="A", rule="boxed"),
        )
        for text, value in (("<b>red</b>", 1.0), ("blue", 0.0))
    )  # fmt: skip
    credits = () if is_held_out else (Credit(advantage=1.0, policy_weight=1.3, kl_weight=0.028),) * 2
    group = RolloutGroup(sample_id=sample_id, protocol="crops_only", rollouts=rollouts, credits=credits)
    small = Image.new("RGB", (8, 8), "red")
    return GroupImages(sample, group, (100, 80), Image.new("RGB", (50, 40)), [[small], [small]])


@pytest.fixture
def watch(tmp_path: Path) -> RunMonitor:
    return RunMonitor(tmp_path / "runs", tmp_path / "served")


@pytest.fixture
def layout(watch: RunMonitor) -> RunLayout:
    """A finished run of three steps with rollouts at step 2 and held-out ones at steps 0 and 3."""
    config = RunConfig.model_validate({"method": {"stages": "ap_grpo"}, "data": {"needle_samples": 700}})
    layout = create_run(watch.runs_root, "training", config, "ap_grpo", total=3)
    with RunWriter(layout, total=3) as run:
        run.start(PROVENANCE)
        run.log_evaluation(0, {"accuracy": 0.25, "iou": 0.1}, 8, "a1b2c3")
        run.log_rollouts(0, [group_images("held", is_held_out=True)], is_held_out=True)
        for step in (1, 2, 3):
            run.log_step(step, "ap_grpo", {"reward": step / 4})
            if step == 2:
                run.log_rollouts(2, [group_images("seen")])
        run.log_evaluation(3, {"accuracy": 0.75, "iou": 0.3}, 8, "a1b2c3")
        run.log_rollouts(3, [group_images("held", is_held_out=True)], is_held_out=True)
        with run.saving_checkpoint(3, "ap_grpo", is_kept=True) as folder:
            (folder / "weights").write_text("x")
    return layout


def poll_run(watch: RunMonitor, layout: RunLayout, answer: dict[str, Any] | None = None, **more: Any) -> Any:
    seen: dict[str, Any] = {"run": layout.run_id, **more}
    if answer:
        seen |= {"cursor": json.loads(json.dumps(answer["cursor"])), "status": answer["status"]["signature"]}
    return call_handler(watch.poll, seen)


def test_a_first_poll_returns_all_and_a_second_nothing(watch: RunMonitor, layout: RunLayout) -> None:
    first = poll_run(watch, layout)
    assert first["delta"]["is_full"] and first["delta"]["steps"]["metrics"]["reward"]["mean"] == [0.25, 0.5, 0.75]
    assert [item[:2] for item in first["delta"]["markers"]["items"]] == [
        ["started", 0], ["held_out", 0], ["stage", 1], ["rollouts", 2], ["held_out", 3], ["checkpoint", 3],
    ]  # fmt: skip
    assert first["about"]["stages"] == "AP-GRPO" and first["about"]["model"] == "built-in"
    assert first["about"]["title"].startswith("AP-GRPO, ") and first["about"]["title"].endswith(" UTC")
    assert first["about"]["settings"]["data"]["needle_samples"] == 700
    assert (first["status"]["state"], first["status"]["step"], first["status"]["total"]) == ("completed", 3, 3)
    json.dumps(first)  # all of it can travel
    assert poll_run(watch, layout, first, attempt=1, log_offset=0) is None


def test_the_log_comes_in_parts_as_it_was_printed(watch: RunMonitor, layout: RunLayout) -> None:
    layout.log_of(1).write_bytes(b"$ train\nstep 1\rstep 2\rstep 3\n")
    first = poll_run(watch, layout)
    assert first["log"]["text"] == "$ train\nstep 1\rstep 2\rstep 3\n" and first["log"]["is_first"]
    with layout.log_of(1).open("ab") as file:
        file.write("ä<b>".encode())
    part = poll_run(watch, layout, first, attempt=1, log_offset=first["log"]["offset"])
    assert part == {"log": {"attempt": 1, "is_first": False, "text": "ä<b>", "offset": layout.log_of(1).stat().st_size}}


def test_rollouts_come_with_images_that_the_server_may_serve(watch: RunMonitor, layout: RunLayout) -> None:
    (group,) = call_handler(RolloutApi(watch).rollouts, {"run": layout.run_id, "step": 2})
    assert group["sample"] == {
        "id": "seen",
        "question": "Which?",
        "choices": ("red", "blue"),
        "answer": "A",
        "category": "",
    }
    first, second = group["rollouts"]
    assert first["boxes"] == [[10.0, 20.0, 30.0, 40.0, "star"]] and group["wh"] == (100, 80)
    assert (first["answer"], first["score"], second["score"]) == ("<b>red</b>", 1.0, 0.0)
    assert first["credit"] == {"advantage": 1.0, "policy_weight": 1.3, "kl_weight": 0.028}
    assert (watch.image_folder / group["overview"]).read_bytes()[:2] == b"\xff\xd8"
    assert first["images"] == second["images"] and (watch.image_folder / first["images"][0]).exists()
    (held,) = call_handler(RolloutApi(watch).rollouts, {"run": layout.run_id, "step": 3, "is_held_out": True})
    assert held["sample"]["id"] == "held" and held["rollouts"][0]["credit"] is None


def test_a_question_is_followed_through_the_run(watch: RunMonitor, layout: RunLayout) -> None:
    assert call_handler(RolloutApi(watch).track_question, {"run": layout.run_id, "sample": "held"}) == [
        [0, True],
        [3, True],
    ]
    assert call_handler(RolloutApi(watch).track_question, {"run": layout.run_id, "sample": "seen"}) == [[2, False]]
    assert call_handler(RolloutApi(watch).track_question, {"run": layout.run_id, "sample": '"'}) == []


def test_true_boxes_come_from_the_data_set(watch: RunMonitor, layout: RunLayout, tmp_path: Path) -> None:
    assert call_handler(RolloutApi(watch).gold_boxes, {"run": layout.run_id, "sample": "needle-train-0-00000"})[0], (
        "needle scenes have them"
    )
    assert call_handler(RolloutApi(watch).gold_boxes, {"run": layout.run_id, "sample": "none"}) == []
    row = {"id": "a", "image": "a.png", "question": "?", "choices": [], "answer": "x", "gold_boxes": [[1, 2, 3, 4]]}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row))
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    data = {"source": "jsonl", "path": str(tmp_path / "samples.jsonl")}
    config = RunConfig.model_validate({"data": data})
    other = create_run(watch.runs_root, "training", config, "sft", total=1)
    assert call_handler(RolloutApi(watch).gold_boxes, {"run": other.run_id, "sample": "a"}) == [[1, 2, 3, 4]]
    (tmp_path / "samples.jsonl").unlink()
    fresh = RunMonitor(watch.runs_root, watch.image_folder)
    assert call_handler(RolloutApi(fresh).gold_boxes, {"run": other.run_id, "sample": "a"}) == [], (
        "a data set that is gone is no reason to fail"
    )


def test_the_list_of_runs(watch: RunMonitor, layout: RunLayout) -> None:
    answer = call_handler(watch.list_runs, {})
    assert answer is not None
    (row,) = answer["runs"]
    assert (row["id"], row["state"], row["stages"], row["step"]) == (layout.run_id, "completed", "AP-GRPO", 3)
    assert row["spark"] == [0.25, 0.5, 0.75] and row["reward"] == pytest.approx(0.5)
    assert row["first"] == {"accuracy": 0.25, "iou": 0.1} and row["last"] == {"accuracy": 0.75, "iou": 0.3}
    assert call_handler(watch.list_runs, {"signature": answer["signature"]}) is None, "nothing new is nothing sent"
    assert call_handler(RunMonitor(watch.runs_root / "missing", watch.image_folder).list_runs, {}) == {
        "runs": [],
        "signature": ANY,
    }


def test_evaluations_have_a_list_of_their_own(watch: RunMonitor, layout: RunLayout) -> None:
    create_run(watch.runs_root, "evaluation", RunConfig(), "evaluation", total=1)
    assert [row["id"] for row in (call_handler(watch.list_runs, {}) or {})["runs"]] == [layout.run_id]


def test_a_long_list_is_read_once_and_loses_nothing(watch: RunMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    watch._digests = StampedCache(2)
    monkeypatch.setattr(runs_module, "TIMEOUT_SECONDS", 60.0)
    layouts = [create_run(watch.runs_root, "training", RunConfig(), "sft", total=1) for _ in range(5)]
    for number, layout in enumerate(layouts):
        EventLog(layout.events).append(StepDone(stage="sft", metrics={"reward": number / 4}), 1)
    first = call_handler(watch.list_runs, {}) or {}
    read = []
    monkeypatch.setattr(RunHistory, "refresh", lambda digest: read.append(digest.layout.run_id) and False)
    assert call_handler(watch.list_runs, {"signature": first["signature"]}) is None and not read, (
        "nothing new, so nothing is read"
    )
    assert {row["id"]: row["reward"] for row in first["runs"]} == {
        layout.run_id: number / 4 for number, layout in enumerate(layouts)
    }
    EventLog(layouts[3].events).append(StepDone(stage="sft", metrics={"reward": 1.0}), 2)
    call_handler(watch.list_runs, {})
    assert read == [layouts[3].run_id]
    call_handler(watch.delete, {"run": layouts[3].run_id})
    assert len((call_handler(watch.list_runs, {}) or {})["runs"]) == 4


def test_a_run_whose_turn_has_not_come_keeps_its_row(
    watch: RunMonitor, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "TIMEOUT_SECONDS", -1.0)
    (row,) = (call_handler(watch.list_runs, {}) or {})["runs"]
    assert (row["reward"], row["spark"], row["last"], row["state"]) == (None, [], {}, "completed")
    monkeypatch.setattr(runs_module, "TIMEOUT_SECONDS", 60.0)
    (read,) = (call_handler(watch.list_runs, {}) or {})["runs"]
    assert read["reward"] == pytest.approx(0.5)


def test_a_page_gets_the_age_of_the_last_sign_of_life(watch: RunMonitor, layout: RunLayout) -> None:
    status = read_status(layout)
    write_status(layout, status.replace(heartbeat=datetime.now(UTC) - timedelta(seconds=90)))
    assert poll_run(watch, layout)["status"]["age"] == pytest.approx(90, abs=20)
    write_status(layout, status.replace(heartbeat=None))
    assert poll_run(watch, layout)["status"]["age"] is None


def test_a_page_gets_phase_and_device_of_a_run(watch: RunMonitor) -> None:
    layout = create_run(watch.runs_root, "training", RunConfig(), "sft", total=3)
    with RunWriter(layout, total=3) as run:
        run.start(PROVENANCE.model_copy(update={"device": "2 x cuda: NVIDIA A100"}))
        run.set_phase("loading the model")
        first = poll_run(watch, layout)
        assert (first["status"]["phase"], first["about"]["device"]) == ("loading the model", "2 GPUs: NVIDIA A100")
        run.start(PROVENANCE.model_copy(update={"device": "1 x cpu"}))
        assert poll_run(watch, layout, first)["about"]["device"] == "CPU", "an attempt somewhere else says so"
        run.set_phase("evaluating held-out questions, 0 of 40")
        assert poll_run(watch, layout, first)["status"]["phase"] == "evaluating held-out questions, 0 of 40"
        assert "phase" not in (call_handler(watch.list_runs, {}) or {})["runs"][0], (
            "the list is not sent again for each batch"
        )
    write_status(layout, read_status(layout).replace(phase="loading the model"))
    assert poll_run(watch, layout)["status"]["phase"] == "", "whatever it was at, it is over"


def test_a_run_in_the_queue_says_how_many_come_before_it(watch: RunMonitor) -> None:
    layouts = []
    for _ in range(3):
        layout = create_run(watch.runs_root, "training", RunConfig(), "sft", total=3)
        enqueue_launch(layout, LaunchPlan(argv=(sys.executable, "train")))
        layouts.append(layout)
    layouts.sort(key=lambda layout: layout.run_id)
    phases = [poll_run(watch, layout)["status"]["phase"] for layout in layouts]
    assert phases[0] == "starting"
    assert phases[1:] == ["queued behind 1 run on this device", "queued behind 2 runs on this device"]
    seen = poll_run(watch, layouts[1])
    write_status(layouts[0], read_status(layouts[0]).replace(state="stopped"))
    assert poll_run(watch, layouts[1], seen)["status"]["phase"] == "starting", "a new queue position is a change"


def test_a_broken_run_is_shown_as_one(watch: RunMonitor, layout: RunLayout) -> None:
    layout.status.write_text("{")
    layout.config.write_text("[]")
    fresh = RunMonitor(watch.runs_root, watch.image_folder)
    (row,) = (call_handler(fresh.list_runs, {}) or {})["runs"]
    assert row["state"] == "unreadable" and "status" in row["error"]
    assert poll_run(fresh, layout)["status"]["state"] == "unreadable"


def test_runs_are_compared(watch: RunMonitor, layout: RunLayout) -> None:
    (item,) = call_handler(watch.compare, {"runs": [layout.run_id]})
    assert item["steps"]["steps"] == [1, 2, 3] and item["evaluations"]["metrics"]["accuracy"]["mean"] == [0.25, 0.75]
    for runs in ([], [layout.run_id] * 7, "x", None):
        with pytest.raises(InputError, match="1 to 6 runs"):
            call_handler(watch.compare, {"runs": runs})


def test_a_run_that_has_ended_is_deleted(watch: RunMonitor, layout: RunLayout) -> None:
    call_handler(RolloutApi(watch).rollouts, {"run": layout.run_id, "step": 2})
    assert list(watch.image_folder.glob(f"{layout.run_id}-*"))
    call_handler(watch.delete, {"run": layout.run_id})
    assert not layout.folder.exists() and (call_handler(watch.list_runs, {}) or {})["runs"] == []
    assert not list(watch.image_folder.glob(f"{layout.run_id}-*")), "copies go too"


def test_a_run_that_has_just_been_started_is_not(watch: RunMonitor) -> None:
    layout = create_run(watch.runs_root, "training", RunConfig(), "sft", total=1)
    start_run(layout, [sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert read_status(layout).state == "queued", "its process has not said a word yet"
        with pytest.raises(InputError, match="Stop it before"):
            call_handler(watch.delete, {"run": layout.run_id})
    finally:
        stop_run(layout, save_seconds=0.0)
    assert layout.folder.is_dir()


def test_a_run_that_goes_on_is_not(watch: RunMonitor) -> None:
    layout = create_run(watch.runs_root, "training", RunConfig(), "sft", total=1)
    with RunWriter(layout, total=1), pytest.raises(InputError, match="Stop it first"):
        call_handler(watch.delete, {"run": layout.run_id})
    assert layout.folder.is_dir()


HOSTILE_IDS = ["", "..", "../../etc", "/etc/passwd", "20260101-000000-sft-abcdef/..", "x" * 500, None, 7, {"a": 1}]


@pytest.mark.parametrize("run_id", HOSTILE_IDS)
@pytest.mark.parametrize("name", ["poll", "rollouts", "track_question", "gold_boxes", "delete"])
def test_no_name_from_a_browser_leads_out_of_the_runs(
    watch: RunMonitor, layout: RunLayout, name: str, run_id: Any
) -> None:
    with pytest.raises(InputError):
        call_handler(
            getattr(watch if hasattr(watch, name) else RolloutApi(watch), name),
            {"run": run_id, "step": 2, "sample": "seen"},
        )
    assert layout.folder.is_dir()


def test_an_image_outside_of_the_run_is_not_served(watch: RunMonitor, layout: RunLayout, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    path = layout.rollouts_of(2)
    line = json.loads(path.read_text())
    line["overview"] = os.path.relpath(tmp_path / "secret.jpg", layout.images)
    path.write_text(json.dumps(line))
    (group,) = call_handler(RolloutApi(watch).rollouts, {"run": layout.run_id, "step": 2})
    assert group["overview"] is None
    assert not any(b"secret" in file.read_bytes() for file in watch.image_folder.iterdir())


@pytest.mark.parametrize("cursor", [{}, {"token": 1}, {"steps": "x"}, {"token": "a", "version": 2, "steps": [9, 9]}])
def test_an_unknown_cursor_starts_from_the_beginning(watch: RunMonitor, layout: RunLayout, cursor: Any) -> None:
    assert call_handler(watch.poll, {"run": layout.run_id, "cursor": cursor})["delta"]["is_full"]


def test_a_step_without_a_record_is_said(watch: RunMonitor, layout: RunLayout) -> None:
    with pytest.raises(DataError):
        call_handler(RolloutApi(watch).rollouts, {"run": layout.run_id, "step": 1})
    answer = api_handler(RolloutApi(watch).rollouts)({"run": layout.run_id, "step": 1})
    assert "error" in answer and api_handler(RolloutApi(watch).rollouts).__name__ == "rollouts"
    with pytest.raises(InputError, match="Invalid request: step: Input should be greater"):
        call_handler(RolloutApi(watch).rollouts, {"run": layout.run_id, "step": -1})
