from __future__ import annotations

import time
from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.labeling import review_history
from hart_studio.labeling.bulk_accept import accept_all
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import ALL_ITEMS, Label
from hart_studio.labeling.review import ReviewQueue
from hart_studio.labeling.review_history import (
    FIRST_CHUNK,
    ITEM_LOCK_SECONDS,
    MAX_IN_CHUNK,
    ConflictError,
    check_not_locked,
    check_reviewer,
    is_next_action_bulk,
    lock_item,
    next_chunk_size,
    release_item_locks,
    step,
)
from tests.unit.labeling.conftest import add_label, change_settings, fill_many


def test_a_lock_excludes_others_until_it_is_released(filled: Project, item_ids: list[str]) -> None:
    with filled.database.writing() as connection:
        lock_item(connection, item_ids[0], "Ada")
        check_not_locked(connection, item_ids[0], "Ada")
        with pytest.raises(ConflictError, match="Ada has this item open"):
            lock_item(connection, item_ids[0], "Bo")
        release_item_locks(connection, "Ada")
        lock_item(connection, item_ids[0], "Bo")


def test_a_reviewer_holds_one_item(filled: Project, item_ids: list[str]) -> None:
    with filled.database.writing() as connection:
        lock_item(connection, item_ids[0], "Ada")
        lock_item(connection, item_ids[1], "Ada")
        check_not_locked(connection, item_ids[0], "Bo")


@pytest.mark.parametrize("jump", [ITEM_LOCK_SECONDS + 1, -ITEM_LOCK_SECONDS])
def test_an_expired_lock_and_one_of_a_clock_set_back_are_ignored(
    filled: Project, item_ids: list[str], monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    now = time.time()
    with filled.database.writing() as connection:
        lock_item(connection, item_ids[0], "Ada")
        monkeypatch.setattr("hart_studio.labeling.review_history.time.time", lambda: now + jump)
        check_not_locked(connection, item_ids[0], "Bo")
        release_item_locks(connection, "Bo")
        assert connection.execute("SELECT COUNT(*) FROM item_locks").fetchone()[0] == 0


@pytest.mark.parametrize("name", ["", "   ", "x" * 121, None, 5, "a\x00b"])
def test_a_reviewer_has_a_name(name: str) -> None:
    with pytest.raises(InputError, match="reviewer name must have 1 to 120"):
        check_reviewer(name)


def undo(project: Project, who: str = "Ada") -> review_history.UndoneAction | None:
    return step(project, who, is_undo=True)


def redo(project: Project, who: str = "Ada") -> review_history.UndoneAction | None:
    return step(project, who, is_undo=False)


def test_redo_follows_the_newest_branch(filled: Project, item_ids: list[str]) -> None:
    queue = ReviewQueue(filled)
    queue.decide("Ada", item_ids[0], 1, "accept")
    undo(filled)
    queue.decide("Ada", item_ids[1], 1, "reject")  # the accept cannot be redone any more
    undo(filled)
    assert redo(filled) == (item_ids[1], "reject", 0)
    assert redo(filled) is None
    assert filled.count_by("status") == {"proposed": 5, "rejected": 1}


def test_one_undo_takes_back_a_bulk_accept_and_redo_does_it_again(filled: Project, item_ids: list[str]) -> None:
    before = [item.label for item in filled.items()]
    ReviewQueue(filled).decide("Ada", item_ids[5], 1, "reject")
    accept_all(filled, "Ada", ALL_ITEMS, 5)
    assert is_next_action_bulk(filled, "Ada", is_undo=True)
    undone = undo(filled)
    assert undone is not None and undone.kind == "accept of 5 labels" and undone.skipped == 0
    for item, earlier in zip(filled.items(), before[:5], strict=False):
        assert item.label == earlier.model_copy(update={"revision": 3, "at": item.label.at})
    assert is_next_action_bulk(filled, "Ada", is_undo=False)
    assert redo(filled) == (undone.item_id, "accept of 5 labels", 0)
    assert filled.count_by("status") == {"accepted": 5, "rejected": 1}
    undo(filled)
    assert not is_next_action_bulk(filled, "Ada", is_undo=True)
    assert undo(filled) == (item_ids[5], "reject", 0)
    assert filled.count_by("status") == {"proposed": 6}
    assert filled.count_waiting() == {"proposed": 6}


def test_undo_of_a_bulk_accept_skips_and_reports_labels_changed_by_others(filled: Project, item_ids: list[str]) -> None:
    accept_all(filled, "Ada", ALL_ITEMS, 6)
    ReviewQueue(filled).decide("Bo", item_ids[2], 2, "reject")
    undone = undo(filled)
    assert undone is not None and (undone.kind, undone.skipped) == ("accept of 5 labels", 1)
    assert filled.count_by("status") == {"proposed": 5, "rejected": 1}
    assert undo(filled) is None, "the reviewer is not stuck at what others changed"


def test_an_undo_that_ended_early_continues(
    filled: Project, item_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_all(filled, "Ada", ALL_ITEMS, 6)
    monkeypatch.setattr(review_history, "FIRST_CHUNK", 2)

    def fail(done: int, skipped: int) -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        step(filled, "Ada", is_undo=True, report=fail)
    assert filled.count_by("status") == {"accepted": 4, "proposed": 2}
    undone = undo(filled)
    assert undone is not None and undone.kind == "accept of 4 labels"
    assert filled.count_by("status") == {"proposed": 6}
    assert redo(filled) is not None
    assert filled.count_by("status") == {"accepted": 6}


def test_what_was_auto_accepted_is_audited_again_after_an_undo(filled: Project, item_ids: list[str]) -> None:
    change_settings(filled, audit_share=1.0)
    add_label(filled, item_ids[0], status="auto_accepted", score=0.9)
    ReviewQueue(filled).decide("Ada", item_ids[0], 2, "accept")
    assert filled.count_waiting() == {"proposed": 5}
    undo(filled)
    assert filled.count_waiting() == {"auto_accepted": 1, "proposed": 5}


def test_undo_of_thousands_is_made_of_short_transactions(project: Project, image: Path) -> None:
    fill_many(project, image, 3000)
    accept_all(project, "Ada", ALL_ITEMS, 3000)
    seen: list[int] = []
    step(project, "Ada", is_undo=True, report=lambda done, skipped: seen.append(done))
    assert len(seen) > 1 and seen[-1] == 3000
    assert project.count_by("status") == {"proposed": 3000}
    with project.database.reading() as connection:
        assert connection.execute("SELECT COUNT(*) FROM items WHERE review_priority IS NULL").fetchone()[0] == 0
        row = connection.execute("SELECT label FROM items WHERE number = 1234").fetchone()
    assert Label.model_validate_json(row["label"]).status == "proposed"


def test_transactions_follow_the_time_that_they_take() -> None:
    assert next_chunk_size(1000, 0.01) == 2000
    assert next_chunk_size(MAX_IN_CHUNK, 0.01) == MAX_IN_CHUNK
    assert next_chunk_size(2000, 0.8) == 1000
    assert next_chunk_size(4000, 60.0) == FIRST_CHUNK
