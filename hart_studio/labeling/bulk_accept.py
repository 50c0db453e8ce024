"""Accept all proposed labels that match a filter, in short transactions, while other reviewers keep working.

Auto-accepted labels are excluded: they are usable as they are, and those in the audit sample need individual decisions
for the audit to mean anything.

The labels are listed once at the start. Each transaction accepts a few hundred of them and skips those that have
changed since, or that another reviewer has open. If the process ends early, the first part of the list is accepted and
the row in ``bulk_actions`` holds the count. Undo reverts the whole bulk action (``review_history``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from hart_studio.errors import DataError, InputError
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import ItemFilter
from hart_studio.labeling.review_history import (
    FIRST_CHUNK,
    IS_UNLOCKED,
    PAUSE_SECONDS,
    ConflictError,
    ProgressCallback,
    check_reviewer,
    next_chunk_size,
    unlocked_values,
)

SILENT_SECONDS: Final = 60.0
"""Time after which a bulk action without progress counts as dead. Project default."""

_ACCEPTABLE: Final = "items.status = 'proposed' AND items.boxes > 0"
_CHOSEN: Final = "items.number IN (SELECT value FROM json_each(:chosen))"
# These keep the JSON of the label except for keys that every label has.
_ACCEPTED: Final = """json_set(items.label, '$.revision', items.revision + 1, '$.status', 'accepted',
    '$.reviewer', :who, '$.at', :at)"""


class Acceptable(NamedTuple):
    """Preview of a bulk accept."""

    labels: int
    """Labels that would be accepted."""
    unscored: int
    """Those of them without a calibrated score."""
    empty: int
    """Proposed labels without a box; only an individual decision can accept them."""
    auto_accepted: int
    """Auto-accepted labels; excluded."""


class BulkAccept(NamedTuple):
    """Result or progress of a bulk accept."""

    reviewer: str
    """Who started it."""
    expected: int
    """Labels that the reviewer confirmed."""
    accepted: int
    """Labels accepted so far."""
    skipped: int
    """Labels skipped: changed since, or open with another reviewer."""
    is_finished: bool
    """Whether all labels were processed."""
    is_running: bool
    """Whether it is still running."""
    is_kept: bool = True
    """Whether any part of it has not been undone."""


def count_acceptable(project: Project, item_filter: ItemFilter) -> Acceptable:
    """Count the labels that ``accept_all`` would accept or exclude."""
    clause, values = item_filter.to_sql()
    query = f"""SELECT TOTAL({_ACCEPTABLE}), TOTAL({_ACCEPTABLE} AND items.score IS NULL),
        TOTAL(items.status = 'proposed' AND items.boxes = 0), TOTAL(items.status = 'auto_accepted')
        FROM items WHERE {clause} AND items.status IN ('proposed', 'auto_accepted')"""  # noqa: S608 - placeholders only
    with project.database.reading() as connection:
        return Acceptable(*map(int, connection.execute(query, values).fetchone()))


def accept_all(
    project: Project,
    reviewer: str,
    item_filter: ItemFilter,
    expected: int,
    report: ProgressCallback = lambda accepted, skipped: None,
) -> BulkAccept:
    """Accept all proposed labels with a box that match a filter, as one bulk action.

    Args:
        project: The project.
        reviewer: The name of the reviewer.
        item_filter: Labels to accept.
        expected: Number of labels that the reviewer confirmed. Labels that others have decided since are skipped.
        report: Progress callback, called after each transaction.

    Returns:
        Counts of accepted and skipped labels.

    Raises:
        ConflictError: If more labels match than the reviewer confirmed.
        InputError: If another bulk accept is running in this project.
    """
    who = check_reviewer(reviewer)
    clause, values = item_filter.to_sql()
    # Ordered by id like the tables of labels and actions: writes far fewer pages.
    query = f"SELECT number, revision FROM items WHERE {clause} AND {_ACCEPTABLE} ORDER BY id"  # noqa: S608
    with project.database.reading() as connection:
        rows = [(row["number"], row["revision"]) for row in connection.execute(query, values)]
    if len(rows) > expected:
        raise ConflictError(
            f"{len(rows):,} labels match now, but you confirmed {expected:,}: the project has changed. "
            "Reload the list and confirm again."
        )
    bulk = _begin(project, who, expected, expected - len(rows))
    accepted, skipped = 0, expected - len(rows)
    try:
        start, size = 0, FIRST_CHUNK
        while chunk := rows[start : start + size]:
            done, seconds = _accept_chunk(project, who, bulk, chunk)
            start, size = start + len(chunk), next_chunk_size(size, seconds)
            accepted, skipped = accepted + done, skipped + len(chunk) - done
            report(accepted, skipped)
            time.sleep(PAUSE_SECONDS)
        _end(project, bulk, is_finished=True)
    except DataError:
        with suppress(DataError):  # fails too on a full disk: then it counts as running for SILENT_SECONDS
            _end(project, bulk, is_finished=False)
        raise
    return BulkAccept(who, expected, accepted, skipped, is_finished=True, is_running=False)


def read_last(project: Project) -> BulkAccept | None:
    """Return the newest bulk accept of a project, started by any process; None without one."""
    query = """SELECT *, EXISTS (SELECT 1 FROM actions WHERE bulk = bulk_actions.id AND undone = 0) AS is_kept
        FROM bulk_actions ORDER BY id DESC LIMIT 1"""
    with project.database.reading() as connection:
        row = connection.execute(query).fetchone()
    if row is None:
        return None
    is_running = not row["is_finished"] and 0 <= time.time() - row["updated"] < SILENT_SECONDS
    return BulkAccept(
        row["reviewer"], row["expected"], row["accepted"], row["skipped"], bool(row["is_finished"]), is_running,
        bool(row["is_kept"]),
    )  # fmt: skip


def _begin(project: Project, who: str, expected: int, skipped: int) -> int:
    with project.database.writing() as connection:
        last = read_last(project)
        if last is not None and last.is_running:
            raise InputError(
                f"Bulk accept of {last.reviewer} is running: {last.accepted:,} of {last.expected:,} labels. "
                "Wait until it has finished."
            )
        cursor = connection.execute(
            "INSERT INTO bulk_actions (reviewer, expected, skipped, updated) VALUES (?, ?, ?, ?)",
            (who, expected, skipped, time.time()),
        )
        return int(cursor.lastrowid or 0)


def _end(project: Project, bulk: int, *, is_finished: bool) -> None:
    with project.database.writing() as connection:
        connection.execute("UPDATE bulk_actions SET is_finished = ?, updated = 0 WHERE id = ?", (is_finished, bulk))


def _accept_chunk(project: Project, who: str, bulk: int, chunk: Sequence[tuple[int, int]]) -> tuple[int, float]:
    """Accept some labels in one transaction.

    Returns:
        Number of labels accepted, and seconds that the write lock was held.
    """
    revisions = dict(chunk)
    with project.database.writing() as connection:
        began = time.monotonic()
        rows = connection.execute(
            f"""SELECT items.number, items.revision FROM items
            WHERE items.number IN (SELECT value FROM json_each(?)) AND {_ACCEPTABLE} AND {IS_UNLOCKED}""",  # noqa: S608
            (json.dumps(list(revisions)), *unlocked_values(who)),
        )
        chosen = [row["number"] for row in rows if row["revision"] == revisions[row["number"]]]
        at = datetime.now(UTC).isoformat()
        values = {"chosen": json.dumps(chosen), "who": who, "at": at, "bulk": bulk}
        connection.execute(
            f"""INSERT INTO labels (item, revision, label, reviewer, status)
            SELECT id, revision + 1, {_ACCEPTED}, :who, 'accepted' FROM items WHERE {_CHOSEN}""",  # noqa: S608
            values,
        )
        connection.execute(
            f"""INSERT INTO actions (reviewer, item, kind, before, after, at, bulk)
            SELECT :who, id, 'accept', revision, revision + 1, :at, :bulk FROM items
            WHERE {_CHOSEN} ORDER BY id""",  # noqa: S608
            values,
        )
        connection.execute(  # an accepted label needs no review: its `compute_review_priority` is None
            f"""UPDATE items SET label = {_ACCEPTED}, revision = revision + 1, status = 'accepted', reviewer = :who,
            review_priority = NULL WHERE {_CHOSEN}""",  # noqa: S608
            values,
        )
        connection.execute(
            "UPDATE bulk_actions SET accepted = accepted + ?, skipped = skipped + ?, updated = ? WHERE id = ?",
            (len(chosen), len(chunk) - len(chosen), time.time(), bulk),
        )
    return len(chosen), time.monotonic() - began
