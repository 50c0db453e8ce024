"""Locks, and undo and redo of review actions, single and in bulk.

An item that one reviewer has open is locked: it is not given to another. The actions of a reviewer form a stack by id.
Undo takes the newest action that is not undone. Redo takes the oldest one undone since the reviewer's newest action: a
new action clears the redo list. An undo appends a revision that repeats the earlier one, so the history of an item only
grows.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from hart_studio.errors import InputError
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import Label

ITEM_LOCK_SECONDS: Final = 600.0
"""Lifetime of a lock after the reviewer's last action on the item. Project default."""

# A lock that expires later was made before the clock was set back; it would block the item for days.
_VALID: Final = "item_locks.expires_at BETWEEN ? AND ?"

IS_UNLOCKED: Final = """NOT EXISTS (SELECT 1 FROM item_locks WHERE item_locks.item = items.id
    AND item_locks.reviewer != ? AND item_locks.expires_at BETWEEN ? AND ?)"""
"""SQL condition on ``items``: no other reviewer has locked the item. See ``unlocked_values`` for its values."""

_REVIEWER: Final = re.compile(r"[^\x00-\x1f\x7f]{1,120}")

FIRST_CHUNK: Final = 1000
"""Minimum items per transaction of a bulk action."""
MAX_IN_CHUNK: Final = 4000
LOCK_SECONDS: Final = 0.4
"""Target duration of the write lock per transaction of a bulk action; determines its number of items."""

PAUSE_SECONDS: Final = 0.01
"""Pause between transactions of a bulk action, so that other writers can proceed."""

ProgressCallback = Callable[[int, int], None]
"""Called with the numbers of processed and skipped items."""

_LAST_DONE: Final = "SELECT * FROM actions WHERE reviewer = ? AND undone = 0 ORDER BY id DESC LIMIT 1"
_FIRST_UNDONE: Final = "SELECT * FROM actions WHERE reviewer = ? AND undone = ? ORDER BY id LIMIT 1"
# The newest action is either not undone, or recorded in `undone` of actions undone when it was the newest.
_NEWEST: Final = """SELECT MAX(COALESCE((SELECT MAX(id) FROM actions WHERE reviewer = :who AND undone = 0), 0),
    COALESCE((SELECT MAX(undone) FROM actions WHERE reviewer = :who), 0))"""


class ConflictError(InputError):
    """Another reviewer has changed or locked the item."""


def unlocked_values(reviewer: str) -> tuple[str, float, float]:
    """Values of the placeholders in ``IS_UNLOCKED``."""
    return (reviewer, *_valid_range())


def lock_item(connection: sqlite3.Connection, item_id: str, reviewer: str) -> None:
    """Lock an item for a reviewer and release the reviewer's other items. Call inside a transaction.

    Raises:
        ConflictError: If another reviewer has locked the item.
    """
    check_not_locked(connection, item_id, reviewer)
    connection.execute("DELETE FROM item_locks WHERE reviewer = ? OR item = ?", (reviewer, item_id))
    connection.execute(
        "INSERT INTO item_locks (item, reviewer, expires_at) VALUES (?, ?, ?)",
        (item_id, reviewer, time.time() + ITEM_LOCK_SECONDS),
    )


def check_not_locked(connection: sqlite3.Connection, item_id: str, reviewer: str) -> None:
    """Check that no other reviewer has locked the item.

    Raises:
        ConflictError: If another reviewer has locked it.
    """
    row = connection.execute(
        f"SELECT reviewer FROM item_locks WHERE item = ? AND reviewer != ? AND {_VALID}",  # noqa: S608 - a constant
        (item_id, *unlocked_values(reviewer)),
    ).fetchone()
    if row is not None:
        raise ConflictError(f"{row['reviewer']} has this item open. Choose another item.")


def release_item_locks(connection: sqlite3.Connection, reviewer: str) -> None:
    """Release the locks of a reviewer, and expired ones."""
    connection.execute(
        f"DELETE FROM item_locks WHERE reviewer = ? OR NOT ({_VALID})",  # noqa: S608 - a constant
        unlocked_values(reviewer),
    )


def check_reviewer(name: str) -> str:
    """Normalize a reviewer name.

    Raises:
        InputError: If it is empty, too long, or holds control characters.
    """
    found = " ".join(name.split()) if isinstance(name, str) else ""
    if not _REVIEWER.fullmatch(found):
        raise InputError("The reviewer name must have 1 to 120 characters. Enter your name.")
    return found


def _valid_range() -> tuple[float, float]:
    now = time.time()
    return now, now + ITEM_LOCK_SECONDS


class UndoneAction(NamedTuple):
    """Result of undo or redo."""

    item_id: str
    """Item to show again; for a bulk action its first one."""
    kind: str
    """The action, such as ``accept`` or ``accept of 200 labels``."""
    skipped: int
    """Items of a bulk action that kept their label because it has changed since."""


def is_next_action_bulk(project: Project, reviewer: str, *, is_undo: bool) -> bool:
    """Whether undo or redo would affect a bulk action, which may take seconds."""
    with project.database.reading() as connection:
        action = _get_action(connection, reviewer, is_undo=is_undo)
    return action is not None and action["bulk"] is not None


