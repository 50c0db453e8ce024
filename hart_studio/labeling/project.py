"""Labeling project: a folder with a database, labeling runs, and references to images elsewhere.

::

    <project>/
      project.sqlite      items, labels with their history, reviews     runs/       labeling runs, each a run directory
      images/           images that came as bytes, by content       exports/    what was exported from the page
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import Field

from hart_studio.errors import DataError, InputError
from hart_studio.files import to_printable, to_stored_path
from hart_studio.labeling.database import DATABASE, Database
from hart_studio.labeling.records import (
    ALL_ITEMS,
    DEFAULT_CLASS,
    IS_UNCALIBRATED,
    MAX_CLASSES,
    ClassName,
    ImageFile,
    Item,
    ItemFilter,
    Label,
    Share,
)
from hart_studio.labeling.review_evidence import Reason, compute_review_priority, get_review_reason
from hart_studio.records import Record, Sample

IMAGES: Final = "images"
"""Folder for images imported as bytes."""

RUNS: Final = "runs"
"""Folder for labeling runs."""

_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,120}")
_PAGE: Final = 256
_WHOLE_ITEM: Final = """SELECT items.number, items.id, items.sample, items.label, images.path, images.sha256,
    images.width, images.height, images.domain FROM items JOIN images ON images.id = items.image"""


class ProjectSettings(Record):
    """Settings of a project."""

    seed: int = Field(default=0, ge=0)
    """Seed of the audit sample and the double-review sample."""
    audit_share: Share = 0.1
    """Share of auto-accepted labels that are reviewed to measure their error rate."""
    double_review_share: Share = 0.0
    """Share of reviewed items that two people decide, to measure their agreement."""
    classes: tuple[ClassName, ...] = Field(default=(DEFAULT_CLASS,), min_length=1, max_length=MAX_CLASSES)
    """Classes of exported boxes. The first is the default for boxes of a model, and of reviewers who chose none."""


class Project:
    """An open project. Thread-safe; may be open in several processes.

    Attributes:
        folder: Absolute path of the folder.
        database: Database of the project.
    """

    def __init__(self, folder: Path) -> None:
        """Open a project.

        Raises:
            DataError: If there is no project, or it is unusable.
        """
        self.folder = folder.resolve()
        self.database = Database(self.folder / DATABASE)

    @property
    def runs(self) -> Path:
        """Folder of labeling runs."""
        return self.folder / RUNS

    @property
    def images(self) -> Path:
        """Folder for images imported as bytes."""
        return self.folder / IMAGES

    @property
    def name(self) -> str:
        """Display name."""
        return str(self._row()["name"])

    @property
    def settings(self) -> ProjectSettings:
        """Settings of the project."""
        return ProjectSettings.model_validate_json(self._row()["settings"])

    @property
    def archived_at(self) -> datetime | None:
        """Time of archiving; None = not archived."""
        text = self._row()["archived_at"]
        return None if text is None else datetime.fromisoformat(text)

    def rename(self, name: str) -> None:
        """Change the display name. The folder keeps its name, so that paths and open pages stay valid.

        Raises:
            InputError: If the name is empty, too long, or holds control characters.
        """
        with self.database.writing() as connection:
            connection.execute("UPDATE project SET name = ?", (check_name(name),))

    def set_archived(self, *, is_archived: bool) -> None:
        """Archive or unarchive the project. The content is unchanged."""
        now = datetime.now(UTC).isoformat() if is_archived else None
        with self.database.writing() as connection:
            connection.execute("UPDATE project SET archived_at = ?", (now,))

    def add_classes(self, names: Iterable[str]) -> tuple[str, ...]:
        """Add classes of imported labels; returns the new ones. A project has at most ``MAX_CLASSES``."""
        with self.database.writing() as connection:
            known = self.settings.classes
            new = tuple(name for name in dict.fromkeys(names) if name not in set(known))[: MAX_CLASSES - len(known)]
            if new:
                self._write_classes(connection, (*known, *new))
        return new

    def change_classes(self, names: Sequence[str]) -> None:
        """Replace the classes of exported boxes; labels are unchanged.

        Raises:
            ValidationError: If there is none, or a name is invalid.
        """
        with self.database.writing() as connection:
            self._write_classes(connection, tuple(dict.fromkeys(names)))

    def _write_classes(self, connection: sqlite3.Connection, names: tuple[str, ...]) -> None:
        changed = ProjectSettings(**{**self.settings.model_dump(), "classes": names})
        connection.execute("UPDATE project SET settings = ?", (changed.model_dump_json(),))

    def get_audit_threshold(self) -> float:
        """Return the audit threshold: auto-accepted labels with a lower audit hash are audited.

        The threshold is the audit share. If no label is below it, it is just above the lowest hash, so that at least
        one label is audited. The hash is independent of the label, so the sample is random.
        """
        share = self.settings.audit_share
        if share == 0:
            return share
        # Joins from labels to items: an index on the hash does not help if few labels were auto-accepted.
        found = "FROM labels CROSS JOIN items ON items.id = labels.item WHERE labels.status = 'auto_accepted'"
        with self.database.reading() as connection:
            if connection.execute(f"SELECT 1 {found} AND items.audit_hash < ? LIMIT 1", (share,)).fetchone():
                return share
            (lowest,) = connection.execute(f"SELECT MIN(items.audit_hash) {found}").fetchone()
        return share if lowest is None else math.nextafter(lowest, 1.0)

    def sample_audit(self) -> None:
        """Update the review queue so that it holds exactly the audited ones of the auto-accepted labels."""
        source = "SELECT id, label, audit_hash FROM items INDEXED BY items_auto_accepted WHERE status = 'auto_accepted'"
        query = f"""{source} AND audit_hash < :bound AND review_priority IS NULL
            UNION ALL {source} AND audit_hash >= :bound AND review_priority IS NOT NULL"""
        with self.database.reading() as connection:
            is_current = connection.execute(query, {"bound": self.get_audit_threshold()}).fetchone() is None
        if is_current:
            return  # nothing to change: avoids a write lock
        with self.database.writing() as connection:
            bound = self.get_audit_threshold()
            rows = connection.execute(query, {"bound": bound}).fetchall()
            connection.executemany(
                "UPDATE items SET review_priority = ? WHERE id = ?",
                [
                    (
                        compute_review_priority(Label.model_validate_json(row["label"]), row["audit_hash"], bound),
                        row["id"],
                    )
                    for row in rows
                ],
            )

    def get_review_reason(self, item_id: str, label: Label) -> Reason | None:
        """Return why an item needs review with this label; None if it does not."""
        with self.database.reading() as connection:
            (audit_hash,) = connection.execute("SELECT audit_hash FROM items WHERE id = ?", (item_id,)).fetchone()
        return get_review_reason(label, audit_hash, self.get_audit_threshold())

    def count(self, item_filter: ItemFilter = ALL_ITEMS) -> int:
        """Number of items."""
        clause, values = item_filter.to_sql()
        query = f"SELECT COUNT(*) FROM items WHERE {clause}"  # noqa: S608 - the clause holds placeholders only
        with self.database.reading() as connection:
            (count,) = connection.execute(query, values).fetchone()
        return int(count)

    def count_by(self, column: str) -> dict[str, int]:
        """Number of items per status, category, reviewer, or kind of evidence."""
        if column not in {"status", "category", "reviewer", "evidence"}:
            raise InputError(f"expected status, category, reviewer or evidence, got {column!r}")
        query = f"SELECT {column}, COUNT(*) FROM items GROUP BY 1 ORDER BY 1"  # noqa: S608 - one of four words
        with self.database.reading() as connection:
            return {str(value): int(count) for value, count in connection.execute(query)}

    def count_waiting(self) -> dict[str, int]:
        """Review queue by status: ``proposed`` labels need a decision, ``auto_accepted`` ones an audit."""
        query = "SELECT status, COUNT(*) FROM items WHERE review_priority IS NOT NULL GROUP BY 1"
        with self.database.reading() as connection:
            return {str(status): int(count) for status, count in connection.execute(query)}

    def image_domains(self) -> list[str]:
        """Image domains of the images, sorted; empty for photographs and other images."""
        with self.database.reading() as connection:
            return [str(row["domain"]) for row in connection.execute("SELECT DISTINCT domain FROM images ORDER BY 1")]

    def count_origins(self) -> list[tuple[str, str, bool, str, int]]:
        """Number of items per (image domain, dataset, has choices, kind of evidence)."""
        query = """SELECT images.domain, json_extract(items.sample, '$.source'),
            json_array_length(items.sample, '$.choices') > 0, items.evidence, COUNT(*)
            FROM items JOIN images ON images.id = items.image GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""
        with self.database.reading() as connection:
            rows = connection.execute(query).fetchall()
        return [(str(row[0]), str(row[1]), bool(row[2]), str(row[3]), int(row[4])) for row in rows]

    def count_uncalibrated(self) -> dict[str, int]:
        """Number of uncalibrated labels per ``Label.uncalibrated``; empty for reviewed labels."""
        query = f"""SELECT COALESCE(json_extract(items.label, '$.uncalibrated'), ''), COUNT(*) FROM items
            WHERE {IS_UNCALIBRATED} GROUP BY 1 ORDER BY 1"""  # noqa: S608 - a constant
        with self.database.reading() as connection:
            return {str(reason): int(count) for reason, count in connection.execute(query)}

    def has_boxes_to_verify(self) -> bool:
        """Whether the only items left to label are imported boxes to verify."""
        if self.count(ItemFilter(statuses=("new", "failed"))):
            return False
        query = """SELECT 1 FROM items WHERE status = 'proposed' AND revision = 1
            AND instr(label, '"origin":"imported"') LIMIT 1"""
        with self.database.reading() as connection:
            return connection.execute(query).fetchone() is not None

    def items(
        self, item_filter: ItemFilter = ALL_ITEMS, *, with_history: bool = False, limit: int = -1, offset: int = 0
    ) -> Iterator[Item]:
        """Iterate over items in import order, in batches of a few hundred, each in its current state.

        No connection is held between batches.

        Args:
            item_filter: Filter of the items.
            with_history: Whether to load earlier revisions.
            limit: Maximum number of items; negative = all.
            offset: Number of items to skip.
        """
        clause, values = item_filter.to_sql()
        # A scan without index continues after the last number; an index result would be sorted for every page.
        query = f"{_WHOLE_ITEM} WHERE items.number > ? AND {clause} ORDER BY items.number LIMIT ? OFFSET ?"
        query = query.replace("FROM items JOIN", "FROM items NOT INDEXED JOIN")
        last, left = -1, limit
        while left:
            count = _PAGE if left < 0 else min(_PAGE, left)
            with self.database.reading() as connection:
                rows = connection.execute(query, [last, *values, count, offset]).fetchall()
                items = [self._to_item(row, with_history=with_history) for row in rows]
            yield from items
            if len(rows) < count:
                return
            last, offset = rows[-1]["number"], 0
            left = left - count if left > 0 else left

    def item(self, item_id: str, *, with_history: bool = False) -> Item:
        """Load an item.

        Raises:
            InputError: If the id, which may come from a client, does not exist.
        """
        with self.database.reading() as connection:
            row = connection.execute(f"{_WHOLE_ITEM} WHERE items.id = ?", (item_id,)).fetchone()
            if row is None:
                raise InputError(f"No item {item_id[:40]!r} in this project. Reload the list.")
            return self._to_item(row, with_history=with_history)

    def history(self, item_id: str) -> tuple[Label, ...]:
        """Revisions before the newest one, oldest first."""
        return self._revisions(item_id)[:-1]

    def _revisions(self, item_id: str) -> tuple[Label, ...]:
        query = "SELECT label FROM labels WHERE item = ? ORDER BY revision"
        with self.database.reading() as connection:
            rows = connection.execute(query, (item_id,)).fetchall()
        return tuple(Label.model_validate_json(row["label"]) for row in rows)

    def revision(self, item_id: str, number: int) -> Label:
        """Load a revision.

        Raises:
            InputError: If it does not exist.
        """
        with self.database.reading() as connection:
            row = connection.execute(
                "SELECT label FROM labels WHERE item = ? AND revision = ?", (item_id, number)
            ).fetchone()
        if row is None:
            raise InputError(f"No revision {number} of {item_id}. Reload the item.")
        return Label.model_validate_json(row["label"])

    def append_label(self, connection: sqlite3.Connection, item_id: str, label: Label) -> None:
        """Append a revision, inside the caller's transaction.

        Args:
            connection: Connection from ``database.writing()``.
            item_id: The item.
            label: New label; its ``revision`` must be the next one.

        Raises:
            DataError: If it is not the next revision.
        """
        row = connection.execute("SELECT revision, audit_hash FROM items WHERE id = ?", (item_id,)).fetchone()
        if row is None or row["revision"] + 1 != label.revision:
            found = "no such item" if row is None else f"revision {row['revision']}"
            raise DataError(
                f"Cannot add revision {label.revision} to {item_id}: the item has {found}. Reload the item."
            )
        self.write_labels(connection, [(item_id, label, row["audit_hash"])])

    def write_labels(self, connection: sqlite3.Connection, labels: Sequence[tuple[str, Label, float]]) -> None:
        """Write new revisions of different items without a check, inside the caller's transaction.

        Args:
            connection: Connection from ``database.writing()``.
            labels: Id of the item, its new label, and its audit hash.
        """
        share = self.settings.audit_share
        texts = [label.model_dump_json() for _, label, _ in labels]
        connection.executemany(
            "INSERT INTO labels (item, revision, label, reviewer, status) VALUES (?, ?, ?, ?, ?)",
            [
                (item_id, label.revision, text, label.reviewer, label.status)
                for (item_id, label, _), text in zip(labels, texts, strict=True)
            ],
        )
        connection.executemany(
            """UPDATE items SET label = ?, revision = ?, status = ?, score = ?, reviewer = ?, review_priority = ?
            WHERE id = ?""",
            [
                (
                    text,
                    label.revision,
                    label.status,
                    label.score,
                    label.reviewer,
                    compute_review_priority(label, audit_hash, share),
                    item_id,
                )
                for (item_id, label, audit_hash), text in zip(labels, texts, strict=True)
            ],
        )

    def insert_item(self, connection: sqlite3.Connection, item: Item) -> None:
        """Insert an item with all its revisions, inside the caller's transaction; its id must be new."""
        image = item.image
        connection.execute(
            """INSERT INTO images (sha256, path, width, height, domain) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT DO NOTHING""",
            (image.sha256, self.stored_path(image.path), image.width, image.height, image.domain),
        )
        audit_hash = compute_audit_hash(self.settings.seed, item.id)
        label, sample = item.label, item.sample
        connection.execute(
            """INSERT INTO items (id, image, sample, category, search_text, evidence, audit_hash, label, revision,
            status, score, reviewer, review_priority, required_reviews)
            VALUES (?, (SELECT id FROM images WHERE sha256 = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (
                item.id,
                image.sha256,
                sample.model_dump_json(exclude={"image"}),
                sample.category,
                make_search_text(sample),
                "agreement" if sample.answer is None else "known_answer",
                audit_hash,
                label.model_dump_json(),
                label.revision,
                label.status,
                label.score,
                label.reviewer,
                compute_review_priority(label, audit_hash, self.settings.audit_share),
                count_required_reviews(item.id, self.settings),
            ),
        )
        connection.executemany(
            "INSERT INTO labels (item, revision, label, reviewer, status) VALUES (?, ?, ?, ?, ?)",
            [
                (item.id, each.revision, each.model_dump_json(), each.reviewer, each.status)
                for each in (*item.history, label)
            ],
        )

    def image_path(self, stored: str) -> str:
        """Convert a stored image path to the form of ``files.to_stored_path``.

        Args:
            stored: Path from ``stored_path``; relative paths start at the project folder.
        """
        return str(Path(to_stored_path(self.folder)) / stored)

    def stored_path(self, image: str) -> str:
        """Convert an image path to the form in the database: relative inside the project folder, else absolute.

        Args:
            image: Absolute path, in the form of ``files.to_stored_path``.
        """
        path, folder = Path(image), Path(to_stored_path(self.folder))
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else image

    def _to_item(self, row: sqlite3.Row, *, with_history: bool) -> Item:
        path = self.image_path(row["path"])
        # The label may have changed since the row was read: the history ends before this revision.
        label = Label.model_validate_json(row["label"])
        history = (
            [each for each in self._revisions(row["id"]) if each.revision < label.revision] if with_history else ()
        )
        return Item(
            id=row["id"],
            sample=Sample(**{**json.loads(row["sample"]), "image": path}),
            image=ImageFile(
                path=path, sha256=row["sha256"], width=row["width"], height=row["height"], domain=row["domain"]
            ),
            label=label,
            history=tuple(history),
        )

    def _row(self) -> sqlite3.Row:
        query = "SELECT name, created_at, archived_at, settings FROM project"
        with self.database.reading() as connection:
            row: sqlite3.Row | None = connection.execute(query).fetchone()
        if row is None:
            raise DataError(f"The database of the project in {self.folder} is empty. Create the project again.")
        return row


def check_name(name: str) -> str:
    """Normalize and validate a project name.

    Raises:
        InputError: If it is empty, too long, or holds control characters.
    """
    title = name.strip()
    if to_printable(title) != title:
        raise InputError(f"The name {to_printable(title[:40])!r} is not UTF-8. Choose another name.")
    if not _NAME.fullmatch(title):
        raise InputError(f"expected a name of 1 to 120 characters on one line, got {title[:40]!r}")
    return title


def make_item_id(image_sha256: str, question: str, choices: Sequence[str]) -> str:
    """Stable id of a question about an image: 16 hexadecimal digits, independent of project and time."""
    text = json.dumps([image_sha256, question.strip(), list(choices)], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compute_audit_hash(seed: int, item_id: str) -> float:
    """Number in [0, 1) computed from seed and item id; low values are audited."""
    digest = hashlib.sha256(f"audit:{seed}:{item_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def count_required_reviews(item_id: str, settings: ProjectSettings) -> int:
    """Number of reviewers that must decide the item: two in the double-review sample."""
    digest = hashlib.sha256(f"overlap:{settings.seed}:{item_id}".encode()).digest()
    return 2 if int.from_bytes(digest[:6], "big") / 2**48 < settings.double_review_share else 1


def make_search_text(sample: Sample) -> str:
    """Text that the search matches, in lower case."""
    parts: Iterable[str] = (sample.id, sample.question, *sample.choices, sample.answer or "", sample.source)
    return "\n".join((*parts, Path(sample.image).name)).casefold()
