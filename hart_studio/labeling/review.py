"""What people decide: one item at a time, every action saved when it is made, undo and redo across items.

No one gets an item that another person has open: opening claims it for a while. No one overwrites another: a decision
names the revision that was looked at. Undo adds a revision like the one before, so the history only grows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

from hart_studio.errors import InputError
from hart_studio.geometry import clip
from hart_studio.labeling.filters import ItemFilter
from hart_studio.labeling.item_locks import (
    IS_UNLOCKED,
    ConflictError,
    check_not_locked,
    check_reviewer,
    lock_item,
    release_item_locks,
    unlocked_values,
)
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import REVIEWED_STATUSES, BoxCheck, Item, Label, Status
from hart_studio.labeling.review_history import ProgressCallback, UndoneAction, record_action, step
from hart_studio.records import Box

MAX_DEFERRED: Final = 1000
"""Items that a person may pass over before the first of them comes again (project default)."""

MAX_BOXES: Final = 100
"""Boxes of one label (project default)."""

_MAX_TRIES: Final = 20
"""Searches outside of the write lock whose item another reviewer may take first."""

_QUEUE: Final = "items.review_priority IS NOT NULL"
_SECOND_REVIEW: Final = """items.required_reviews > 1 AND items.review_priority IS NULL
    AND items.status IN ('accepted', 'edited', 'rejected')"""
# The index gives the order, so that a search ends at the first item that this reviewer may have.
SEARCHES: Final = (
    (f"items INDEXED BY items_by_priority WHERE {_QUEUE}", "ORDER BY items.review_priority DESC, items.number LIMIT 1"),
    (f"items INDEXED BY items_for_double_review WHERE {_SECOND_REVIEW}", "ORDER BY items.number LIMIT 1"),
)
"""Where the next item is looked for, in this order: (source and condition, order)."""
_AVAILABLE_TO_REVIEWER: Final = f"""{IS_UNLOCKED}
    AND NOT EXISTS (SELECT 1 FROM actions INDEXED BY actions_by_item WHERE actions.item = items.id
        AND actions.reviewer = ? AND actions.undone = 0 AND (actions.kind != 'skip' OR actions.after = items.revision))
    AND (SELECT COUNT(DISTINCT actions.reviewer) FROM actions INDEXED BY actions_by_item WHERE actions.item = items.id
        AND actions.undone = 0 AND actions.kind != 'skip') < items.required_reviews"""  # noqa: S608 - placeholders only

Decision = Literal["accept", "edit", "reject", "bad_question"]
"""What a person decides about an item."""

_STATUSES: Final[dict[Decision, Status]] = {
    "accept": "accepted",
    "edit": "edited",
    "reject": "rejected",
    "bad_question": "bad_question",
}


class ReviewQueue:
    """Gives out items and takes decisions. Any number of them may work on one project, in any number of processes.

    Attributes:
        project: The project.
    """

    def __init__(self, project: Project) -> None:
        self.project = project

    def next_item(
        self, reviewer: str, item_filter: ItemFilter | None = None, deferred: Sequence[str] = ()
    ) -> Item | None:
        """The item that needs this person most, claimed; None when nothing waits for them.

        Args:
            reviewer: Who.
            item_filter: Only items that it holds for. Without one, the queue: items that wait for a decision.
            deferred: Ids of items that this person has passed over in this sitting; they are given back, and not given
                out again before all others. The newest ``MAX_DEFERRED`` count.

        Raises:
            InputError: If the name of the reviewer is not usable.
        """
        who, asked = check_reviewer(reviewer), item_filter or ItemFilter()
        newest = deferred[-MAX_DEFERRED:]
        for _ in range(_MAX_TRIES):
            # The search may look at many items, so it holds no lock; whoever claims first has the item.
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
        """The item that needs this person most; those that they passed over come after all others."""
        for excluded in (deferred, ()) if deferred else ((),):
            for search in SEARCHES:
                query, values = make_search(search, who, item_filter, excluded)
                row = connection.execute(query, values).fetchone()
                if row is not None:
                    return str(row["id"])
        return None

    @staticmethod
    def _is_still_open(connection: sqlite3.Connection, item_id: str, who: str, item_filter: ItemFilter) -> bool:
        """Whether this person may still have an item that was found outside of the write lock."""
        clause, values = item_filter.to_sql()
        query = f"""SELECT 1 FROM items WHERE items.id = ? AND ({_QUEUE} OR ({_SECOND_REVIEW})) AND {clause}
            AND {_AVAILABLE_TO_REVIEWER}"""  # noqa: S608 - placeholders only
        return connection.execute(query, [item_id, *values, *unlocked_values(who), who]).fetchone() is not None

    def open_item(self, reviewer: str, item_id: str) -> Item:
        """A certain item, claimed.

        Raises:
            ConflictError: If another person has it open.
            InputError: If there is no such item.
        """
        who = check_reviewer(reviewer)
        item = self.project.item(item_id)
        with self.project.database.writing() as connection:
            lock_item(connection, item_id, who)
        return item

    def blind_view(self, item: Item, reviewer: str) -> Label:
        """The label as this person is to see it: of an item that two decide, without what the other one did."""
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
            reviewer: Who.
            item_id: The item.
            revision: Of the label that was looked at.
            decision: What.
            boxes: With ``edit``, the boxes in original pixels.
            check: With ``edit``, what the model says of them.
            note: What the reviewer wrote.
            seconds: How long they looked.
            allow_empty: Whether a label without a box may be accepted: the reviewer says that nothing is there.

        Returns:
            The new label. After an edit it has no score, and its boxes keep theirs only where they were not changed.

        Raises:
            ConflictError: If the label has changed since, or another person has the item open.
            InputError: If the boxes are outside of the image or too many, or an empty label is accepted without
                ``allow_empty``.
        """
        who = check_reviewer(reviewer)
        if decision not in _STATUSES:
            raise InputError(f"expected one of {', '.join(_STATUSES)}, got {str(decision)[:40]!r}")
        with self.project.database.writing() as connection:
            item = self.project.item(item_id)
            _check_current(connection, item, who, revision)
            # The second of two people decides about what they were shown, not about what the first one made of it.
            shown = self.blind_view(item, who)
            is_edit = decision == "edit"
            kept = _keep_scores(_check_boxes(boxes, item), shown.boxes) if is_edit else shown.boxes
            if decision in {"accept", "edit"} and not kept and not allow_empty:
                raise InputError(
                    "The label has no box. Draw one, reject the label, or confirm that nothing is there (allow_empty)."
                )
            label = Label(
                revision=item.label.revision + 1,
                status=_STATUSES[decision],
                origin="human" if is_edit else shown.origin,
                boxes=kept,
                score=None if is_edit else shown.score,  # a score is of the model's boxes
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
        """Leave an item to someone else, or to later: it comes back when its label changes."""
        who = check_reviewer(reviewer)
        with self.project.database.writing() as connection:
            revision = self.project.item(item_id).label.revision
            record_action(connection, who, item_id, "skip", revision, revision, seconds)
            connection.execute("DELETE FROM item_locks WHERE item = ? AND reviewer = ?", (item_id, who))

    def undo(self, reviewer: str, report: ProgressCallback = lambda done, skipped: None) -> UndoneAction | None:
        """Take back this person's last action; None when there is none. A bulk accept is taken back as a whole.

        Args:
            reviewer: Who.
            report: Progress of a bulk action.

        Raises:
            ConflictError: If someone else has changed the item since.
        """
        return step(self.project, check_reviewer(reviewer), is_undo=True, report=report)

    def redo(self, reviewer: str, report: ProgressCallback = lambda done, skipped: None) -> UndoneAction | None:
        """Do again what this person took back last; None when there is nothing.

        Args:
            reviewer: Who.
            report: Progress of a bulk action.

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
    """The query for the next item in one of ``SEARCHES``, with its values."""
    source, order = search
    clause, values = item_filter.to_sql()
    marks = ", ".join("?" * len(excluded))
    query = f"""SELECT items.id FROM {source} AND {clause} AND items.id NOT IN ({marks})
        AND {_AVAILABLE_TO_REVIEWER} {order}"""  # noqa: S608 - placeholders only
    return query, [*values, *excluded, *unlocked_values(who), who]


def _check_current(connection: sqlite3.Connection, item: Item, who: str, revision: int) -> None:
    """Refuse a decision about a label that has changed, or about an item that another reviewer has open."""
    if item.label.revision != revision:
        changer = item.label.reviewer or "a labeling run"
        raise ConflictError(f"expected the label that you looked at, got a newer one by {changer}; look at it again")
    check_not_locked(connection, item.id, who)


def _keep_scores(boxes: tuple[Box, ...], before: Sequence[Box]) -> tuple[Box, ...]:
    """Boxes of a reviewer, each with the score of the equal box before; a drawn or changed box has none."""
    scores = {(box.xyxy, box.label): box.score for box in before}
    return tuple(box.model_copy(update={"score": scores.get((box.xyxy, box.label))}) for box in boxes)


def _check_boxes(boxes: tuple[Box, ...] | None, item: Item) -> tuple[Box, ...]:
    """Boxes as they were drawn, cut to the image."""
    if boxes is None:
        raise InputError("expected the boxes that were drawn, got none; draw one, or reject the label")
    if len(boxes) > MAX_BOXES:
        raise InputError(f"expected at most {MAX_BOXES} boxes, got {len(boxes)}")
    wh = (item.image.width, item.image.height)
    clipped = [clip(box, wh) for box in boxes]
    if any(box is None for box in clipped):
        raise InputError(f"expected boxes inside the image of {wh[0]} x {wh[1]} pixels, got one outside; draw it again")
    return tuple(box for box in clipped if box)
