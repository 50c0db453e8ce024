from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.runs.config import RunConfig
from hart_studio.runs.events import EventLog, RolloutsSaved, RunEvent, Started, StepDone
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import drop_superseded, list_runs, read_events, read_log, summarize_run
from hart_studio.runs.status import RunStatus, write_status
from hart_studio.runs.writer import create_run
from tests.unit.runs.conftest import PROVENANCE


def write_steps(layout: RunLayout, count: int) -> list[RunEvent]:
    log = EventLog(layout.events)
    return [log.append(StepDone(stage="ä", metrics={"reward": step / 7}), step) for step in range(1, count + 1)]


# --- events ---------------------------------------------------------------------------------------------------------


def test_only_new_events_are_read(layout: RunLayout) -> None:
    assert read_events(layout) == ([], 0, 0, False)
    written = write_steps(layout, 3)
    first = read_events(layout)
    assert first.events == written
    assert first.offset == layout.events.stat().st_size
    assert read_events(layout, first.offset) == ([], first.offset, 0, False)
    more = EventLog(layout.events).append(RolloutsSaved(groups=1), 3)
    assert read_events(layout, first.offset).events == [more]


def test_wherever_a_writer_is_caught_nothing_is_read_twice_or_lost(layout: RunLayout) -> None:
    written = write_steps(layout, 2)
    content = layout.events.read_bytes()
    for cut in range(len(content) + 1):
        layout.events.write_bytes(content[:cut])
        first = read_events(layout)
        assert len(first.events) == content[:cut].count(b"\n")
        assert content[: first.offset].endswith(b"\n") or first.offset == 0
        layout.events.write_bytes(content)
        rest = read_events(layout, first.offset)
        assert first.events + rest.events == written
        assert first.skipped + rest.skipped == 0


def test_the_cost_of_a_read_is_that_of_the_new_bytes(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    write_steps(layout, 200)
    offset = read_events(layout).offset
    EventLog(layout.events).append(RolloutsSaved(groups=1), 200)
    new = layout.events.stat().st_size - offset
    read: list[int] = []
    monkeypatch.setattr("hart_studio.runs.reader.parse_event", lambda line: read.append(len(line)))
    read_events(layout, offset)
    assert sum(read) == new


@pytest.mark.parametrize("max_bytes", [1, 300, 10_000_000])
def test_a_long_file_can_be_read_in_portions(layout: RunLayout, max_bytes: int) -> None:
    written = write_steps(layout, 20)
    found: list[RunEvent] = []
    offset, reads = 0, 0
    while len(found) < len(written):
        batch = read_events(layout, offset, max_bytes)
        assert batch.offset > offset
        offset, reads = batch.offset, reads + 1
        found += batch.events
    assert found == written
    assert reads == {1: 20, 300: reads, 10_000_000: 1}[max_bytes]


def test_lines_that_are_no_events_are_counted_and_passed(layout: RunLayout) -> None:
    (first,) = write_steps(layout, 1)
    with layout.events.open("ab") as file:
        file.write(b'\n\xff\xfe\n{"seq": 5}\n')
    second = EventLog(layout.events).append(RolloutsSaved(groups=1), 2)
    batch = read_events(layout)
    assert batch.events == [first, second]
    assert batch.skipped == 2
    assert batch.offset == layout.events.stat().st_size


def test_a_file_that_became_shorter_is_read_again(layout: RunLayout) -> None:
    written = write_steps(layout, 1)
    batch = read_events(layout, 10**6)
    assert (batch.events, batch.is_restarted) == (written, True)
    layout.events.unlink()
    assert read_events(layout, batch.offset) == ([], 0, 0, True)
    assert read_events(layout, -5).offset == 0


def test_steps_that_were_done_again_count_once(layout: RunLayout) -> None:
    log = EventLog(layout.events)

    def attempt(number: int, resumed_from: int | None, last: int) -> None:
        log.append(Started(attempt=number, resumed_from=resumed_from, provenance=PROVENANCE), resumed_from or 0)
        for step in range((resumed_from or 0) + 1, last + 1):
            log.append(StepDone(stage="", metrics={"attempt": number}), step)

    attempt(1, None, 3)
    attempt(2, 2, 4)
    attempt(3, 3, 4)
    events = drop_superseded(read_events(layout).events)
    steps = [(event.step, event.payload.metrics["attempt"]) for event in events if isinstance(event.payload, StepDone)]
    assert steps == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 3.0)]
    assert [event.payload.attempt for event in events if isinstance(event.payload, Started)] == [1, 2, 3]
    attempt(4, None, 1)
    events = drop_superseded(read_events(layout).events)
    assert [event.step for event in events if isinstance(event.payload, StepDone)] == [1]


