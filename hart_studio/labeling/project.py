"""A labeling project: a folder with a database, its labeling runs, and references to images elsewhere.

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
from hart_studio.labeling.filters import ALL_ITEMS, IS_UNCALIBRATED, ItemFilter
from hart_studio.labeling.records import (
    DEFAULT_CLASS,
    MAX_CLASSES,
    ClassName,
    ImageFile,
    Item,
    Label,
    Share,
)
from hart_studio.labeling.review_priority import compute_review_priority
from hart_studio.records import Record, Sample

IMAGES: Final = "images"
"""Folder of images that came as bytes."""

RUNS: Final = "runs"
"""Folder of a project's labeling runs."""

_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,120}")
_PAGE: Final = 256
_WHOLE_ITEM: Final = """SELECT items.number, items.id, items.sample, items.label, images.path, images.sha256,
    images.width, images.height, images.domain FROM items JOIN images ON images.id = items.image"""


class ProjectSettings(Record):
    """What holds for the whole project."""

    seed: int = Field(default=0, ge=0)
    """Draws the audit and the overlap."""
    audit_share: Share = 0.1
    """Share of the labels auto-accepted that a person checks all the same, so that their error rate is measured."""
    overlap_share: Share = 0.0
    """Share of the reviewed items that two people decide, so that their agreement is measured."""
    classes: tuple[ClassName, ...] = Field(default=(DEFAULT_CLASS,), min_length=1, max_length=MAX_CLASSES)
    """Classes of the boxes in exports. The first is that of boxes that a model, or a person without a choice, made."""


