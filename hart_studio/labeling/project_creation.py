"""Create labeling projects atomically: in a draft folder that is renamed at the end."""

from __future__ import annotations

import os
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hart_studio.errors import DataError, InputError
from hart_studio.files import to_printable, to_stored_path
from hart_studio.labeling.database import DATABASE, create_database
from hart_studio.labeling.project import Project, ProjectSettings, check_name

DRAFT_PREFIX: Final = ".draft-"
"""Name prefix of draft folders."""

TRASH: Final = ".trash"
"""Folder of deleted projects, beside the project folders."""


def create_project(folder: Path, name: str = "", settings: ProjectSettings | None = None) -> Project:
    """Create an empty project.

    Args:
        folder: Project folder; created if missing; must not hold a project.
        name: Display name; the folder's name by default.
        settings: Settings of the project.

    The project is created in a draft folder beside it and renamed at the end, so it is never visible half-made.

    Raises:
        InputError: If a project exists already, the folder is reserved, or the name is empty or has control
            characters.
        DataError: If the folder cannot be written, or the disk is full; the draft is removed.
    """
    check_place(folder)
    title = check_name(name or folder.resolve().name)
    path = folder / DATABASE
    taken = InputError(f"A project is in {folder} already. Open it, or choose another folder.")
    if path.exists():
        raise taken
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = make_draft(folder.parent)
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be created: {error.strerror}. Choose another one.") from error
    try:
        database = create_database(draft / DATABASE)
        with database.writing() as connection:
            connection.execute(
                "INSERT INTO project (only, name, created_at, settings) VALUES (1, ?, ?, ?)",
                (title, datetime.now(UTC).isoformat(), (settings or ProjectSettings()).model_dump_json()),
            )
        database.close()
        publish_draft(draft, folder)
    except FileExistsError as error:
        raise taken from error
    except OSError as error:
        raise DataError(f"The project {folder} cannot be created: {error.strerror}. Choose another folder.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Project(folder)


def check_place(folder: Path) -> None:
    """Check that a folder may hold a new project.

    Raises:
        InputError: If it is the trash, inside it, or named like a draft, because these are purged, or if its name is
            not UTF-8.
    """
    place = folder.resolve()
    if any(name == TRASH or name.startswith(DRAFT_PREFIX) for name in place.parts):
        raise InputError(
            f"{to_stored_path(folder)} is reserved for deleted and unfinished projects, which are removed after some "
            "days. Choose another folder."
        )
    if to_printable(place.name) != place.name:
        raise InputError(f"The folder name {to_stored_path(place.name)!r} is not UTF-8. Choose another folder name.")


def make_draft(parent: Path) -> Path:
    """Create a draft folder beside the target of a new project.

    Raises:
        OSError: If it cannot be created.
    """
    draft = parent / f"{DRAFT_PREFIX}{secrets.token_hex(8)}"
    draft.mkdir()
    return draft


def publish_draft(draft: Path, folder: Path) -> None:
    """Move a complete draft to its target atomically. Of two concurrent calls, one succeeds.

    Args:
        draft: Draft folder; no connection to it may be open.
        folder: Target, missing or empty; if the draft holds only a database, the target may hold unrelated files.

    Raises:
        FileExistsError: If a project exists there.
        OSError: If it cannot be moved.
    """
    try:
        draft.rename(folder)  # replaces nothing but an empty folder
    except OSError:
        # Several files cannot be moved into an existing folder atomically.
        if not folder.is_dir() or [path.name for path in draft.iterdir()] != [DATABASE]:
            raise
        os.link(draft / DATABASE, folder / DATABASE)