# --- the list -------------------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_and_a_broken_one_does_not_hide_them(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert list_runs(root) == []
    made = create_run(root, "training", RunConfig(), "sft", total=5)
    broken = RunLayout(root.resolve() / "20200101-000000-sft-000000")
    broken.folder.mkdir()
    broken.status.write_text("{")
    newest = RunLayout(root.resolve() / "29990101-000000-evaluation-000000")
    newest.folder.mkdir()
    write_status(newest, RunStatus(job="evaluation", state="running", pid=1, pid_start="gone", total=0))
    (root / "20210101-000000-sft-000000").mkdir()  # still being made
    (root / "notes").mkdir()
    (root / "20220101-000000-sft-000000").symlink_to(made.folder)
    found = list_runs(root)
    assert [(run.layout.run_id, run.state) for run in found] == [
        (newest.run_id, "lost"),
        (made.run_id, "queued"),
        (broken.run_id, "unreadable"),
    ]
    assert found[0].status
    assert found[0].status.job == "evaluation"
    assert found[2].status is None
    assert "json is damaged" in found[2].problem
    assert summarize_run(made) == found[1]


# --- logs -----------------------------------------------------------------------------------------------------------


def test_a_log_is_followed_character_by_character(layout: RunLayout) -> None:
    content = "a ä 中 😀\n50%\r100%\n".encode()
    text, offset = "", 0
    for cut in range(len(content) + 1):
        layout.log_of(1).write_bytes(content[:cut])
        part = read_log(layout, 1, offset)
        text, offset = text + part.text, part.offset
    assert text == content.decode()
    assert offset == len(content)


def test_a_log_from_its_end_in_portions_or_not_there(layout: RunLayout) -> None:
    assert read_log(layout, 1) == ("", 0)
    layout.log_of(1).write_bytes(b"0123456789\xff")
    assert read_log(layout, 1, -3) == ("89�", 11)
    assert read_log(layout, 1, -100).text == "0123456789�"
    assert read_log(layout, 1, 2, max_bytes=3) == ("234", 5)
    assert read_log(layout, 1, 99).text == "0123456789�", "a shorter file is read again"


@pytest.mark.parametrize("name", ["attempt", "step", "total", "exit_code"])
def test_a_number_that_no_page_could_be_sent_is_no_status(tmp_path: Path, name: str) -> None:
    made = create_run(tmp_path, "training", RunConfig(), "sft", total=5)
    write_status(made, RunStatus(job="training", state="queued", total=5).replace(**{name: 10**20}))
    (found,) = list_runs(tmp_path)
    assert (found.state, found.status) == ("unreadable", None)
    assert f"{name} must be less than 2**53" in found.problem


def test_a_log_is_shown_without_the_values_of_secret_variables(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXY_PASSWORD", "S3cretValueOfProxy99")
    layout.logs.mkdir(exist_ok=True)
    layout.log_of(1).write_text("é proxy http://bob:S3cretValueOfProxy99@10.0.0.1 or S3cretValueOfProxy99.\n", "utf-8")
    size = layout.log_of(1).stat().st_size
    for cut in range(1, size):
        first = read_log(layout, 1, 0, cut)
        text = first.text + read_log(layout, 1, first.offset).text
        assert "S3cret" not in text and "Proxy99" not in text and text.endswith(".\n"), cut
