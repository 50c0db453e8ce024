from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from hart_studio.runs.events import (
    CheckpointSaved,
    Evaluated,
    EventLog,
    Finished,
    Payload,
    RolloutsSaved,
    RunEvent,
    Started,
    StepDone,
    Warned,
    clean_metrics,
    parse_event,
)
from tests.unit.runs.conftest import PROVENANCE

PAYLOADS: list[Payload] = [
    Started(attempt=1, provenance=PROVENANCE),
    StepDone(stage="ap_grpo", metrics={"reward": 0.5, "kl": None}),
    RolloutsSaved(groups=2),
    CheckpointSaved(stage="ap_grpo", is_kept=True),
    Evaluated(metrics={"accuracy": 0.25}, samples=200, fingerprint="a1b2c3"),
    Warned(message="ä <b>"),
    Finished(state="failed", exit_code=-9, error="out of memory"),
]


def test_every_kind_survives_the_file(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    before = datetime.now(UTC)
    written = [log.append(payload, step) for step, payload in enumerate(PAYLOADS)]
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert [parse_event(line) for line in lines] == written
    assert [(event.seq, event.step) for event in written] == [(number, number) for number in range(len(PAYLOADS))]
    assert before <= written[0].at <= datetime.now(UTC)
    kinds = [json.loads(line)["payload"]["type"] for line in lines]
    assert kinds == ["started", "step", "rollouts", "checkpoint", "evaluation", "warning", "finished"]


def test_an_event_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for count in (1, 2, 3):
        log.append(RolloutsSaved(groups=0), 0)
        assert path.read_bytes().count(b"\n") == count


@pytest.mark.parametrize("tail", [b"", b'{"seq": 2, "at": "2026-', b"\n", b"no event at all\n"])
def test_a_later_attempt_counts_on(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for step in (1, 2):
        log.append(RolloutsSaved(groups=0), step)
    with path.open("ab") as file:
        file.write(tail)
    assert EventLog(path).append(RolloutsSaved(groups=0), 3).seq == 2
    seqs = [event.seq for line in path.read_bytes().splitlines() if (event := parse_event(line))]
    assert seqs == [0, 1, 2]


def test_metrics_that_are_not_finite_become_null_and_are_named() -> None:
    metrics = {"loss": 0.5, "kl": math.nan, "grad_norm": math.inf, "low": -math.inf, "count": 3}
    clean, broken = clean_metrics(metrics)
    assert clean == {"loss": 0.5, "kl": None, "grad_norm": None, "low": None, "count": 3.0}
    assert broken == ("kl", "grad_norm", "low")


def test_a_number_that_is_not_finite_cannot_be_logged() -> None:
    with pytest.raises(ValidationError):
        StepDone(stage="", metrics={"loss": math.nan})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"seq": 0}',
        b'{"seq": 0, "at": "2026-08-24T10:00:00Z", "step": 1, "payload": {"type": "exec"}}',
        b'{"seq": 0, "at": "2026-08-24T10:00:00", "step": 1, "payload": {"type": "rollouts", "groups": 1}}',
        b'{"seq": 0, "at": "2026-08-24T10:00:00Z", "step": 1, "payload": {"type": "rollouts", "groups": 1, "x": 1}}',
    ],
)
def test_what_is_no_event(line: bytes) -> None:
    assert parse_event(line) is None


def test_a_line_by_hand() -> None:
    line = b'{"seq": 4, "at": "2026-08-24T10:00:00Z", "step": 1, "payload": {"type": "rollouts", "groups": 1}}\n'
    at = datetime(2026, 8, 24, 10, tzinfo=UTC)
    assert parse_event(line) == RunEvent(seq=4, at=at, step=1, payload=RolloutsSaved(groups=1))
