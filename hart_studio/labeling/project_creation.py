"""Making labeling projects: in a draft folder, which becomes the project in one step."""

from __future__ import annotations

import os
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hart_studio.errors import DataError, InputError
from hart_studio.labeling.database import DATABASE, create_database
from hart_studio.labeling.project import Project, ProjectSettings, check_name

DRAFT_PREFIX: Final = ".draft-"
"""Beginning of the name of a folder in which a project is made."""


def create_project(folder: Path, name: str = "", settings: ProjectSettings | None = None) -> Project:
    """Make an empty project.

    Args:
        folder: Made when missing; must hold no project yet.
        name: What people call it; the folder's name by default.
        settings: What holds for the whole project.

    The project is made in a draft folder beside it and moved to its place at the end, so nobody sees half of one.

    Raises:
        InputError: If there is a project already, also one that was made at the same moment, or the name is empty or
            holds control characters.
        DataError: If the folder cannot be written, or the disk is full; nothing is left behind.
    """
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
        folder: Missing, empty, or with other files than a project's.

    Raises:
        FileExistsError: If a project is there already.
        OSError: If it cannot be moved.
    """
    try:
        draft.rename(folder)  # replaces nothing but an empty folder
    except OSError:
        if not folder.is_dir():
            raise
        os.link(draft / DATABASE, folder / DATABASE)
