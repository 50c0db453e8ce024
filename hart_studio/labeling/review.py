"""What people decide: one item at a time, every action saved when it is made, undo and redo across items.

Nobody gets an item that another person has open: opening claims it for a while. Nobody overwrites another: a decision
names the revision that was looked at. Undo adds a revision like the one before, so the history only grows.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

from hart_studio.errors import InputError
from hart_studio.geometry import clip
from hart_studio.labeling.filters import ItemFilter
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import DECIDED, Check, Item, Label, Status
from hart_studio.records import Box

CLAIM_SECONDS: Final = 600.0
"""How long an item stays with whoever opened it, from the last sign of life (ours)."""

MOST_PASSED: Final = 1000
"""Items that a person may pass over before the first of them comes again (ours)."""

MOST_BOXES: Final = 100
"""Boxes of one label (ours)."""

# No claim is longer than that, so one that is was made before the clock was put back: it would hold an item for days.
_HELD: Final = "until BETWEEN ? AND ?"

_REVIEWER: Final = re.compile(r"[^\x00-\x1f\x7f]{1,120}")

Decision = Literal["accept", "edit", "reject", "bad_question"]
"""What a person decides about an item."""

_STATUSES: Final[dict[Decision, Status]] = {
    "accept": "accepted",
    "edit": "edited",
    "reject": "rejected",
    "bad_question": "bad_question",
}


def _now() -> tuple[float, float]:
    """The ends of the claims that hold now, for ``_HELD``."""
    now = time.time()
    return now, now + CLAIM_SECONDS


class ConflictError(InputError):
    """Somebody else changed or holds the item; look at it again."""


class Undone(NamedTuple):
    """What undo or redo did."""

    item_id: str
    """The item, to be shown again."""
    kind: str
    """The action that was taken back, or done again."""


class ReviewDesk:
    """Gives out items and takes decisions. Any number of them may work on one project, in any number of processes.

    Attributes:
        project: The project.
    """

    def __init__(self, project: Project) -> None:
        self.project = project

    def next_item(self, reviewer: str, wanted: ItemFilter | None = None, passed: Sequence[str] = ()) -> Item | None:
        """The item that needs this person most, claimed; None when nothing waits for them.

        Args:
            reviewer: Who.
            wanted: Only items that it holds for. Without one, the queue: items that wait for a decision.
            passed: Ids of items that this person has passed over in this sitting; they are given back, and not given
                out again before all others. The newest ``MOST_PASSED`` count.

        Raises:
            InputError: If the name of the reviewer is not usable.
        """
        who = check_reviewer(reviewer)
        with self.project.database.writing() as connection:
            connection.execute(f"DELETE FROM claims WHERE NOT ({_HELD}) OR reviewer = ?", (*_now(), who))  # noqa: S608
            item_id = self._find_next(connection, who, wanted or ItemFilter(), passed[-MOST_PASSED:])
            if item_id is None and passed:
                item_id = self._find_next(connection, who, wanted or ItemFilter(), ())
            if item_id is None:
                return None
            connection.execute(
                "INSERT INTO claims (item, reviewer, until) VALUES (?, ?, ?)",
                (item_id, who, time.time() + CLAIM_SECONDS),
            )
        return self.project.item(item_id)

    @staticmethod
    def _find_next(connection: sqlite3.Connection, who: str, wanted: ItemFilter, passed: Sequence[str]) -> str | None:
        """The item that needs this person most, but for some."""
        clause, values = wanted.to_sql()
        queue = "items.need IS NOT NULL OR (items.wants > 1 AND items.status IN ('accepted', 'edited', 'rejected'))"
        marks = ", ".join("?" * len(passed))
        row = connection.execute(
            f"""SELECT items.id FROM items WHERE ({queue}) AND {clause} AND items.id NOT IN ({marks})
            AND NOT EXISTS (SELECT 1 FROM claims WHERE claims.item = items.id)
            AND NOT EXISTS (SELECT 1 FROM actions WHERE actions.item = items.id AND actions.reviewer = ?
                AND actions.is_undone = 0 AND (actions.kind != 'skip' OR actions.after = items.revision))
            AND (SELECT COUNT(DISTINCT actions.reviewer) FROM actions WHERE actions.item = items.id
                AND actions.is_undone = 0 AND actions.kind != 'skip') < items.wants
            ORDER BY items.need IS NULL, items.need DESC, items.number LIMIT 1""",  # noqa: S608 - placeholders only
            [*values, *passed, who],
        ).fetchone()
        return None if row is None else str(row["id"])

    def open_item(self, reviewer: str, item_id: str) -> Item:
        """A certain item, claimed.

        Raises:
            ConflictError: If another person has it open.
            InputError: If there is no such item.
        """
        who = check_reviewer(reviewer)
        item = self.project.item(item_id)
        with self.project.database.writing() as connection:
            held = connection.execute(
                f"SELECT reviewer FROM claims WHERE item = ? AND {_HELD} AND reviewer != ?",  # noqa: S608 - a constant
                (item_id, *_now(), who),
            ).fetchone()
            if held is not None:
                raise ConflictError(f"expected an item that nobody has open, got one that {held['reviewer']} works on")
            connection.execute("DELETE FROM claims WHERE reviewer = ? OR item = ?", (who, item_id))
            connection.execute(
                "INSERT INTO claims (item, reviewer, until) VALUES (?, ?, ?)",
                (item_id, who, time.time() + CLAIM_SECONDS),
            )
        return item

    def first_view(self, item: Item, reviewer: str) -> Label:
        """The label as this person is to see it: of an item that two decide, without what the other one did."""
        if item.label.status not in DECIDED or item.label.reviewer == reviewer:
            return item.label
        own = [label for label in self.project.history(item.id) if not label.reviewer]
        return own[-1] if own and self._count_opinions(item.id, reviewer) else item.label

    def decide(
        self,
        reviewer: str,
        item_id: str,
        revision: int,
        decision: Decision,
        boxes: tuple[Box, ...] | None = None,
        check: Check | None = None,
        note: str = "",
        seconds: float | None = None,
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

        Returns:
            The new label.

        Raises:
            ConflictError: If the label has changed since, or another person has the item open.
            InputError: If the boxes are outside of the picture, or too many.
        """
        who = check_reviewer(reviewer)
        if decision not in _STATUSES:
            raise InputError(f"expected one of {', '.join(_STATUSES)}, got {str(decision)[:40]!r}")
        with self.project.database.writing() as connection:
            item = self.project.item(item_id)
            self._check_free(connection, item, who, revision)
            now = item.label
            kept = now.boxes
            if decision == "edit":
                kept = _check_boxes(boxes, item)
            elif decision == "accept":
                # The second of two people accepts what they were shown, not what the first one made of it.
                kept = self.first_view(item, who).boxes
            label = Label(
                revision=now.revision + 1,
                status=_STATUSES[decision],
                origin="human" if decision == "edit" else now.origin,
                boxes=kept,
                score=now.score,
                check=check if decision == "edit" else now.check,
                maker=now.maker,
                reviewer=who,
                at=datetime.now(UTC),
                note=note.strip()[:2000],
            )
            self.project.append_label(connection, item_id, label)
            self._remember(connection, who, item_id, decision, now.revision, label.revision, seconds)
            connection.execute("DELETE FROM claims WHERE item = ?", (item_id,))
        return label

    def skip(self, reviewer: str, item_id: str, seconds: float | None = None) -> None:
        """Leave an item to somebody else, or to later: it comes back when its label changes."""
        who = check_reviewer(reviewer)
        with self.project.database.writing() as connection:
            revision = self.project.item(item_id).label.revision
            self._remember(connection, who, item_id, "skip", revision, revision, seconds)
            connection.execute("DELETE FROM claims WHERE item = ? AND reviewer = ?", (item_id, who))

    def accept_all(self, reviewer: str, wanted: ItemFilter, expected: int) -> int:
        """Accept every waiting label that a filter holds for, as one action each.

        Args:
            reviewer: Who.
            wanted: Which.
            expected: Number of labels that the person was told; another number means that things have moved on.

        Returns:
            Number of labels accepted.

        Raises:
            ConflictError: If it is another number by now.
        """
        who = check_reviewer(reviewer)
        clause, values = wanted.to_sql()
        with self.project.database.writing() as connection:
            rows = connection.execute(
                f"SELECT id FROM items WHERE {clause} AND status IN ('proposed', 'auto_accepted')",  # noqa: S608
                values,
            ).fetchall()
            if len(rows) != expected:
                raise ConflictError(
                    f"expected {expected} labels to accept, got {len(rows)}: others have worked on them; look again"
                )
            now = datetime.now(UTC)
            for row in rows:
                before = self.project.item(row["id"]).label
                label = before.model_copy(
                    update={"revision": before.revision + 1, "status": "accepted", "reviewer": who, "at": now}
                )
                self.project.append_label(connection, row["id"], label)
                self._remember(connection, who, row["id"], "accept", before.revision, label.revision, None)
        return len(rows)

    def count_acceptable(self, wanted: ItemFilter) -> int:
        """Number of labels that ``accept_all`` would accept."""
        clause, values = wanted.to_sql()
        query = f"SELECT COUNT(*) FROM items WHERE {clause} AND status IN ('proposed', 'auto_accepted')"  # noqa: S608
        with self.project.database.reading() as connection:
            return int(connection.execute(query, values).fetchone()[0])

    def undo(self, reviewer: str) -> Undone | None:
        """Take back this person's last action; None when there is none.

        Raises:
            ConflictError: If somebody else has changed the item since.
        """
        return self._step(reviewer, "SELECT * FROM actions WHERE reviewer = ? AND is_undone = 0 ORDER BY id DESC", 1)

    def redo(self, reviewer: str) -> Undone | None:
        """Do again what this person took back last; None when there is nothing.

        Raises:
            ConflictError: If somebody else has changed the item since.
        """
        return self._step(reviewer, "SELECT * FROM actions WHERE reviewer = ? AND is_undone = 1 ORDER BY id", 0)

    def _step(self, reviewer: str, query: str, is_undone: int) -> Undone | None:
        undone = self._restore(check_reviewer(reviewer), query, is_undone)
        if undone is not None:
            self.project.draw_audit()  # a label that was accepted unseen may be so again
        return undone

    def _restore(self, who: str, query: str, is_undone: int) -> Undone | None:
        with self.project.database.writing() as connection:
            action = connection.execute(f"{query} LIMIT 1", (who,)).fetchone()
            if action is None:
                return None
            item_id, before, after = action["item"], action["before"], action["after"]
            if before != after:
                now = self.project.item(item_id).label
                if now.revision != after:
                    raise ConflictError("expected the label that you left, got one that somebody has changed since")
                target = self.project.revision(item_id, before)
                # The clock of the new revision is today's, everything else is as it was.
                restored = target.model_copy(update={"revision": now.revision + 1, "at": datetime.now(UTC)})
                self.project.append_label(connection, item_id, restored)
                # Whatever led to the label that is there again now leads to its new revision.
                connection.execute(
                    "UPDATE actions SET after = ? WHERE item = ? AND after = ?", (restored.revision, item_id, before)
                )
                before, after = now.revision, restored.revision
            connection.execute(
                "UPDATE actions SET is_undone = ?, before = ?, after = ? WHERE id = ?",
                (is_undone, before, after, action["id"]),
            )
            # What was taken back is open with this person now, before anybody else can be given it.
            connection.execute("DELETE FROM claims WHERE reviewer = ?", (who,))
            if is_undone:
                connection.execute(
                    "INSERT INTO claims (item, reviewer, until) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    (item_id, who, time.time() + CLAIM_SECONDS),
                )
            return Undone(item_id, action["kind"])

    def _check_free(self, connection: sqlite3.Connection, item: Item, who: str, revision: int) -> None:
        if item.label.revision != revision:
            changer = item.label.reviewer or "a labeling run"
            raise ConflictError(
                f"expected the label that you looked at, got a newer one by {changer}; look at it again"
            )
        held = connection.execute(
            f"SELECT reviewer FROM claims WHERE item = ? AND {_HELD} AND reviewer != ?",  # noqa: S608 - a constant
            (item.id, *_now(), who),
        ).fetchone()
        if held is not None:
            raise ConflictError(f"expected an item that nobody has open, got one that {held['reviewer']} works on")

    def _remember(
        self,
        connection: sqlite3.Connection,
        who: str,
        item_id: str,
        kind: str,
        before: int,
        after: int,
        seconds: float | None,
    ) -> None:
        """Write an action down. What was taken back before can no longer be done again."""
        connection.execute("DELETE FROM actions WHERE reviewer = ? AND is_undone = 1", (who,))
        connection.execute(
            "INSERT INTO actions (reviewer, item, kind, before, after, seconds, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (who, item_id, kind, before, after, seconds, datetime.now(UTC).isoformat()),
        )

    def _count_opinions(self, item_id: str, without: str) -> int:
        with self.project.database.reading() as connection:
            row = connection.execute(
                """SELECT COUNT(DISTINCT reviewer) FROM actions WHERE item = ? AND reviewer != ?
                AND is_undone = 0 AND kind != 'skip'
                AND EXISTS (SELECT 1 FROM items WHERE items.id = actions.item AND items.wants > 1)""",
                (item_id, without),
            ).fetchone()
        return int(row[0])


def check_reviewer(name: str) -> str:
    """A reviewer's name as it is kept.

    Raises:
        InputError: If it is empty, too long, or holds control characters.
    """
    found = " ".join(name.split()) if isinstance(name, str) else ""
    if not _REVIEWER.fullmatch(found):
        raise InputError("expected a name of 1 to 120 characters, so that your decisions can be told from others'")
    return found


def _check_boxes(boxes: tuple[Box, ...] | None, item: Item) -> tuple[Box, ...]:
    """Boxes as they were drawn, cut to the picture."""
    if boxes is None:
        raise InputError("expected the boxes that were drawn, got none; draw one, or reject the label")
    if len(boxes) > MOST_BOXES:
        raise InputError(f"expected at most {MOST_BOXES} boxes, got {len(boxes)}")
    wh = (item.picture.width, item.picture.height)
    clipped = [clip(box, wh) for box in boxes]
    if any(box is None for box in clipped):
        raise InputError(
            f"expected boxes inside the picture of {wh[0]} x {wh[1]} pixels, got one outside; draw it again"
        )
    return tuple(box for box in clipped if box)
