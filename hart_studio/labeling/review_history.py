"""Undo and redo of review actions, single and in bulk.

The actions of a reviewer form one stack in the order of their ids. Undo takes the newest action that is not undone.
Redo takes the oldest one that was undone since the reviewer's newest action: a new action ends what could be redone. An
undo appends a revision that repeats the earlier one, so the history of an item only grows.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from hart_studio.labeling.item_locks import ConflictError, lock_item
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import Label
from hart_studio.labeling.review_priority import compute_review_priority

FIRST_CHUNK: Final = 1000
"""Least number of items in one transaction of a bulk action."""
MAX_IN_CHUNK: Final = 4000
LOCK_SECONDS: Final = 0.4
"""Time that one transaction of a bulk action should hold the write lock; the number of its items follows it."""

PAUSE_SECONDS: Final = 0.01
"""Between two transactions of a bulk action, so that other writers get their turn."""

ProgressCallback = Callable[[int, int], None]
"""Called with the items done and skipped so far."""

_LAST_DONE: Final = "SELECT * FROM actions WHERE reviewer = ? AND undone = 0 ORDER BY id DESC LIMIT 1"
_FIRST_UNDONE: Final = "SELECT * FROM actions WHERE reviewer = ? AND undone = ? ORDER BY id LIMIT 1"
# The newest action is either not undone, or it was undone when it was the newest one.
_NEWEST: Final = """SELECT MAX(COALESCE((SELECT MAX(id) FROM actions WHERE reviewer = :who AND undone = 0), 0),
    COALESCE((SELECT MAX(undone) FROM actions WHERE reviewer = :who), 0))"""


class UndoneAction(NamedTuple):
    """What undo or redo did."""

    item_id: str
    """The item, to be shown again; of a bulk action its first one."""
    kind: str
    """The action, such as ``accept`` or ``accept of 200 labels``."""
    skipped: int
    """Items of a bulk action that kept their label, because someone has changed it since."""


def is_next_action_bulk(project: Project, reviewer: str, *, is_undo: bool) -> bool:
    """Whether undo or redo would concern a bulk action, which may take seconds."""
    with project.database.reading() as connection:
        action = _get_action(connection, reviewer, is_undo=is_undo)
    return action is not None and action["bulk"] is not None


def step(
    project: Project, reviewer: str, *, is_undo: bool, report: ProgressCallback = lambda done, skipped: None
) -> UndoneAction | None:
    """Undo the last action of a reviewer, or redo the one that was undone last.

    A bulk action is undone as a whole, in short transactions. Where that ends early, the next undo continues with the
    rest.

    Args:
        project: The project.
        reviewer: The name, from ``check_reviewer``.
        is_undo: Undo; otherwise redo.
        report: Progress of a bulk action.

    Returns:
        What was done; None when there is nothing to undo or redo.

    Raises:
        ConflictError: If someone else has changed the item of a single action since.
    """
    with project.database.writing() as connection:
        action = _get_action(connection, reviewer, is_undo=is_undo)
        if action is None:
            return None
        if action["bulk"] is None:
            if _restore(project, connection, [action], is_undo=is_undo):
                raise ConflictError("expected the label that you left, got one that someone has changed since")
            if is_undo:  # what was undone is open with this reviewer before anyone else can be given it
                _lock_item_if_free(connection, action["item"], reviewer)
    undone = UndoneAction(action["item"], action["kind"], 0)
    if action["bulk"] is not None:
        undone = _step_bulk(project, action, is_undo, report)
    project.sample_audit()  # a label that was auto-accepted may be so again
    return undone


def next_chunk_size(size: int, seconds: float) -> int:
    """Number of items for the next transaction of a bulk action.

    Args:
        size: Items of the last one.
        seconds: How long that one took.
    """
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
    """Record a single action, inside the transaction that does it."""
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
    # Newest first when undoing: where that ends early, what is left is still the top of the stack.
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
    """Bring back the labels before some actions of different items, or after them where they are redone.

    Returns:
        Number of items that were left alone, because their label is another one by now. Of a single action nothing is
        written then.
    """
    audit_share, now = project.settings.audit_share, datetime.now(UTC)
    changing = [action for action in actions if action["before"] != action["after"]]  # not a skip
    labels, items, moved, marks = [], [], [], []
    for action in changing:
        row = connection.execute(
            """SELECT items.revision, items.audit_hash, labels.label FROM items JOIN labels ON labels.item = items.id
            AND labels.revision = ? WHERE items.id = ?""",
            (action["before"], action["item"]),
        ).fetchone()
        if row is None or row["revision"] != action["after"]:
            continue
        # The clock of the new revision is today's, everything else is as it was.
        target = Label.model_validate_json(row["label"])
        label = target.model_copy(update={"revision": row["revision"] + 1, "at": now})
        text, priority = label.model_dump_json(), compute_review_priority(label, row["audit_hash"], audit_share)
        labels.append((action["item"], label.revision, text, label.reviewer, label.status))
        items.append((text, label.revision, label.status, label.score, label.reviewer, priority, action["item"]))
        # Whatever led to the label that is there again now leads to its new revision.
        moved.append((label.revision, action["item"], action["before"]))
        marks.append((row["revision"], label.revision, action["id"]))
    missed = len(changing) - len(labels)
    if missed and len(actions) == 1 and actions[0]["bulk"] is None:
        return missed
    connection.executemany(
        "INSERT INTO labels (item, revision, label, reviewer, status) VALUES (?, ?, ?, ?, ?)", labels
    )
    connection.executemany(
        """UPDATE items SET label = ?, revision = ?, status = ?, score = ?, reviewer = ?, review_priority = ?
        WHERE id = ?""",
        items,
    )
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
