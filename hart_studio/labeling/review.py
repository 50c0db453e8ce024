"""Review queue: one item at a time, every action saved at once, undo and redo across items.

An item that a reviewer opens is locked for a while, so no other reviewer gets it. A decision names the revision that
was shown, so no decision overwrites another. Undo appends a revision equal to the earlier one, so the history only
grows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

from hart_studio.errors import InputError
from hart_studio.geometry import clip
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import REVIEWED_STATUSES, BoxCheck, Item, ItemFilter, Label, Status
from hart_studio.labeling.review_history import (
    IS_UNLOCKED,
    ConflictError,
    ProgressCallback,
    UndoneAction,
    check_not_locked,
    check_reviewer,
    lock_item,
    record_action,
    release_item_locks,
    step,
    unlocked_values,
)
from hart_studio.records import Box

MAX_DEFERRED: Final = 1000
"""Maximum number of items passed over with Next before the first of them returns. Project default."""

MAX_BOXES: Final = 100
"""Maximum number of boxes of a label. Project default."""

_MAX_TRIES: Final = 20
"""Attempts to find an item outside of the write lock before another reviewer locks it."""

_QUEUE: Final = "items.review_priority IS NOT NULL"
_SECOND_REVIEW: Final = """items.required_reviews > 1 AND items.review_priority IS NULL
    AND items.status IN ('accepted', 'edited', 'rejected')"""
# The index provides the order, so that a search ends at the first available item.
SEARCHES: Final = (
    (f"items INDEXED BY items_by_priority WHERE {_QUEUE}", "ORDER BY items.review_priority DESC, items.number LIMIT 1"),
    (f"items INDEXED BY items_for_double_review WHERE {_SECOND_REVIEW}", "ORDER BY items.number LIMIT 1"),
)
"""Search order of the next item: (source and condition, order)."""
_AVAILABLE_TO_REVIEWER: Final = f"""{IS_UNLOCKED}
    AND NOT EXISTS (SELECT 1 FROM actions INDEXED BY actions_by_item WHERE actions.item = items.id
        AND actions.reviewer = ? AND actions.undone = 0 AND (actions.kind != 'skip' OR actions.after = items.revision))
    AND (SELECT COUNT(DISTINCT actions.reviewer) FROM actions INDEXED BY actions_by_item WHERE actions.item = items.id
        AND actions.undone = 0 AND actions.kind != 'skip') < items.required_reviews"""  # noqa: S608 - placeholders only

Decision = Literal["accept", "edit", "reject", "bad_question"]
"""Decision of a reviewer about an item."""

_STATUSES: Final[dict[Decision, Status]] = {
    "accept": "accepted",
    "edit": "edited",
    "reject": "rejected",
    "bad_question": "bad_question",
}


class ReviewQueue:
    """Assigns items and saves decisions. Several queues may use one project, in several processes.

    Attributes:
        project: The project.
    """

    def __init__(self, project: Project) -> None:
        self.project = project

    def next_item(
        self, reviewer: str, item_filter: ItemFilter | None = None, deferred: Sequence[str] = ()
    ) -> Item | None:
        """Return the item with the highest priority for this reviewer, locked; None if the queue is empty.

        Args:
            reviewer: Name of the reviewer.
            item_filter: Filter of the items. Without one, all items that need a decision.
            deferred: Ids of items that the reviewer deferred in this session; they are unlocked and come after all
                others. The newest ``MAX_DEFERRED`` count.

        Raises:
            InputError: If the reviewer name is invalid.
        """
        who, asked = check_reviewer(reviewer), item_filter or ItemFilter()
        newest = deferred[-MAX_DEFERRED:]
        for _ in range(_MAX_TRIES):
            # The search may read many items, so it holds no lock; the first reviewer to lock an item gets it.
            with self.project.database.reading() as connection:
                item_id = self._get_next(connection, who, asked, newest)
            with self.project.database.writing() as connection:
                release_item_locks(connection, who)
                if item_id is None:
                    return None
                if self._is_still_open(connection, item_id, who, asked):
                    lock_item(connection, item_id, who)
                    break
        else:
            with self.project.database.writing() as connection:
                item_id = self._get_next(connection, who, asked, newest)
                if item_id is None:
                    return None
                lock_item(connection, item_id, who)
        return self.project.item(item_id)

    @staticmethod
    def _get_next(
        connection: sqlite3.Connection, who: str, item_filter: ItemFilter, deferred: Sequence[str]
    ) -> str | None:
        """Id of the item with the highest priority for this reviewer; deferred items come last."""
        for excluded in (deferred, ()) if deferred else ((),):
            for search in SEARCHES:
                query, values = make_search(search, who, item_filter, excluded)
                row = connection.execute(query, values).fetchone()
                if row is not None:
                    return str(row["id"])
        return None

    @staticmethod
    def _is_still_open(connection: sqlite3.Connection, item_id: str, who: str, item_filter: ItemFilter) -> bool:
        """Whether an item found outside of the write lock is still available to this reviewer."""
        clause, values = item_filter.to_sql()
        query = f"""SELECT 1 FROM items WHERE items.id = ? AND ({_QUEUE} OR ({_SECOND_REVIEW})) AND {clause}
            AND {_AVAILABLE_TO_REVIEWER}"""  # noqa: S608 - placeholders only
        return connection.execute(query, [item_id, *values, *unlocked_values(who), who]).fetchone() is not None

    def open_item(self, reviewer: str, item_id: str) -> Item:
        """Open an item and lock it.

        Raises:
            ConflictError: If another reviewer has it open.
            InputError: If the item does not exist.
        """
        who = check_reviewer(reviewer)
        item = self.project.item(item_id)
        with self.project.database.writing() as connection:
            lock_item(connection, item_id, who)
        return item

    def blind_view(self, item: Item, reviewer: str) -> Label:
        """Return the label as shown to this reviewer; without the other reviewer's decision in a double review."""
        if item.label.status not in REVIEWED_STATUSES or item.label.reviewer == reviewer:
            return item.label
        own = [label for label in self.project.history(item.id) if not label.reviewer]
        return own[-1] if own and self._count_other_reviewers(item.id, reviewer) else item.label

    def decide(
        self,
        reviewer: str,
        item_id: str,
        revision: int,
        decision: Decision,
        boxes: tuple[Box, ...] | None = None,
        check: BoxCheck | None = None,
        note: str = "",
        seconds: float | None = None,
        *,
        allow_empty: bool = False,
    ) -> Label:
        """Save a decision.

        Args:
            reviewer: Name of the reviewer.
            item_id: The item.
            revision: Revision of the label that was shown.
            decision: The decision.
            boxes: Boxes in original pixels, for ``edit``.
            check: Verification of these boxes by the model, for ``edit``.
            note: Note of the reviewer.
            seconds: Review time, seconds.
            allow_empty: Whether to accept a label without boxes: the reviewer confirms that the image shows nothing.

        Returns:
            The new label. After an edit it has no score; only unchanged boxes keep theirs.

        Raises:
            ConflictError: If the label has changed since, or another reviewer has the item open.
            InputError: If boxes are outside of the image or too many, or an empty label is accepted without
                ``allow_empty``.
        """
        who = check_reviewer(reviewer)
        if decision not in _STATUSES:
            raise InputError(f"expected one of {', '.join(_STATUSES)}, got {str(decision)[:40]!r}")
        with self.project.database.writing() as connection:
            item = self.project.item(item_id)
            _check_current(connection, item, who, revision)
            # The second reviewer decides about the label shown to them, not about the first one's result.
            shown = self.blind_view(item, who)
            is_edit = decision == "edit"
            kept = _keep_scores(_check_boxes(boxes, item), shown.boxes) if is_edit else shown.boxes
            if decision in {"accept", "edit"} and not kept and not allow_empty:
                raise InputError(
                    "The label has no box. Draw one, reject the label, or confirm that the image shows nothing "
                    "(allow_empty)."
                )
            label = Label(
                revision=item.label.revision + 1,
                status=_STATUSES[decision],
                origin="human" if is_edit else shown.origin,
                boxes=kept,
                score=None if is_edit else shown.score,  # a score applies only to the model's boxes
                check=check if is_edit else shown.check,
                provenance=shown.provenance,
                reviewer=who,
                at=datetime.now(UTC),
                note=note.strip()[:2000],
            )
            self.project.append_label(connection, item_id, label)
            record_action(connection, who, item_id, decision, item.label.revision, label.revision, seconds)
            connection.execute("DELETE FROM item_locks WHERE item = ?", (item_id,))
        return label

    def skip(self, reviewer: str, item_id: str, seconds: float | None = None) -> None:
        """Skip an item: it goes to other reviewers, and returns when its label changes."""
        who = check_reviewer(reviewer)
        with self.project.database.writing() as connection:
            revision = self.project.item(item_id).label.revision
            record_action(connection, who, item_id, "skip", revision, revision, seconds)
            connection.execute("DELETE FROM item_locks WHERE item = ? AND reviewer = ?", (item_id, who))

    def undo(self, reviewer: str, report: ProgressCallback = lambda done, skipped: None) -> UndoneAction | None:
        """Undo the reviewer's last action; None if there is none. A bulk accept is undone as a whole.

        Raises:
            ConflictError: If someone else has changed the item since.
        """
        return step(self.project, check_reviewer(reviewer), is_undo=True, report=report)

    def redo(self, reviewer: str, report: ProgressCallback = lambda done, skipped: None) -> UndoneAction | None:
        """Redo the action that the reviewer undid last; None if there is none.

        Raises:
            ConflictError: If someone else has changed the item since.
        """
        return step(self.project, check_reviewer(reviewer), is_undo=False, report=report)

    def _count_other_reviewers(self, item_id: str, without: str) -> int:
        with self.project.database.reading() as connection:
            row = connection.execute(
                """SELECT COUNT(DISTINCT reviewer) FROM actions WHERE item = ? AND reviewer != ? AND undone = 0
                AND kind != 'skip'
                AND EXISTS (SELECT 1 FROM items WHERE items.id = actions.item AND items.required_reviews > 1)""",
                (item_id, without),
            ).fetchone()
        return int(row[0])


