"""The SQLite file of a labeling project: schema, connections, transactions.

Many processes may use one project: writers wait for each other, readers for no one (write-ahead log). A transaction
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
from hart_studio.labeling.connection_pool import (
    CONNECTION_POOL,
    ConnectionPool,
    PooledConnection,
    count_transaction,
    replaced_message,
)

DATABASE: Final = "project.sqlite"
"""File of the project's folder."""

_VERSION_2: Final = (
    """CREATE TABLE project (
        only INTEGER PRIMARY KEY CHECK (only = 1), name TEXT NOT NULL, created_at TEXT NOT NULL,
        archived_at TEXT, settings TEXT NOT NULL
    )""",
    # Paths inside the folder of the project are relative to it, so that a copy finds its own images.
    """CREATE TABLE images (
        id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, path TEXT NOT NULL,
        width INTEGER NOT NULL, height INTEGER NOT NULL, domain TEXT NOT NULL DEFAULT ''
    )""",
    # Columns beside the JSON repeat what lists are filtered and ordered by; they are written together with it.
    """CREATE TABLE items (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, image INTEGER NOT NULL REFERENCES images (id),
        sample TEXT NOT NULL, category TEXT NOT NULL, search_text TEXT NOT NULL, evidence TEXT NOT NULL,
        audit_hash REAL NOT NULL, label TEXT NOT NULL, revision INTEGER NOT NULL, status TEXT NOT NULL, score REAL,
        reviewer TEXT NOT NULL, review_priority REAL, required_reviews INTEGER NOT NULL DEFAULT 1,
        boxes INTEGER GENERATED ALWAYS AS (json_array_length(label, '$.boxes')) VIRTUAL
    )""",
    # The review queue. Status, score and category are in it so that a filter on them reads no row of the table.
    """CREATE INDEX items_by_priority ON items (review_priority DESC, number, status, score, category)
        WHERE review_priority IS NOT NULL""",
    "CREATE INDEX items_waiting ON items (status) WHERE review_priority IS NOT NULL",
    "CREATE INDEX items_for_double_review ON items (number, status, review_priority) WHERE required_reviews > 1",
    "CREATE INDEX items_auto_accepted ON items (audit_hash, review_priority) WHERE status = 'auto_accepted'",
    "CREATE INDEX items_by_status ON items (status, score, boxes)",
    "CREATE INDEX items_by_image ON items (image)",
    """CREATE TABLE labels (
        item TEXT NOT NULL REFERENCES items (id), revision INTEGER NOT NULL, label TEXT NOT NULL,
        reviewer TEXT NOT NULL, status TEXT NOT NULL, PRIMARY KEY (item, revision)
    ) WITHOUT ROWID""",
    "CREATE INDEX labels_auto_accepted ON labels (item) WHERE status = 'auto_accepted'",
    # Read by the quality report alone; see `gold`.
    "CREATE TABLE gold_boxes (item TEXT PRIMARY KEY REFERENCES items (id), boxes TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE imports (
        id INTEGER PRIMARY KEY, at TEXT NOT NULL, source TEXT NOT NULL, added INTEGER NOT NULL, known INTEGER NOT NULL,
        invalid INTEGER NOT NULL
    )""",
    """CREATE TABLE invalid_rows (
        import INTEGER NOT NULL REFERENCES imports (id), location TEXT NOT NULL, reason TEXT NOT NULL
    )""",
    "CREATE TABLE runs (id TEXT PRIMARY KEY, at TEXT NOT NULL, model TEXT NOT NULL) WITHOUT ROWID",
    # One row per item that the run has to do; its label is there once it is done.
    """CREATE TABLE predictions (
        run TEXT NOT NULL REFERENCES runs (id), item TEXT NOT NULL REFERENCES items (id), label TEXT,
        PRIMARY KEY (run, item)
    ) WITHOUT ROWID""",
    """CREATE TABLE item_locks (
        item TEXT PRIMARY KEY REFERENCES items (id), reviewer TEXT NOT NULL, expires_at REAL NOT NULL
    ) WITHOUT ROWID""",
    # `undone` is 0, or the id of the reviewer's newest action when the action was undone.
    """CREATE TABLE actions (
        id INTEGER PRIMARY KEY, reviewer TEXT NOT NULL, item TEXT NOT NULL REFERENCES items (id), kind TEXT NOT NULL,
        before INTEGER NOT NULL, after INTEGER NOT NULL, undone INTEGER NOT NULL DEFAULT 0, seconds REAL,
        at TEXT NOT NULL, bulk INTEGER REFERENCES bulk_actions (id)
    )""",
    "CREATE INDEX actions_by_reviewer ON actions (reviewer, undone, id)",
    "CREATE INDEX actions_by_item ON actions (item)",
    "CREATE INDEX actions_by_bulk ON actions (bulk, undone, id) WHERE bulk IS NOT NULL",
    # One row per bulk accept; its actions refer to it. `updated` is a Unix time, seconds.
    """CREATE TABLE bulk_actions (
        id INTEGER PRIMARY KEY, reviewer TEXT NOT NULL, expected INTEGER NOT NULL, accepted INTEGER NOT NULL DEFAULT 0,
        skipped INTEGER NOT NULL DEFAULT 0, is_finished INTEGER NOT NULL DEFAULT 0, updated REAL NOT NULL
    )""",
)

FIRST_VERSION: Final = 2
"""Oldest version that can be opened. Version 1 had other tables."""

MIGRATIONS: Final[tuple[Sequence[str], ...]] = (_VERSION_2,)
"""Statements that create the first version and lead from each version to the next. Only ever added to."""


class Database:
    """A project's file. Connections come from the pool of the process; threads may share the object.

    Attributes:
        path: The file, absolute.
    """

    def __init__(self, path: Path, pool: ConnectionPool = CONNECTION_POOL) -> None:
        """Open the file, and bring it to the newest version.

        Args:
            path: The file.
            pool: The seam for tests.

        Raises:
            DataError: If it is missing, a link, no project, of a newer version, or cannot be written.
        """
        self.path = path.absolute()
        self._pool = pool
        self._own = threading.local()
        if not path.is_file():
            raise DataError(f"expected a project at {path.parent}, got a folder without {DATABASE}; create one first")
        for ending in ("", "-wal", "-shm", "-journal"):
            if path.with_name(path.name + ending).is_symlink():
                raise DataError(
                    f"The file {path.name}{ending} of the project at {path.parent} is a symbolic link. Nothing was "
                    "written. Replace it with a copy of what it leads to."
                )
        self._identity = pool.identify(self.path)
        self._number = 0
        with self.reading() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != newest_version():  # a project that is up to date can be read where it cannot be written
            with self.writing() as connection:
                migrate(connection, path)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read what was committed; inside ``writing``, its connection, which sees its own changes.

        Read all rows inside the block: the connection is another thread's afterwards.

        Raises:
            DataError: If the file is gone, was replaced, or cannot be read.
        """
        current: PooledConnection | None = getattr(self._own, "pooled", None)
        if current is not None:
            with translate_sqlite_errors(self.path):
                yield current.connection
            return
        with translate_sqlite_errors(self.path):
            pooled = self._pool.acquire(self.path)
            try:
                self._check_identity(pooled)
                self._own.pooled = pooled
                yield pooled.connection
            finally:
                self._own.pooled = None
                self._pool.release(pooled)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is kept, or, with an exception, nothing.

        Raises:
            DataError: If the disk is full, the file is damaged or may not be written, others keep it too long, or it is
                gone or was replaced meanwhile. Then nothing was saved.
        """
        with self.reading() as connection:
            pooled: PooledConnection = self._own.pooled
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                count_transaction(connection)
                self._pool.check(pooled)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            self._pool.check(pooled)  # a change in a file that no one finds must not count as saved

    def close(self) -> None:
        """Close the connections that no one uses now."""
        self._pool.close_idle(self.path)

    def _check_identity(self, pooled: PooledConnection) -> None:
        """See that the file is the one that this object was made for."""
        if pooled.identity != self._identity or pooled.number < self._number:
            raise DataError(replaced_message(self.path))
        self._number = pooled.number


def newest_version() -> int:
    """Version of a new project."""
    return FIRST_VERSION + len(MIGRATIONS) - 1


def create_database(path: Path) -> Database:
    """Make an empty file of the newest version.

    Raises:
        DataError: If the folder cannot be written.
        FileExistsError: If there is one already.
    """
    try:
        path.open("xb").close()
    except FileExistsError:
        raise
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}. Choose another folder, or free some space."
        ) from error
    return Database(path)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Apply what the file's version lacks; to be called inside a transaction.

    Raises:
        DataError: If the file is of a newer version than this program, or of one that it cannot read any more.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if 0 < version < FIRST_VERSION:
        raise DataError(
            f"The project at {path.parent} has version {version}, which this version of HART Studio cannot read. "
            "Create a new project and import the images again."
        )
    if version > newest_version():
        raise DataError(
            f"expected a project of version {newest_version()} or older at {path.parent}, got version {version}; "
            "update HART Studio"
        )
    for statements in MIGRATIONS[max(0, version - FIRST_VERSION + 1) :]:
        for statement in statements:
            connection.execute(statement)
    if version < newest_version():
        connection.execute(f"PRAGMA user_version = {newest_version():d}")


def refuse_damage(connection: sqlite3.Connection, path: Path) -> None:
    """Read every page of a database, and refuse one that is damaged. Takes about a second per GiB.

    Args:
        connection: To the file, or to a copy of it.
        path: The file that the message names.

    Raises:
        DataError: If it is damaged.
    """
    with translate_sqlite_errors(path):
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        problem = str(found).split("\n")[-1]
        raise DataError(
            f"The database {path} is damaged ({problem}). Nothing was written. Restore the file from a backup."
        )


@contextmanager
def translate_sqlite_errors(path: Path) -> Iterator[None]:
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
