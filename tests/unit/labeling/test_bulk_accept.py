from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.labeling import bulk_accept
from hart_studio.labeling.bulk_accept import SILENT_SECONDS, accept_all, count_acceptable, read_last
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.records import ALL_ITEMS, ItemFilter, Label
from hart_studio.labeling.review import ReviewQueue
from hart_studio.labeling.review_history import ConflictError, step
from tests.unit.labeling.conftest import BOX, add_label, change_settings, fill_many


def test_accepted_labels_are_as_a_single_decision_makes_them(filled: Project, item_ids: list[str]) -> None:
    single = ReviewQueue(filled).decide("Ada", item_ids[0], 1, "accept")
    assert accept_all(filled, "  Ada ", ALL_ITEMS, 5)[:4] == ("Ada", 5, 5, 0)
    for number, item in enumerate(list(filled.items(with_history=True))[1:], start=2):
        made = single.model_copy(update={"score": number / 10, "at": item.label.at})
        assert item.label == made
        assert [label.status for label in item.history] == ["new", "proposed"]
    with filled.database.reading() as connection:
        (row,) = connection.execute("SELECT COUNT(*) FROM items WHERE review_priority IS NULL AND reviewer = 'Ada'")
    assert row[0] == 6
    assert [label.revision for label in filled.history(item_ids[3])] == [0, 1]


def test_what_is_counted_is_what_is_accepted(filled: Project, item_ids: list[str]) -> None:
    add_label(filled, item_ids[0], score=None)
    add_label(filled, item_ids[1], score=None, boxes=())
    add_label(filled, item_ids[2], status="rejected")
    assert count_acceptable(filled, ALL_ITEMS) == (4, 1, 1, 0)
    assert count_acceptable(filled, ItemFilter(min_score=0.5)) == (2, 0, 0, 0)
    result = accept_all(filled, "Ada", ALL_ITEMS, 4)
    assert (result.accepted, result.skipped, result.is_finished) == (4, 0, True)
    left = filled.item(item_ids[1]).label
    assert left.status == "proposed", "a label without a box is accepted by a decision of its own alone"


def test_auto_accepted_labels_are_left_for_the_audit(filled: Project, item_ids: list[str]) -> None:
    add_label(filled, item_ids[0], status="auto_accepted", score=0.99)
    change_settings(filled, audit_share=1.0)
    assert count_acceptable(filled, ALL_ITEMS) == (5, 0, 0, 1)
    assert count_acceptable(filled, ItemFilter(statuses=("auto_accepted",))) == (0, 0, 0, 1)
    assert accept_all(filled, "Ada", ALL_ITEMS, 5)[1:4] == (5, 5, 0)
    assert filled.item(item_ids[0]).label.status == "auto_accepted"
    assert filled.count_waiting() == {"auto_accepted": 1}


def test_more_labels_than_were_confirmed_are_refused(filled: Project) -> None:
    with pytest.raises(ConflictError, match="3 labels match now, but you confirmed 2"):
        accept_all(filled, "Ada", ItemFilter(min_score=0.4), expected=2)
    assert filled.count_by("status") == {"proposed": 6}


def test_labels_decided_or_locked_by_others_are_skipped_and_counted(filled: Project, item_ids: list[str]) -> None:
    queue = ReviewQueue(filled)
    queue.decide("Bo", item_ids[0], 1, "reject")  # after Ada was reported of six
    queue.open_item("Bo", item_ids[1])
    queue.open_item("Ada", item_ids[2])
    result = accept_all(filled, "Ada", ALL_ITEMS, 6)
    assert (result.accepted, result.skipped) == (4, 2)
    assert filled.count_by("status") == {"accepted": 4, "proposed": 1, "rejected": 1}
    assert queue.decide("Bo", item_ids[1], 1, "edit", boxes=(BOX,)).reviewer == "Bo"


def test_a_label_that_changes_in_between_is_skipped(
    filled: Project, item_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_accept, "FIRST_CHUNK", 1)
    last = max(item_ids)  # the list goes by id

    def change(accepted: int, skipped: int) -> None:
        if accepted == 1:
            add_label(filled, last, score=0.05)

    result = accept_all(filled, "Ada", ALL_ITEMS, 6, change)
    assert (result.accepted, result.skipped) == (5, 1)
    assert filled.item(last).label.score == 0.05