class Project:
    """An open project. May be shared by threads, and open in many processes at once.

    Attributes:
        folder: Its folder, absolute.
        database: Its file.
    """

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            DataError: If there is none, or it cannot be used.
        """
        self.folder = folder.resolve()
        self.database = Database(self.folder / DATABASE)

    @property
    def runs(self) -> Path:
        """Folder of its labeling runs."""
        return self.folder / RUNS

    @property
    def images(self) -> Path:
        """Folder of images that came as bytes."""
        return self.folder / IMAGES

    @property
    def name(self) -> str:
        """What people call it."""
        return str(self._row()["name"])

    @property
    def settings(self) -> ProjectSettings:
        """What holds for the whole project."""
        return ProjectSettings.model_validate_json(self._row()["settings"])

    @property
    def archived_at(self) -> datetime | None:
        """When it was archived; None = it is not."""
        text = self._row()["archived_at"]
        return None if text is None else datetime.fromisoformat(text)

    def rename(self, name: str) -> None:
        """Change the name that people see. The folder keeps its name, so that paths and open pages stay valid.

        Raises:
            InputError: If the name is empty, too long, or holds control characters.
        """
        with self.database.writing() as connection:
            connection.execute("UPDATE project SET name = ?", (check_name(name),))

    def set_archived(self, *, is_archived: bool) -> None:
        """Archive the project, or take it out of the archive. Its content stays as it is."""
        now = datetime.now(UTC).isoformat() if is_archived else None
        with self.database.writing() as connection:
            connection.execute("UPDATE project SET archived_at = ?", (now,))

    def change_settings(self, settings: ProjectSettings) -> None:
        """Replace the settings; the review queue follows them."""
        with self.database.writing() as connection:
            connection.execute("UPDATE project SET settings = ?", (settings.model_dump_json(),))
            rows = connection.execute("SELECT id, label, audit_hash FROM items").fetchall()
            connection.executemany(
                "UPDATE items SET review_priority = ?, required_reviews = ? WHERE id = ?",
                [
                    (
                        compute_review_priority(
                            Label.model_validate_json(row["label"]), row["audit_hash"], settings.audit_share
                        ),
                        count_required_reviews(row["id"], settings),
                        row["id"],
                    )
                    for row in rows
                ],
            )
        self.sample_audit()

    def add_classes(self, names: Iterable[str]) -> tuple[str, ...]:
        """Add classes that labels of other tools have; returns the new ones, of which there may be ``MAX_CLASSES``."""
        with self.database.writing() as connection:
            known = self.settings.classes
            new = tuple(name for name in dict.fromkeys(names) if name not in set(known))[: MAX_CLASSES - len(known)]
            if new:
                self._write_classes(connection, (*known, *new))
        return new

    def change_classes(self, names: Sequence[str]) -> None:
        """Replace the classes of boxes in exports; no label changes.

        Raises:
            ValidationError: If there is none, or one is no name.
        """
        with self.database.writing() as connection:
            self._write_classes(connection, tuple(dict.fromkeys(names)))

    def _write_classes(self, connection: sqlite3.Connection, names: tuple[str, ...]) -> None:
        changed = ProjectSettings(**{**self.settings.model_dump(), "classes": names})
        connection.execute("UPDATE project SET settings = ?", (changed.model_dump_json(),))

    def get_audit_threshold(self) -> float:
        """Auto-accepted labels with an audit hash below this are audited.

        That is the audit share, or, where no such label has one as low, just above their lowest hash: so that there
        is always one whose error can be found. A hash says nothing about its label, so the one is no worse than
        another.
        """
        share = self.settings.audit_share
        if share == 0:
            return share
        # From the labels to their items: no index on the hash helps where few or no labels were auto-accepted.
        found = "FROM labels CROSS JOIN items ON items.id = labels.item WHERE labels.status = 'auto_accepted'"
        with self.database.reading() as connection:
            if connection.execute(f"SELECT 1 {found} AND items.audit_hash < ? LIMIT 1", (share,)).fetchone():
                return share
            (lowest,) = connection.execute(f"SELECT MIN(items.audit_hash) {found}").fetchone()
        return share if lowest is None else math.nextafter(lowest, 1.0)

    def sample_audit(self) -> None:
        """Let the review queue hold the labels auto-accepted that are to be audited, and no others of them."""
        source = "SELECT id, label, audit_hash FROM items INDEXED BY items_auto_accepted WHERE status = 'auto_accepted'"
        query = f"""{source} AND audit_hash < :bound AND review_priority IS NULL
            UNION ALL {source} AND audit_hash >= :bound AND review_priority IS NOT NULL"""
        with self.database.reading() as connection:
            is_current = connection.execute(query, {"bound": self.get_audit_threshold()}).fetchone() is None
        if is_current:
            return  # nothing to change: no writer waits for that
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

    def count(self, item_filter: ItemFilter = ALL_ITEMS) -> int:
        """Number of items."""
        clause, values = item_filter.to_sql()
        query = f"SELECT COUNT(*) FROM items WHERE {clause}"  # noqa: S608 - the clause holds placeholders only
        with self.database.reading() as connection:
            (count,) = connection.execute(query, values).fetchone()
        return int(count)

    def count_by(self, column: str) -> dict[str, int]:
        """Number of items for each status, category, reviewer, or kind of evidence."""
        if column not in {"status", "category", "reviewer", "evidence"}:
            raise InputError(f"expected status, category, reviewer or evidence, got {column!r}")
        query = f"SELECT {column}, COUNT(*) FROM items GROUP BY 1 ORDER BY 1"  # noqa: S608 - one of four words
        with self.database.reading() as connection:
            return {str(value): int(count) for value, count in connection.execute(query)}

    def count_waiting(self) -> dict[str, int]:
        """The review queue by status: ``proposed`` labels wait for a decision, ``auto_accepted`` ones for the audit."""
        query = "SELECT status, COUNT(*) FROM items WHERE review_priority IS NOT NULL GROUP BY 1"
        with self.database.reading() as connection:
            return {str(status): int(count) for status, count in connection.execute(query)}

    def image_domains(self) -> list[str]:
        """Image domains of the images, sorted; empty text stands for photographs and all other images."""
        with self.database.reading() as connection:
            return [str(row["domain"]) for row in connection.execute("SELECT DISTINCT domain FROM images ORDER BY 1")]

    def count_origins(self) -> list[tuple[str, str, bool, str, int]]:
        """Number of items by (image domain, data set, whether it has choices, kind of evidence)."""
        query = """SELECT images.domain, json_extract(items.sample, '$.source'),
            json_array_length(items.sample, '$.choices') > 0, items.evidence, COUNT(*)
            FROM items JOIN images ON images.id = items.image GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""
        with self.database.reading() as connection:
            rows = connection.execute(query).fetchall()
        return [(str(row[0]), str(row[1]), bool(row[2]), str(row[3]), int(row[4])) for row in rows]

    def count_uncalibrated(self) -> dict[str, int]:
        """Number of uncalibrated labels by ``Label.uncalibrated``, empty where a person has decided since."""
        query = f"""SELECT COALESCE(json_extract(items.label, '$.uncalibrated'), ''), COUNT(*) FROM items
            WHERE {IS_UNCALIBRATED} GROUP BY 1 ORDER BY 1"""  # noqa: S608 - a constant
        with self.database.reading() as connection:
            return {str(reason): int(count) for reason, count in connection.execute(query)}

    def has_boxes_to_verify(self) -> bool:
        """Whether all that is left to label are boxes that came in: nothing is new or failed."""
        if self.count(ItemFilter(statuses=("new", "failed"))):
            return False
        query = """SELECT 1 FROM items WHERE status = 'proposed' AND revision = 1
            AND instr(label, '"origin":"imported"') LIMIT 1"""
        with self.database.reading() as connection:
            return connection.execute(query).fetchone() is not None

    def items(
        self, item_filter: ItemFilter = ALL_ITEMS, *, with_history: bool = False, limit: int = -1, offset: int = 0
    ) -> Iterator[Item]:
        """Items in the order in which they were imported, read a few hundred at a time, each as it is when it is read.

        No connection is held between two reads, so a caller may take its time.

        Args:
            item_filter: Which ones.
            with_history: Whether to read earlier revisions too.
            limit: Most items; negative = all.
            offset: Items to leave out at the beginning.
        """
        clause, values = item_filter.to_sql()
        # Without an index the scan starts after the last number; an index would have to be sorted for every page.
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
        """One item.

        Raises:
            InputError: If there is none of that id, which may come from a client.
        """
        with self.database.reading() as connection:
            row = connection.execute(f"{_WHOLE_ITEM} WHERE items.id = ?", (item_id,)).fetchone()
            if row is None:
                raise InputError(f"expected the id of an item of this project, got {item_id[:40]!r}; reload the list")
            return self._to_item(row, with_history=with_history)

    def history(self, item_id: str) -> tuple[Label, ...]:
        """The revisions before the newest one, oldest first."""
        return self._revisions(item_id)[:-1]

    def _revisions(self, item_id: str) -> tuple[Label, ...]:
        query = "SELECT label FROM labels WHERE item = ? ORDER BY revision"
        with self.database.reading() as connection:
            rows = connection.execute(query, (item_id,)).fetchall()
        return tuple(Label.model_validate_json(row["label"]) for row in rows)

    def revision(self, item_id: str, number: int) -> Label:
        """A certain revision.

        Raises:
            InputError: If there is none.
        """
        with self.database.reading() as connection:
            row = connection.execute(
                "SELECT label FROM labels WHERE item = ? AND revision = ?", (item_id, number)
            ).fetchone()
        if row is None:
            raise InputError(f"expected a revision of {item_id}, got {number}, which is not there; reload the item")
        return Label.model_validate_json(row["label"])

    def append_label(self, connection: sqlite3.Connection, item_id: str, label: Label) -> None:
        """Make a revision the newest one, inside the caller's transaction.

        Args:
            connection: From ``database.writing()``.
            item_id: The item.
            label: Its ``revision`` must be the next one.

        Raises:
            DataError: If it is not.
        """
        row = connection.execute("SELECT revision, audit_hash FROM items WHERE id = ?", (item_id,)).fetchone()
        if row is None or row["revision"] + 1 != label.revision:
            found = "no such item" if row is None else f"revision {row['revision']}"
            raise DataError(f"expected to add revision {label.revision} to {item_id}, got {found}; read it again")
        text = label.model_dump_json()
        connection.execute(
            "INSERT INTO labels (item, revision, label, reviewer, status) VALUES (?, ?, ?, ?, ?)",
            (item_id, label.revision, text, label.reviewer, label.status),
        )
        connection.execute(
            """UPDATE items SET label = ?, revision = ?, status = ?, score = ?, reviewer = ?, review_priority = ?
            WHERE id = ?""",
            (
                text,
                label.revision,
                label.status,
                label.score,
                label.reviewer,
                compute_review_priority(label, row["audit_hash"], self.settings.audit_share),
                item_id,
            ),
        )

    def insert_item(self, connection: sqlite3.Connection, item: Item) -> None:
        """Add an item with all its revisions, inside the caller's transaction; its id must be new."""
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
        """The image at a path of the database, in the form of ``files.to_stored_path``.

        Args:
            stored: From ``stored_path``; a relative one starts from the project's folder.
        """
        return str(Path(to_stored_path(self.folder)) / stored)

    def stored_path(self, image: str) -> str:
        """The path of an image as the database keeps it: relative inside the project's folder, else absolute.

        Args:
            image: Absolute, in the form of ``files.to_stored_path``.
        """
        path, folder = Path(image), Path(to_stored_path(self.folder))
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else image

    def _to_item(self, row: sqlite3.Row, *, with_history: bool) -> Item:
        path = self.image_path(row["path"])
        # Rows are read one after the other: the history ends where this very label begins.
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
            raise DataError(f"expected a labeling project in {self.folder}, got an empty database; create it again")
        return row


def check_name(name: str) -> str:
    """A project's name as it is kept.

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
    """The id of a question about an image: 16 hexadecimal digits, the same wherever and whenever it is imported."""
    text = json.dumps([image_sha256, question.strip(), list(choices)], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compute_audit_hash(seed: int, item_id: str) -> float:
    """A number in [0, 1) that the seed and the id decide: who draws low is audited."""
    digest = hashlib.sha256(f"audit:{seed}:{item_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def count_required_reviews(item_id: str, settings: ProjectSettings) -> int:
    """How many people are to decide the item: two where they overlap on purpose."""
    digest = hashlib.sha256(f"overlap:{settings.seed}:{item_id}".encode()).digest()
    return 2 if int.from_bytes(digest[:6], "big") / 2**48 < settings.overlap_share else 1


def make_search_text(sample: Sample) -> str:
    """What a search for text looks at, lower case."""
    parts: Iterable[str] = (sample.id, sample.question, *sample.choices, sample.answer or "", sample.source)
    return "\n".join((*parts, Path(sample.image).name)).casefold()