def step(
    project: Project, reviewer: str, *, is_undo: bool, report: ProgressCallback = lambda done, skipped: None
) -> UndoneAction | None:
    """Undo the last action of a reviewer, or redo the one undone last.

    A bulk action is undone as a whole, in short transactions. If that ends early, the next undo continues with the
    rest.

    Args:
        project: The project.
        reviewer: Name from ``check_reviewer``.
        is_undo: Undo; otherwise redo.
        report: Progress callback of a bulk action.

    Returns:
        The result; None if there is nothing to undo or redo.

    Raises:
        ConflictError: If someone else has changed the item of a single action since.
    """
    with project.database.writing() as connection:
        action = _get_action(connection, reviewer, is_undo=is_undo)
        if action is None:
            return None
        if action["bulk"] is None:
            if _restore(project, connection, [action], is_undo=is_undo):
                raise ConflictError("Cannot undo: the label has been changed since.")
            if is_undo:  # locks the undone item for this reviewer before others can get it
                _lock_item_if_free(connection, action["item"], reviewer)
    undone = UndoneAction(action["item"], action["kind"], 0)
    if action["bulk"] is not None:
        undone = _step_bulk(project, action, is_undo, report)
    project.sample_audit()  # an undone label may be auto-accepted again
    return undone


def next_chunk_size(size: int, seconds: float) -> int:
    """Number of items of the next transaction of a bulk action, from the size and seconds of the last one."""
    fitting = int(size * LOCK_SECONDS / max(seconds, 1e-3))
    return min(max(fitting, FIRST_CHUNK), size * 2, MAX_IN_CHUNK)


def record_action(
    connection: sqlite3.Connection,
    reviewer: str,
    item_id: str,
    kind: str,
    before: int,
    after: int,
    seconds: float | None,
) -> None:
    """Record a single action, inside its transaction."""
    connection.execute(
        "INSERT INTO actions (reviewer, item, kind, before, after, seconds, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (reviewer, item_id, kind, before, after, seconds, datetime.now(UTC).isoformat()),
    )


def _get_action(connection: sqlite3.Connection, who: str, *, is_undo: bool) -> sqlite3.Row | None:
    if is_undo:
        cursor = connection.execute(_LAST_DONE, (who,))
    else:
        cursor = connection.execute(_FIRST_UNDONE, (who, _get_newest(connection, who)))
    row: sqlite3.Row | None = cursor.fetchone()
    return row


def _get_newest(connection: sqlite3.Connection, who: str) -> int:
    """Id of the newest action of a reviewer; 0 without one."""
    (newest,) = connection.execute(_NEWEST, {"who": who}).fetchone()
    return int(newest)


def _step_bulk(project: Project, action: sqlite3.Row, is_undo: bool, report: ProgressCallback) -> UndoneAction:
    done, skipped, first = 0, 0, action["item"]
    # Undo goes newest first: if it ends early, the rest is still on top of the stack.
    query = f"""SELECT * FROM actions WHERE bulk = ? AND undone = ?
        ORDER BY id {"DESC" if is_undo else "ASC"} LIMIT ?"""  # noqa: S608 - one of two words
    size = FIRST_CHUNK
    while True:
        with project.database.writing() as connection:
            began = time.monotonic()
            actions = connection.execute(query, (action["bulk"], action["undone"], size)).fetchall()
            if not actions:
                break
            missed = _restore(project, connection, actions, is_undo=is_undo)
        size = next_chunk_size(size, time.monotonic() - began)
        first = actions[-1]["item"] if is_undo else first
        done, skipped = done + len(actions) - missed, skipped + missed
        report(done, skipped)
        time.sleep(PAUSE_SECONDS)
    return UndoneAction(first, f"{action['kind']} of {done:,} label{'' if done == 1 else 's'}", skipped)


def _restore(project: Project, connection: sqlite3.Connection, actions: Sequence[sqlite3.Row], *, is_undo: bool) -> int:
    """Restore the labels before some actions of different items, or after them for a redo.

    Returns:
        Number of items left unchanged because their label has changed since. For a single action nothing is written
        then.
    """
    now = datetime.now(UTC)
    changing = [action for action in actions if action["before"] != action["after"]]  # not a skip
    labels, moved, marks = [], [], []
    for action in changing:
        row = connection.execute(
            """SELECT items.revision, items.audit_hash, labels.label FROM items JOIN labels ON labels.item = items.id
            AND labels.revision = ? WHERE items.id = ?""",
            (action["before"], action["item"]),
        ).fetchone()
        if row is None or row["revision"] != action["after"]:
            continue
        # The new revision differs only in its number and time.
        target = Label.model_validate_json(row["label"])
        label = target.model_copy(update={"revision": row["revision"] + 1, "at": now})
        labels.append((action["item"], label, row["audit_hash"]))
        # Actions that led to the restored label now lead to its new revision.
        moved.append((label.revision, action["item"], action["before"]))
        marks.append((row["revision"], label.revision, action["id"]))
    missed = len(changing) - len(labels)
    if missed and len(actions) == 1 and actions[0]["bulk"] is None:
        return missed
    project.write_labels(connection, labels)
    connection.executemany("UPDATE actions SET after = ? WHERE item = ? AND after = ?", moved)
    connection.executemany("UPDATE actions SET before = ?, after = ? WHERE id = ?", marks)
    undone = _get_newest(connection, actions[0]["reviewer"]) if is_undo else 0
    connection.executemany("UPDATE actions SET undone = ? WHERE id = ?", [(undone, action["id"]) for action in actions])
    return missed


def _lock_item_if_free(connection: sqlite3.Connection, item_id: str, reviewer: str) -> None:
    connection.execute("DELETE FROM item_locks WHERE reviewer = ?", (reviewer,))
    try:
        lock_item(connection, item_id, reviewer)
    except ConflictError:
        return
