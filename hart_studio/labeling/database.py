"""The SQLite file of a labeling project: schema, connections, transactions.

Many processes may use one project: writers wait for each other, readers for nobody (write-ahead log). A transaction
that was committed survives the end of the process, and of the machine.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hart_studio.errors import DataError

DATABASE: Final = "project.sqlite"
"""File of the project's folder."""

_PATIENCE_SECONDS: Final = 30.0

_VERSION_1: Final = (
    """CREATE TABLE project (
        only INTEGER PRIMARY KEY CHECK (only = 1), name TEXT NOT NULL, created_at TEXT NOT NULL, settings TEXT NOT NULL
    )""",
    """CREATE TABLE pictures (
        id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, path TEXT NOT NULL,
        width INTEGER NOT NULL, height INTEGER NOT NULL, domain TEXT NOT NULL DEFAULT ''
    )""",
    # Columns beside the JSON repeat what lists are filtered and ordered by; they are written together with it.
    """CREATE TABLE items (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, picture INTEGER NOT NULL REFERENCES pictures (id),
        sample TEXT NOT NULL, category TEXT NOT NULL, words TEXT NOT NULL, evidence TEXT NOT NULL,
        lot REAL NOT NULL, label TEXT NOT NULL, revision INTEGER NOT NULL, status TEXT NOT NULL, score REAL,
        reviewer TEXT NOT NULL, need REAL, wants INTEGER NOT NULL DEFAULT 1
    )""",
    "CREATE INDEX items_by_need ON items (need DESC, number)",
    "CREATE INDEX items_by_status ON items (status, score)",
    "CREATE INDEX items_by_picture ON items (picture)",
    """CREATE TABLE labels (
        item TEXT NOT NULL REFERENCES items (id), revision INTEGER NOT NULL, label TEXT NOT NULL,
        reviewer TEXT NOT NULL, status TEXT NOT NULL, PRIMARY KEY (item, revision)
    ) WITHOUT ROWID""",
    # Read by the quality report alone; see `gold`.
    "CREATE TABLE gold (item TEXT PRIMARY KEY REFERENCES items (id), boxes TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE imports (
        id INTEGER PRIMARY KEY, at TEXT NOT NULL, source TEXT NOT NULL, added INTEGER NOT NULL, known INTEGER NOT NULL,
        bad INTEGER NOT NULL
    )""",
    """CREATE TABLE bad_rows (
        import INTEGER NOT NULL REFERENCES imports (id), place TEXT NOT NULL, reason TEXT NOT NULL
    )""",
    "CREATE TABLE runs (id TEXT PRIMARY KEY, at TEXT NOT NULL, model TEXT NOT NULL) WITHOUT ROWID",
    # One row per item that the run has to do; its label is there once it is done.
    """CREATE TABLE predictions (
        run TEXT NOT NULL REFERENCES runs (id), item TEXT NOT NULL REFERENCES items (id), label TEXT,
        PRIMARY KEY (run, item)
    ) WITHOUT ROWID""",
    """CREATE TABLE claims (
        item TEXT PRIMARY KEY REFERENCES items (id), reviewer TEXT NOT NULL, until REAL NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE actions (
        id INTEGER PRIMARY KEY, reviewer TEXT NOT NULL, item TEXT NOT NULL REFERENCES items (id), kind TEXT NOT NULL,
        before INTEGER NOT NULL, after INTEGER NOT NULL, is_undone INTEGER NOT NULL DEFAULT 0, seconds REAL,
        at TEXT NOT NULL
    )""",
    "CREATE INDEX actions_by_reviewer ON actions (reviewer, id)",
    "CREATE INDEX actions_by_item ON actions (item)",
)

MIGRATIONS: Final[tuple[Sequence[str], ...]] = (_VERSION_1,)
"""Statements that lead from each version to the next. Only ever added to."""


class Database:
    """A project's file; every thread gets a connection of its own.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, and bring it to the newest version.

        Raises:
            DataError: If it is missing, no project, of a newer version, or cannot be written.
        """
        self.path = path
        self._own = threading.local()
        if not path.is_file():
            raise DataError(f"expected a project at {path.parent}, got a folder without {DATABASE}; create one first")
        with telling_apart(path):
            (version,) = self.reading().execute("PRAGMA user_version").fetchone()
        if version != len(MIGRATIONS):  # a project that is up to date can be read where it cannot be written
            with self.writing() as connection:
                migrate(connection, path)

    def reading(self) -> sqlite3.Connection:
        """The thread's connection, to read what was committed."""
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = connect(self.path)
        return connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is kept, or, with an exception, nothing.

        Raises:
            DataError: If the disk is full, the file is damaged or may not be written, or others keep it too long.
        """
        with telling_apart(self.path):
            connection = self.reading()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            self._own.connection = None


def create_database(path: Path) -> Database:
    """Make an empty file of the newest version.

    Raises:
        DataError: If the folder cannot be written.
    """
    with telling_apart(path):
        connect(path).close()
    return Database(path)


def connect(path: Path) -> sqlite3.Connection:
    """A connection with the settings that every one must have."""
    with telling_apart(path):
        connection = sqlite3.connect(path, timeout=_PATIENCE_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # every action of a person is on the disk when it is answered
        return connection


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Apply what the file's version lacks; to be called inside a transaction.

    Raises:
        DataError: If the file is of a newer version than this program.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise DataError(
            f"expected a project of version {len(MIGRATIONS)} or older at {path.parent}, got version {version}; "
            "update HART Studio"
        )
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    if version < len(MIGRATIONS):
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS):d}")


@contextmanager
def telling_apart(path: Path) -> Iterator[None]:
    """Turns what SQLite says into what a person can do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text:
            reason, remedy = "the disk is full", "free some space; what was saved before is kept"
        elif "disk I/O" in text:
            reason = "it could not be read or written"
            remedy = "see whether the disk is full or damaged; what was saved before is kept"
        elif "readonly" in text or "unable to open" in text:
            reason, remedy = "it cannot be written", "check the access rights of the folder and of its files"
        elif "locked" in text or "busy" in text:
            reason, remedy = "other programs keep it busy", "try again, or end them"
        else:
            reason, remedy = text, "try again"
        raise DataError(f"expected to use the project at {path.parent}, but {reason}; {remedy}") from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise DataError(f"expected a labeling project in {path}, got a damaged or foreign file ({error})") from error
