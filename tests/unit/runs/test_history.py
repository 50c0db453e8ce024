from __future__ import annotations

import json
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hart_studio.runs.events import (
    CheckpointSaved,
    Evaluated,
    EventLog,
    Payload,
    RolloutsSaved,
    RunEvent,
    Started,
    StepDone,
    Warned,
)
from hart_studio.runs.history import Cursor, RunHistory
from hart_studio.runs.layout import RunLayout
from tests.unit.runs.conftest import PROVENANCE


def write(layout: RunLayout, *events: tuple[int, Payload]) -> None:
    log = EventLog(layout.events)
    for step, payload in events:
        log.append(payload, step)


def step(reward: float, stage: str = "ap_grpo") -> StepDone:
    return StepDone(stage=stage, metrics={"reward": reward})


def started(attempt: int = 1, resumed_from: int | None = None) -> Started:
    return Started(attempt=attempt, resumed_from=resumed_from, provenance=PROVENANCE)


class Reader:
    """A client that applies deltas."""

    def __init__(self) -> None:
        self.cursor = Cursor()
        self.steps: list[int] = []
        self.rewards: list[float] = []
        self.markers: list[list[Any]] = []

    def poll(self, history: RunHistory) -> dict[str, Any] | None:
        history.refresh()
        answer = history.delta(self.cursor)
        if answer is None:
            return None
        found, self.cursor = answer
        if found["is_full"]:
            self.steps, self.rewards, self.markers = [], [], []
        rows = found["steps"]
        self.steps[rows["first_row"] :] = rows["steps"]
        self.rewards[rows["first_row"] :] = rows["metrics"].get("reward", {"mean": []})["mean"]
        self.markers[found["markers"]["first"] :] = found["markers"]["items"]
        return found


def test_a_reader_gets_what_is_new_and_nothing_twice(layout: RunLayout) -> None:
    history, reader = RunHistory(layout), Reader()
    assert reader.poll(history) is not None and reader.poll(history) is None
    write(layout, (0, started()), (1, step(0.25)), (2, step(0.5)))
    first = reader.poll(history)
    assert first is not None and (reader.steps, reader.rewards) == ([1, 2], [0.25, 0.5])
    assert reader.poll(history) is None, "nothing new is nothing sent"
    write(
        layout,
        (3, step(0.75)),
        (3, RolloutsSaved(groups=2)),
        (3, Evaluated(metrics={"accuracy": 0.5}, samples=8, fingerprint="a1b2c3")),
    )
    second = reader.poll(history)
    assert second is not None and reader.steps == [1, 2, 3]
    assert second["steps"]["first_row"] == 1, "the last row comes again, for it may have been joined"
    assert second["evaluations"]["metrics"]["accuracy"]["mean"] == [0.5]
    assert reader.markers == [["started", 0, "attempt 1"], ["stage", 1, "ap_grpo"], ["rollouts", 3, ""]]


def test_a_late_reader_sees_the_same(layout: RunLayout) -> None:
    history, early = RunHistory(layout), Reader()
    for number in range(1, 30):
        write(layout, (number, step(number / 30)))
        early.poll(history)
    late, other = Reader(), Reader()
    late.poll(history)
    other.poll(RunHistory(layout))
    assert late.steps == other.steps == early.steps and late.rewards == other.rewards == early.rewards


def test_an_attempt_that_goes_on_from_a_checkpoint_replaces_what_came_after_it(layout: RunLayout) -> None:
    history, reader = RunHistory(layout), Reader()
    write(
        layout,
        (0, started()),
        (0, Evaluated(metrics={"accuracy": 0.1}, samples=8, fingerprint="a1b2c3")),
        *((number, step(0.1)) for number in (1, 2, 3, 4)),
        (2, CheckpointSaved(stage="ap_grpo", is_kept=False)),
        (4, RolloutsSaved(groups=1)),
    )
    reader.poll(history)
    write(layout, (2, started(2, resumed_from=2)), (3, step(0.9)))
    reader.poll(history)
    assert (reader.steps, reader.rewards) == ([1, 2, 3], [0.1, 0.1, 0.9])
    assert reader.markers == [
        ["started", 0, "attempt 1"],
        ["stage", 1, "ap_grpo"],
        ["checkpoint", 2, "ap_grpo"],
        ["started", 2, "attempt 2"],
    ]
    write(layout, (0, started(3)), (0, Evaluated(metrics={"accuracy": 0.2}, samples=8, fingerprint="a1b2c3")))
    found = reader.poll(history)
    assert found is not None and found["evaluations"] == {
        "first_row": 0,
        "steps": [0],
        "metrics": {"accuracy": {"mean": [0.2]}},
    }, "an attempt from the beginning measures step 0 again"
    assert reader.steps == []


def test_a_server_that_was_restarted_sends_everything_again(layout: RunLayout) -> None:
    reader = Reader()
    write(layout, (1, step(0.5)))
    reader.poll(RunHistory(layout))
    found = reader.poll(RunHistory(layout))
    assert found is not None and found["is_full"] and reader.steps == [1]


