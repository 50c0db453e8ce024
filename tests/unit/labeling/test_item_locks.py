from __future__ import annotations

import time

import pytest

from hart_studio.errors import InputError
from hart_studio.labeling.item_locks import (
    ITEM_LOCK_SECONDS,
    ConflictError,
    check_not_locked,
    check_reviewer,
    lock_item,
    release_item_locks,
)
from hart_studio.labeling.project import Project


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
        monkeypatch.setattr("hart_studio.labeling.item_locks.time.time", lambda: now + jump)
        check_not_locked(connection, item_ids[0], "Bo")
        release_item_locks(connection, "Bo")
        assert connection.execute("SELECT COUNT(*) FROM item_locks").fetchone()[0] == 0


@pytest.mark.parametrize("name", ["", "   ", "x" * 121, None, 5, "a\x00b"])
def test_a_reviewer_has_a_name(name: str) -> None:
    with pytest.raises(InputError, match="reviewer name must have 1 to 120"):
        check_reviewer(name)