def make_search(
    search: tuple[str, str], who: str, item_filter: ItemFilter, excluded: Sequence[str]
) -> tuple[str, list[Any]]:
    """Build the query for the next item of one of ``SEARCHES``, with its values."""
    source, order = search
    clause, values = item_filter.to_sql()
    marks = ", ".join("?" * len(excluded))
    query = f"""SELECT items.id FROM {source} AND {clause} AND items.id NOT IN ({marks})
        AND {_AVAILABLE_TO_REVIEWER} {order}"""  # noqa: S608 - placeholders only
    return query, [*values, *excluded, *unlocked_values(who), who]


def _check_current(connection: sqlite3.Connection, item: Item, who: str, revision: int) -> None:
    """Check that the label is unchanged and no other reviewer has the item open."""
    if item.label.revision != revision:
        changer = item.label.reviewer or "a labeling run"
        raise ConflictError(f"{changer} has changed this label. Reload it and review it again.")
    check_not_locked(connection, item.id, who)


def _keep_scores(boxes: tuple[Box, ...], before: Sequence[Box]) -> tuple[Box, ...]:
    """Reviewed boxes with the scores of equal earlier boxes; drawn or changed boxes have none."""
    scores = {(box.xyxy, box.label): box.score for box in before}
    return tuple(box.model_copy(update={"score": scores.get((box.xyxy, box.label))}) for box in boxes)


def _check_boxes(boxes: tuple[Box, ...] | None, item: Item) -> tuple[Box, ...]:
    """Clip drawn boxes to the image."""
    if boxes is None:
        raise InputError("No box was drawn. Draw one, or reject the label.")
    if len(boxes) > MAX_BOXES:
        raise InputError(f"expected at most {MAX_BOXES} boxes, got {len(boxes)}")
    wh = (item.image.width, item.image.height)
    clipped = [clip(box, wh) for box in boxes]
    if any(box is None for box in clipped):
        raise InputError(f"A box is outside of the image of {wh[0]} x {wh[1]} pixels. Draw it again.")
    return tuple(box for box in clipped if box)
