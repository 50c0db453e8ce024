"""A labeling project: a folder with a database, its labeling runs, and references to pictures elsewhere.

::

    <project>/
      project.sqlite      items, labels with their history, reviews     runs/       labeling runs, each a run directory
      pictures/           pictures that came as bytes, by content       exports/    what was exported from the page
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import Field

from hart_studio.errors import DataError, InputError
from hart_studio.labeling.database import DATABASE, Database, create_database
from hart_studio.labeling.filters import EVERYTHING, IS_UNCALIBRATED, ItemFilter
from hart_studio.labeling.need import find_need
from hart_studio.labeling.records import Item, Label, PictureFile, Share
from hart_studio.records import Record, Sample

RUNS: Final = "runs"
"""Folder of a project's labeling runs."""

_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,120}")
_WHOLE_ITEM: Final = """SELECT items.id, items.sample, items.label, pictures.path, pictures.sha256, pictures.width,
    pictures.height, pictures.domain FROM items JOIN pictures ON pictures.id = items.picture"""


class ProjectSettings(Record):
    """What holds for the whole project."""

    seed: int = Field(default=0, ge=0)
    """Draws the audit and the overlap."""
    audit_share: Share = 0.1
    """Share of the labels accepted unseen that a person checks all the same, so that their error rate is measured."""
    overlap_share: Share = 0.0
    """Share of the reviewed items that two people decide, so that their agreement is measured."""


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
    def pictures(self) -> Path:
        """Folder of pictures that came as bytes."""
        return self.folder / "pictures"

    @property
    def name(self) -> str:
        """What people call it."""
        return str(self._row()["name"])

    @property
    def settings(self) -> ProjectSettings:
        """What holds for the whole project."""
        return ProjectSettings.model_validate_json(self._row()["settings"])

    def change_settings(self, settings: ProjectSettings) -> None:
        """Replace the settings; the review queue follows them."""
        with self.database.writing() as connection:
            connection.execute("UPDATE project SET settings = ?", (settings.model_dump_json(),))
            rows = connection.execute("SELECT id, label, lot FROM items").fetchall()
            connection.executemany(
                "UPDATE items SET need = ?, wants = ? WHERE id = ?",
                [
                    (
                        find_need(Label.model_validate_json(row["label"]), row["lot"], settings.audit_share),
                        count_wanted(row["id"], settings),
                        row["id"],
                    )
                    for row in rows
                ],
            )
        self.draw_audit()

    def find_audit_bound(self) -> float:
        """The lot below which labels accepted unseen are audited.

        That is the audit share, or, where no such label drew as low, just above the lowest lot of them: so that there
        is always one whose error can be found. A lot says nothing about its label, so the one is no worse than another.
        """
        share = self.settings.audit_share
        if share == 0:
            return share
        query = """SELECT lot FROM items WHERE lot {} ? AND EXISTS (SELECT 1 FROM labels WHERE labels.item = items.id
            AND labels.status = 'auto_accepted')"""
        reading = self.database.reading()
        if reading.execute(f"{query.format('<')} LIMIT 1", (share,)).fetchone():  # the usual case, found at once
            return share
        lowest = reading.execute(f"{query.format('>=')} ORDER BY lot LIMIT 1", (share,)).fetchone()
        return math.nextafter(lowest["lot"], 1.0) if lowest else share

    def draw_audit(self) -> None:
        """Let the review queue hold the labels accepted unseen that are to be audited, and no others of them."""
        with self.database.writing() as connection:
            bound = self.find_audit_bound()
            rows = connection.execute(
                """SELECT id, label, lot FROM items
                WHERE status = 'auto_accepted' AND (lot < ?) != (need IS NOT NULL)""",
                (bound,),
            ).fetchall()
            connection.executemany(
                "UPDATE items SET need = ? WHERE id = ?",
                [(find_need(Label.model_validate_json(row["label"]), row["lot"], bound), row["id"]) for row in rows],
            )

    def count(self, wanted: ItemFilter = EVERYTHING) -> int:
        """Number of items."""
        clause, values = wanted.to_sql()
        query = f"SELECT COUNT(*) FROM items WHERE {clause}"  # noqa: S608 - the clause holds placeholders only
        (count,) = self.database.reading().execute(query, values).fetchone()
        return int(count)

    def count_by(self, column: str) -> dict[str, int]:
        """Number of items for each status, category, reviewer, or kind of evidence."""
        if column not in {"status", "category", "reviewer", "evidence"}:
            raise InputError(f"expected status, category, reviewer or evidence, got {column!r}")
        query = f"SELECT {column}, COUNT(*) FROM items GROUP BY 1 ORDER BY 1"  # noqa: S608 - one of four words
        return {str(value): int(count) for value, count in self.database.reading().execute(query)}

    def count_waiting(self) -> dict[str, int]:
        """The review queue by status: ``proposed`` labels wait for a decision, ``auto_accepted`` ones for the audit."""
        query = "SELECT status, COUNT(*) FROM items WHERE need IS NOT NULL GROUP BY 1"
        return {str(status): int(count) for status, count in self.database.reading().execute(query)}

    def image_domains(self) -> list[str]:
        """Image domains of the images, sorted; empty text stands for photographs and all other images."""
        rows = self.database.reading().execute("SELECT DISTINCT domain FROM pictures ORDER BY 1")
        return [str(row["domain"]) for row in rows]

    def count_origins(self) -> list[tuple[str, str, bool, str, int]]:
        """Number of items by (image domain, data set, whether it has choices, kind of evidence)."""
        rows = self.database.reading().execute(
            """SELECT pictures.domain, json_extract(items.sample, '$.source'),
            json_array_length(items.sample, '$.choices') > 0, items.evidence, COUNT(*)
            FROM items JOIN pictures ON pictures.id = items.picture GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""
        )
        return [(str(row[0]), str(row[1]), bool(row[2]), str(row[3]), int(row[4])) for row in rows]

    def count_uncalibrated(self) -> dict[str, int]:
        """Number of uncalibrated labels by ``Label.uncalibrated``, empty where a person has decided since."""
        query = f"""SELECT COALESCE(json_extract(items.label, '$.uncalibrated'), ''), COUNT(*) FROM items
            WHERE {IS_UNCALIBRATED} GROUP BY 1 ORDER BY 1"""  # noqa: S608 - a constant
        return {str(reason): int(count) for reason, count in self.database.reading().execute(query)}

    def has_boxes_to_verify(self) -> bool:
        """Whether all that is left to label are boxes that came in: nothing is new or failed."""
        if self.count(ItemFilter(statuses=("new", "failed"))):
            return False
        query = """SELECT 1 FROM items WHERE status = 'proposed' AND revision = 1
            AND instr(label, '"origin":"imported"') LIMIT 1"""
        return self.database.reading().execute(query).fetchone() is not None

    def items(
        self, wanted: ItemFilter = EVERYTHING, *, with_history: bool = False, limit: int = -1, offset: int = 0
    ) -> Iterator[Item]:
        """Items in the order in which they were imported, read a few hundred at a time.

        Args:
            wanted: Which ones.
            with_history: Whether to read earlier revisions too.
            limit: Most items; negative = all.
            offset: Items to leave out at the beginning.
        """
        clause, values = wanted.to_sql()
        query = f"{_WHOLE_ITEM} WHERE {clause} ORDER BY items.number LIMIT ? OFFSET ?"
        cursor = self.database.reading().execute(query, [*values, limit, offset])
        while rows := cursor.fetchmany(256):
            for row in rows:
                yield _to_item(row, self.history(row["id"]) if with_history else ())

    def item(self, item_id: str, *, with_history: bool = False) -> Item:
        """One item.

        Raises:
            InputError: If there is none of that id, which may come from a client.
        """
        row = self.database.reading().execute(f"{_WHOLE_ITEM} WHERE items.id = ?", (item_id,)).fetchone()
        if row is None:
            raise InputError(f"expected the id of an item of this project, got {item_id[:40]!r}; reload the list")
        return _to_item(row, self.history(item_id) if with_history else ())

    def history(self, item_id: str) -> tuple[Label, ...]:
        """The revisions before the newest one, oldest first."""
        rows = self.database.reading().execute("SELECT label FROM labels WHERE item = ? ORDER BY revision", (item_id,))
        return tuple(Label.model_validate_json(row["label"]) for row in rows)[:-1]

    def revision(self, item_id: str, number: int) -> Label:
        """A certain revision.

        Raises:
            InputError: If there is none.
        """
        row = (
            self.database.reading()
            .execute("SELECT label FROM labels WHERE item = ? AND revision = ?", (item_id, number))
            .fetchone()
        )
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
        row = connection.execute("SELECT revision, lot FROM items WHERE id = ?", (item_id,)).fetchone()
        if row is None or row["revision"] + 1 != label.revision:
            found = "no such item" if row is None else f"revision {row['revision']}"
            raise DataError(f"expected to add revision {label.revision} to {item_id}, got {found}; read it again")
        text = label.model_dump_json()
        connection.execute(
            "INSERT INTO labels (item, revision, label, reviewer, status) VALUES (?, ?, ?, ?, ?)",
            (item_id, label.revision, text, label.reviewer, label.status),
        )
        connection.execute(
            "UPDATE items SET label = ?, revision = ?, status = ?, score = ?, reviewer = ?, need = ? WHERE id = ?",
            (
                text,
                label.revision,
                label.status,
                label.score,
                label.reviewer,
                find_need(label, row["lot"], self.settings.audit_share),
                item_id,
            ),
        )

    def insert_item(self, connection: sqlite3.Connection, item: Item) -> None:
        """Add an item with all its revisions, inside the caller's transaction; its id must be new."""
        picture = item.picture
        connection.execute(
            """INSERT INTO pictures (sha256, path, width, height, domain) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT DO NOTHING""",
            (picture.sha256, picture.path, picture.width, picture.height, picture.domain),
        )
        lot = draw_lot(self.settings.seed, item.id)
        label, sample = item.label, item.sample
        connection.execute(
            """INSERT INTO items (id, picture, sample, category, words, evidence, lot, label, revision, status, score,
            reviewer, need, wants)
            VALUES (?, (SELECT id FROM pictures WHERE sha256 = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (
                item.id,
                picture.sha256,
                sample.model_dump_json(exclude={"image"}),
                sample.category,
                find_words(sample),
                "agreement" if sample.answer is None else "known_answer",
                lot,
                label.model_dump_json(),
                label.revision,
                label.status,
                label.score,
                label.reviewer,
                find_need(label, lot, self.settings.audit_share),
                count_wanted(item.id, self.settings),
            ),
        )
        connection.executemany(
            "INSERT INTO labels (item, revision, label, reviewer, status) VALUES (?, ?, ?, ?, ?)",
            [
                (item.id, each.revision, each.model_dump_json(), each.reviewer, each.status)
                for each in (*item.history, label)
            ],
        )

    def _row(self) -> sqlite3.Row:
        row: sqlite3.Row | None = self.database.reading().execute("SELECT name, settings FROM project").fetchone()
        if row is None:
            raise DataError(f"expected a labeling project in {self.folder}, got an empty database; create it again")
        return row


def create_project(folder: Path, name: str = "", settings: ProjectSettings | None = None) -> Project:
    """Make an empty project.

    Args:
        folder: Made when missing; must hold no project yet.
        name: What people call it; the folder's name by default.
        settings: What holds for the whole project.

    Raises:
        InputError: If there is a project already, or the name is empty or holds control characters.
        DataError: If the folder cannot be written, or the disk is full; nothing is left behind.
    """
    title = name.strip() or folder.resolve().name
    if not _NAME.fullmatch(title):
        raise InputError(f"expected a name of 1 to 120 characters on one line, got {title[:40]!r}")
    path = folder / DATABASE
    if path.exists():
        raise InputError(f"expected a folder without a project, got {folder}; open it, or choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"expected to make the folder {folder}, got {error.strerror}; choose another one") from error
    try:
        database = create_database(path)
        with database.writing() as connection:
            connection.execute(
                "INSERT INTO project (only, name, created_at, settings) VALUES (1, ?, ?, ?)",
                (title, datetime.now(UTC).isoformat(), (settings or ProjectSettings()).model_dump_json()),
            )
        database.close()
        return Project(folder)
    except DataError:
        for half in folder.glob(f"{DATABASE}*"):
            half.unlink(missing_ok=True)
        with suppress(OSError):  # it holds something else
            folder.rmdir()
        raise


def make_item_id(picture_sha256: str, question: str, choices: Sequence[str]) -> str:
    """The id of a question about a picture: 16 hexadecimal digits, the same wherever and whenever it is imported."""
    text = json.dumps([picture_sha256, question.strip(), list(choices)], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def draw_lot(seed: int, item_id: str) -> float:
    """A number in [0, 1) that the seed and the id decide: who draws low is audited."""
    digest = hashlib.sha256(f"audit:{seed}:{item_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def count_wanted(item_id: str, settings: ProjectSettings) -> int:
    """How many people are to decide the item: two where they overlap on purpose."""
    digest = hashlib.sha256(f"overlap:{settings.seed}:{item_id}".encode()).digest()
    return 2 if int.from_bytes(digest[:6], "big") / 2**48 < settings.overlap_share else 1


def find_words(sample: Sample) -> str:
    """What a search for text looks at, lower case."""
    parts: Iterable[str] = (sample.id, sample.question, *sample.choices, sample.answer or "", sample.source)
    return "\n".join((*parts, Path(sample.image).name)).casefold()


def _to_item(row: sqlite3.Row, history: tuple[Label, ...]) -> Item:
    sample = json.loads(row["sample"])
    return Item(
        id=row["id"],
        sample=Sample(**{**sample, "image": row["path"]}),
        picture=PictureFile(**{name: row[name] for name in PictureFile.model_fields}),
        label=Label.model_validate_json(row["label"]),
        history=history,
    )
