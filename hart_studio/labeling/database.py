"""SQLite file of a labeling project: schema, connections, transactions.

Many processes may use one project: writers wait for each other, readers never wait (write-ahead log). A committed
transaction survives a crash of the process and of the machine.
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
"""File name in the project folder."""

_VERSION_3: Final = (
    """CREATE TABLE project (
        only INTEGER PRIMARY KEY CHECK (only = 1), name TEXT NOT NULL, created_at TEXT NOT NULL,
        archived_at TEXT, settings TEXT NOT NULL
    )""",
    # Paths inside the project folder are relative to it, so that a copied project finds its images.
    """CREATE TABLE images (
        id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, path TEXT NOT NULL,
        width INTEGER NOT NULL, height INTEGER NOT NULL, domain TEXT NOT NULL DEFAULT ''
    )""",
    # Columns beside the JSON repeat values for filters and sorting; both are written together.
    """CREATE TABLE items (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, image INTEGER NOT NULL REFERENCES images (id),
        sample TEXT NOT NULL, category TEXT NOT NULL, search_text TEXT NOT NULL, evidence TEXT NOT NULL,
        audit_hash REAL NOT NULL, label TEXT NOT NULL, revision INTEGER NOT NULL, status TEXT NOT NULL, score REAL,
        reviewer TEXT NOT NULL, review_priority REAL, required_reviews INTEGER NOT NULL DEFAULT 1,
        boxes INTEGER GENERATED ALWAYS AS (json_array_length(label, '$.boxes')) VIRTUAL
    )""",
    # Review queue. It contains status, score and category so that filters on them read no table rows.
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
    # Only the quality report reads this table; see `quality`.
    "CREATE TABLE gold_boxes (item TEXT PRIMARY KEY REFERENCES items (id), boxes TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE imports (
        id INTEGER PRIMARY KEY, at TEXT NOT NULL, source TEXT NOT NULL, added INTEGER NOT NULL, known INTEGER NOT NULL,
        invalid INTEGER NOT NULL
    )""",
    """CREATE TABLE invalid_rows (
        import INTEGER NOT NULL REFERENCES imports (id), location TEXT NOT NULL, reason TEXT NOT NULL
    )""",
    "CREATE TABLE runs (id TEXT PRIMARY KEY, at TEXT NOT NULL, model TEXT NOT NULL) WITHOUT ROWID",
    # One row per item of the run; the label is set when the item is done.
    """CREATE TABLE predictions (
        run TEXT NOT NULL REFERENCES runs (id), item TEXT NOT NULL REFERENCES items (id), label TEXT,
        PRIMARY KEY (run, item)
    ) WITHOUT ROWID""",
    """CREATE TABLE item_locks (
        item TEXT PRIMARY KEY REFERENCES items (id), reviewer TEXT NOT NULL, expires_at REAL NOT NULL
    ) WITHOUT ROWID""",
    # `undone` is 0, or the id of the reviewer's newest action at the time of the undo.
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

FIRST_VERSION: Final = 3
"""Oldest version that can be opened. Earlier ones had other tables or fields."""

MIGRATIONS: Final[tuple[Sequence[str], ...]] = (_VERSION_3,)
"""Statements that create the first version and upgrade each version to the next. Append only."""


class Database:
    """SQLite database of a project. Uses the connection pool of the process. Thread-safe.

    Attributes:
        path: Absolute path of the file.
    """

    def __init__(self, path: Path, pool: ConnectionPool = CONNECTION_POOL) -> None:
        """Open the file and migrate it to the newest version.

        Raises:
            DataError: If the file is missing, a link, not a project, of a newer version, or cannot be written.
        """
        self.path = path.absolute()
        self._pool = pool
        self._own = threading.local()
        if not path.is_file():
            raise DataError(f"No project at {path.parent}: the folder has no {DATABASE}. Create a project first.")
        for ending in ("", "-wal", "-shm", "-journal"):
            if path.with_name(path.name + ending).is_symlink():
                raise DataError(
                    f"The file {path.name}{ending} of the project at {path.parent} is a symbolic link. Nothing was "
                    "written. Replace it with a copy of its target."
                )
        self._identity = pool.identify(self.path)
        self._number = 0
        with self.reading() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != newest_version():  # a read-only project of the newest version can be opened
            with self.writing() as connection:
                migrate(connection, path)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Acquire a connection to read committed data; inside ``writing``, the same connection with its own changes.

        Fetch all rows inside the block: afterwards the connection may belong to another thread.

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
        """Run a transaction: committed at the end, rolled back on an exception.

        Raises:
            DataError: If the disk is full, the file is damaged, read-only or locked for too long, or it is gone or was
                replaced since. Then nothing was saved.
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
            self._pool.check(pooled)  # a change in a deleted file must not count as saved

    def close(self) -> None:
        """Close the idle connections to the file."""
        self._pool.close_idle(self.path)

    def _check_identity(self, pooled: PooledConnection) -> None:
        """Check that the file is the one that this object was created for."""
        if pooled.identity != self._identity or pooled.number < self._number:
            raise DataError(replaced_message(self.path))
        self._number = pooled.number


def newest_version() -> int:
    """Schema version of a new project."""
    return FIRST_VERSION + len(MIGRATIONS) - 1


def create_database(path: Path) -> Database:
    """Create an empty database of the newest version.

    Raises:
        DataError: If the folder cannot be written.
        FileExistsError: If the file exists.
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
    """Upgrade the database to the newest version. Call inside a transaction.

    Raises:
        DataError: If the version is newer than this program, or no longer supported.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if 0 < version < FIRST_VERSION:
        raise DataError(
            f"The project at {path.parent} has version {version}, which this version of HART Studio cannot read. "
            "Create a new project and import the images again."
        )
    if version > newest_version():
        raise DataError(
            f"The project at {path.parent} has version {version}, but this HART Studio reads only version "
            f"{newest_version()} or older. Update HART Studio."
        )
    for statements in MIGRATIONS[max(0, version - FIRST_VERSION + 1) :]:
        for statement in statements:
            connection.execute(statement)
    if version < newest_version():
        connection.execute(f"PRAGMA user_version = {newest_version():d}")


def refuse_damage(connection: sqlite3.Connection, path: Path) -> None:
    """Check every page of a database. Takes about a second per GiB.

    Args:
        connection: Connection to the file, or to a copy of it.
        path: File named in the error message.

    Raises:
        DataError: If the database is damaged.
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
    """Translate SQLite errors into messages that say what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text:
            reason, remedy = "The disk is full", "Free some space. Saved data is kept"
        elif "disk I/O" in text:
            reason = "Reading or writing failed"
            remedy = "Check whether the disk is full or damaged. Saved data is kept"
        elif "readonly" in text or "unable to open" in text:
            reason, remedy = "It cannot be written", "Check the permissions of the folder and its files"
        elif "locked" in text or "busy" in text:
            reason, remedy = "Other programs have locked it", "Try again, or close them"
        else:
            reason, remedy = text, "Try again"
        raise DataError(f"Cannot use the project at {path.parent}. {reason}. {remedy}.") from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise DataError(f"{path} is no labeling project, or damaged ({error}). Restore it from a backup.") from error