def test_one_that_ended_early_is_reported_and_can_be_undone_or_finished(
    filled: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_accept, "FIRST_CHUNK", 2)

    def fail(accepted: int, skipped: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        accept_all(filled, "Ada", ALL_ITEMS, 6, fail)
    last = read_last(filled)
    assert last is not None and (last.accepted, last.expected, last.is_finished, last.is_running) == (2, 6, False, True)
    with pytest.raises(InputError, match="Bulk accept of Ada is running: 2 of 6"):
        accept_all(filled, "Bo", ALL_ITEMS, 4)
    now = time.time()
    monkeypatch.setattr("hart_studio.labeling.bulk_accept.time.time", lambda: now + SILENT_SECONDS + 1)
    last = read_last(filled)
    assert last is not None and not last.is_running and last.is_kept
    step(filled, "Ada", is_undo=True)
    last = read_last(filled)
    assert last is not None and not last.is_kept
    assert accept_all(filled, "Ada", ALL_ITEMS, 6).accepted == 6


def test_nothing_to_accept(filled: Project) -> None:
    assert read_last(filled) is None
    assert accept_all(filled, "Ada", ItemFilter(text="nowhere"), 0)[1:4] == (0, 0, 0)


def test_a_second_reviewer_works_meanwhile(project: Project, image: Path) -> None:
    count = 6000
    fill_many(project, image, count)
    decided, longest = [], 0.0
    is_over = threading.Event()

    def review() -> None:
        nonlocal longest
        queue = ReviewQueue(Project(project.folder))
        while not is_over.is_set():
            began = time.monotonic()
            item = queue.next_item("Bo")
            if item is None:
                break
            queue.decide("Bo", item.id, item.label.revision, "reject")
            longest = max(longest, time.monotonic() - began)
            decided.append(item.id)
            time.sleep(0.02)

    reviewer = ThreadPoolExecutor(1)
    reviewing = reviewer.submit(review)
    while not decided and not reviewing.done():
        time.sleep(0.01)
    locks: list[float] = []
    plain = bulk_accept._accept_chunk

    def timed(*arguments: object) -> tuple[int, float]:
        done, seconds = plain(*arguments)  # type: ignore[arg-type]
        locks.append(seconds)
        return done, seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk_accept, "_accept_chunk", timed)
        result = accept_all(project, "Ada", ALL_ITEMS, count)
    is_over.set()
    reviewing.result()
    reviewer.shutdown()
    statuses = project.count_by("status")
    assert statuses["accepted"] == result.accepted and statuses["rejected"] == len(decided)
    assert result.accepted + result.skipped == count
    assert len(locks) >= 3, "in several transactions"
    assert longest < 10, "no one is kept waiting for the whole"


def test_the_time_grows_with_the_number_of_labels_and_not_with_its_square(tmp_path: Path, image: Path) -> None:
    seconds = {}
    for count in (2500, 20_000):
        project = create_project(tmp_path / str(count), "Streets")
        fill_many(project, image, count)
        began = time.process_time()
        assert accept_all(project, "Ada", ALL_ITEMS, count).accepted == count
        seconds[count] = time.process_time() - began
        with project.database.reading() as connection:
            row = connection.execute("SELECT label FROM items WHERE number = 2000").fetchone()
        label = Label.model_validate_json(row["label"])
        assert (label.status, label.reviewer, label.revision) == ("accepted", "Ada", 2)
    assert seconds[20_000] < 8 * 3 * seconds[2500], seconds
    assert seconds[20_000] < 20_000 * 3e-4, "less than 0.3 ms of the processor a label"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_thousand_labels(project: Project, image: Path) -> None:
    """Times are printed (`-s`); the limits allow for a busy machine."""
    fill_many(project, image, 200_000)
    is_over, longest = threading.Event(), 0.0

    def review() -> int:
        nonlocal longest
        queue, count = ReviewQueue(Project(project.folder)), 0
        while not is_over.is_set():
            began = time.monotonic()
            item = queue.next_item("Bo")
            if item is None:
                break
            queue.decide("Bo", item.id, item.label.revision, "reject")
            longest, count = max(longest, time.monotonic() - began), count + 1
            is_over.wait(0.3)
        return count

    with ThreadPoolExecutor(1) as reviewer:
        reviewing = reviewer.submit(review)
        began, used = time.monotonic(), time.process_time()
        result = accept_all(project, "Ada", ALL_ITEMS, 200_000)
        seconds, used = time.monotonic() - began, time.process_time() - used
        is_over.set()
        decided = reviewing.result()
    figures = f"{seconds:.1f} s, {used:.1f} s of processor time; {decided} decisions, {longest:.2f} s at most"
    sys.stdout.write(f"{figures}\n")
    assert result.accepted + result.skipped == 200_000 and result.accepted >= 199_000
    assert used < 40 and longest < 10 and decided > 0, figures
