"""Making labeling projects: in a draft folder, which becomes the project in one step."""

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
"""Beginning of the name of a folder in which a project is made."""

TRASH: Final = ".trash"
"""Folder of deleted projects, beside the folders of the others."""


def create_project(folder: Path, name: str = "", settings: ProjectSettings | None = None) -> Project:
    """Make an empty project.

    Args:
        folder: Made when missing; must hold no project yet.
        name: What people call it; the folder's name by default.
        settings: What holds for the whole project.

    The project is made in a draft folder beside it and moved to its place at the end, so no one sees half of one.

    Raises:
        InputError: If there is a project already, also one that was made at the same moment, the folder is reserved, or
            the name is empty or holds control characters.
        DataError: If the folder cannot be written, or the disk is full; nothing is left behind.
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
        raise DataError(f"The folder {folder} cannot be made: {error.strerror}. Choose another one.") from error
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
        raise DataError(f"The project {folder} cannot be made: {error.strerror}. Choose another folder.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Project(folder)


def check_place(folder: Path) -> None:
    """Check that a new project may lie in a folder.

    Raises:
        InputError: If it is the trash, a folder in it, or named like a draft, all of which are removed after some days,
            or if its name is not UTF-8.
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
    """Make an empty folder for a new project, beside the place where it will be.

    Raises:
        OSError: If it cannot be made.
    """
    draft = parent / f"{DRAFT_PREFIX}{secrets.token_hex(8)}"
    draft.mkdir()
    return draft


def publish_draft(draft: Path, folder: Path) -> None:
    """Give a whole project its place in one step. Of two that want the same place, one gets it.

    Args:
        draft: The folder of the project, which no connection is open to.
        folder: Missing or empty; for a draft that holds nothing but a database also with other files than a project's.

    Raises:
        FileExistsError: If a project is there already.
        OSError: If it cannot be moved.
    """
    try:
        draft.rename(folder)  # replaces nothing but an empty folder
    except OSError:
        # More than one file cannot get into a folder in one step, and a project without its files is none.
        if not folder.is_dir() or [path.name for path in draft.iterdir()] != [DATABASE]:
            raise
        os.link(draft / DATABASE, folder / DATABASE)