def test_a_file_that_was_replaced_is_read_again(layout: RunLayout) -> None:
    history, reader = RunHistory(layout), Reader()
    write(layout, (1, step(0.5)), (2, step(0.5)))
    reader.poll(history)
    layout.events.unlink()
    write(layout, (1, step(0.1)))
    reader.poll(history)
    assert (reader.steps, reader.rewards) == ([1], [0.1])


def test_warnings_are_counted_and_the_newest_are_shown(layout: RunLayout) -> None:
    history, reader = RunHistory(layout), Reader()
    write(layout, *((number, Warned(message=f"w{number}")) for number in range(150)))
    found = reader.poll(history)
    assert found is not None and found["warnings"]["count"] == 150
    assert found["warnings"]["newest"][0] == [50, "w50"] and len(found["warnings"]["newest"]) == 100
    write(layout, (151, step(0.5)))
    found = reader.poll(history)
    assert found is not None and "warnings" not in found, "warnings that were sent are not sent again"


@pytest.mark.parametrize("parts", [8, pytest.param(40, marks=pytest.mark.extended)])
def test_a_digest_is_read_while_it_grows(layout: RunLayout, parts: int) -> None:
    history, is_over, failures = RunHistory(layout), threading.Event(), []

    def read() -> None:
        while not is_over.is_set():
            try:
                history.curves()
                history.summary(48)
            except RuntimeError as error:
                failures.append(error)

    reader, before = threading.Thread(target=read), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        reader.start()
        for part in range(parts):  # rows are put together again and again, and get other figures by it
            payloads = [StepDone(stage="", metrics={f"f{part}.{number % 60}": 1.0}) for number in range(100)]
            write(layout, *((100 * part + number, payload) for number, payload in enumerate(payloads, 1)))
            history.refresh()
    finally:
        is_over.set()
        reader.join()
        sys.setswitchinterval(before)
    assert not failures


def test_a_summary_has_the_curve_and_the_ends(layout: RunLayout) -> None:
    history = RunHistory(layout)
    assert history.summary(48) == {
        "spark": [], "reward": None, "reward_steps": 0, "held_out": None, "first": {}, "last": {}, "warnings": 0,
    }  # fmt: skip
    evaluations = (
        (0, Evaluated(metrics={"accuracy": 0.1}, samples=8, fingerprint="a1b2c3")),
        (9, Evaluated(metrics={"iou": 0.2}, samples=8, fingerprint="a1b2c3")),
    )
    write(layout, *((number, step(number / 100)) for number in range(1, 101)), *evaluations, (9, Warned(message="w")))
    history.refresh()
    summary = history.summary(10)
    assert summary["spark"] == [number / 100 for number in range(1, 101, 10)] and summary["warnings"] == 1
    assert summary["held_out"] == {"samples": 8, "fingerprint": "a1b2c3"}
    assert (summary["reward"], summary["reward_steps"]) == (pytest.approx(0.955), 10)
    assert (summary["first"], summary["last"]) == (
        {"accuracy": 0.1},
        {"iou": 0.2},
    )


def test_every_page_gets_the_same_reward(layout: RunLayout) -> None:
    history, reader = RunHistory(layout), Reader()
    write(layout, (0, Evaluated(metrics={}, samples=8, fingerprint="f" * 64)))
    write(layout, *((number, step(number / 100)) for number in range(1, 31)), (31, step(0.0, "sft")))
    write(layout, (32, StepDone(stage="sft", metrics={"loss": 1.0})))
    delta, summary, curves = reader.poll(history), history.summary(48), history.curves()
    assert delta is not None
    assert delta["recent"]["reward"] == curves["recent"]["reward"] == (summary["reward"], summary["reward_steps"])
    assert summary["reward"] == pytest.approx((sum(range(22, 31)) / 100) / 10)
    assert delta["held_out"] == summary["held_out"] == curves["held_out"] == {"samples": 8, "fingerprint": "f" * 12}


def test_the_cost_of_a_poll_does_not_grow_with_the_run(layout: RunLayout) -> None:
    history, reader = RunHistory(layout), Reader()
    sizes = []
    for number in range(1, 3001):
        history._apply(_event(number))
        history._version += 1
        found = reader.poll(history)
        sizes.append(len(json.dumps(found)))
    ordinary = sorted(sizes[1:])
    assert ordinary[len(ordinary) // 2] < 400 and max(sizes) < 100_000
    assert sum(size > 400 for size in sizes) < 10, "all rows are sent again only when they were put together"


def test_the_pace_is_that_of_the_last_steps(layout: RunLayout) -> None:
    history = RunHistory(layout)
    assert history._median_step_seconds() is None
    for number in range(5):
        history._apply(_event(number, second=number * 3))
    assert history._median_step_seconds() == pytest.approx(3.0)


def _event(number: int, second: int = 0) -> RunEvent:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    return RunEvent(seq=number, at=at, step=number, payload=step(0.5))
