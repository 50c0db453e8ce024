"""Create, rename, duplicate, archive, delete and restore labeling projects.

A project is created in a draft folder, ``.draft-*``, that is renamed at the end, so it is never visible half-made. A
deleted project is moved to the trash, ``.trash/`` beside its folder, and kept for a week.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from hart_studio.errors import DataError, HartError, InputError
from hart_studio.files import to_printable, to_stored_path
from hart_studio.labeling.calibration_lookup import CALIBRATION
from hart_studio.labeling.connection_pool import CONNECTION_POOL, connect, make_first_number
from hart_studio.labeling.database import DATABASE, Database, create_database, refuse_damage, translate_sqlite_errors
from hart_studio.labeling.project import RUNS, Project, ProjectSettings, check_name
from hart_studio.labeling.project_locks import check_links, hold_project
from hart_studio.runs.layout import RunLayout, is_run_id
from hart_studio.runs.status import read_status, write_status

DRAFT_PREFIX: Final = ".draft-"
"""Name prefix of draft folders."""

TRASH: Final = ".trash"
"""Folder of deleted projects, beside the project folders."""

TRASH_DAYS: Final = 7
"""Days until a deleted project is purged. Project default."""

_ENTRY: Final = re.compile(r"(\d{8}-\d{6})-[0-9a-f]{6}-(.+)", re.DOTALL)
_TIME: Final = "%Y%m%d-%H%M%S"
_DAY_SECONDS: Final = 86400.0
_MAX_NUMBERS: Final = 1000
_NOT_COPIED: Final = frozenset({"lock", "stop", "pause", "launch.json", "logs"})


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


class TrashEntry(NamedTuple):
    """A deleted project."""

    id: str
    """Name of its folder in the trash."""
    name: str
    """Display name."""
    deleted_at: datetime
    """Time of deletion."""

    @property
    def days_left(self) -> int:
        """Days until it is purged, rounded up."""
        seconds = TRASH_DAYS * _DAY_SECONDS - (datetime.now(UTC) - self.deleted_at).total_seconds()
        return max(0, -int(-seconds // _DAY_SECONDS))


def duplicate_project(project: Project, folder: Path, name: str) -> Project:
    """Copy a project, also during reviews: the copy holds the state at its start.

    Copied: items, labels with history, reviews, gold boxes, imports, images in the project folder, the calibration, and
    labeling runs with settings and results. Not copied: exports, logs and locks. A running labeling run is stopped in
    the copy, and can be resumed there.

    Args:
        project: The project.
        folder: Folder of the copy, missing or empty, outside of the project folder.
        name: Display name of the copy.

    Raises:
        InputError: If the name or folder is invalid, or a link leads out of the project.
        DataError: If the project is damaged, or the copy cannot be written; the draft is removed.
    """
    check_place(folder)
    title = check_name(name)
    check_links(project)
    if project.folder in folder.resolve().parents:
        raise InputError(f"{folder} is inside the copied project. Choose a folder outside of it.")
    taken = InputError(f"A project or another file is in {folder} already. Choose a new or an empty folder.")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise taken
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = make_draft(folder.parent)
        try:
            # Images are written before their rows, so the copied rows refer to existing images.
            _copy_database(project.database, draft / DATABASE, title)
            _copy_files(project.images, draft / project.images.name)
            _copy_runs(project.runs, draft / RUNS)
            if (project.folder / CALIBRATION).is_file():
                shutil.copy2(project.folder / CALIBRATION, draft / CALIBRATION)
            publish_draft(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except FileExistsError as error:
        raise taken from error
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):  # someone filled the folder meanwhile
            raise taken from error
        raise DataError(
            f"The project cannot be copied to {folder}: {error.strerror or error}. Free some space, or choose another "
            "folder."
        ) from error
    return Project(folder)


def rename_project(project: Project, name: str) -> None:
    """Change the display name; the folder keeps its name.

    Raises:
        InputError: If the name is invalid, or a labeling run or an import is running.
        DataError: If the project is damaged.
    """
    check_name(name)
    with hold_project(project):
        _check_intact(project.database)
        project.rename(name)


def archive_project(project: Project, *, is_archived: bool = True) -> None:
    """Archive or unarchive a project. Lists hide archived projects.

    Raises:
        InputError: If a labeling run or an import is running.
        DataError: If the project is damaged; a damaged project can be unarchived.
    """
    with hold_project(project):
        if is_archived:
            _check_intact(project.database)
        project.set_archived(is_archived=is_archived)


def delete_project(project: Project, confirmation: str, *, is_kept: bool = True) -> str:
    """Move a project to the trash, and purge projects deleted more than a week ago.

    Args:
        project: The project.
        confirmation: Project name, typed by the user.
        is_kept: Whether it can be restored; otherwise it is deleted permanently.

    Returns:
        Id of the trash entry; empty after a permanent deletion.

    Raises:
        InputError: If the confirmation differs from the name, or a labeling run or an import is running.
        DataError: If the folder cannot be moved, or the trash is a link.
    """
    if confirmation.strip() != project.name:
        raise InputError(f"The name does not match. Type {project.name!r} to delete the project.")
    trash = project.folder.parent / TRASH
    if trash.is_symlink():
        raise DataError(f"The trash {trash} is a symbolic link. Remove the link; a new folder is created.")
    entry = f"{datetime.now(UTC):{_TIME}}-{secrets.token_hex(3)}-{project.folder.name}"
    with hold_project(project):
        CONNECTION_POOL.close_idle(project.folder)
        try:
            trash.mkdir(exist_ok=True)
            project.folder.rename(trash / entry)
        except OSError as error:
            raise DataError(
                f"The project at {project.folder} cannot be moved to the trash: {error.strerror}. Check the "
                "permissions of the folder."
            ) from error
    if not is_kept:
        shutil.rmtree(trash / entry, ignore_errors=True)
    purge_trash(project.folder.parent)
    return entry if is_kept else ""


def list_trash(root: Path) -> list[TrashEntry]:
    """List the deleted projects below a root, newest first."""
    found = []
    for folder, deleted_at, name in _trash_folders(root):
        try:
            title = Project(folder).name
        except HartError:
            title = name
        found.append(TrashEntry(folder.name, title, deleted_at))
    return sorted(found, key=lambda entry: entry.deleted_at, reverse=True)


def restore_project(root: Path, entry: str) -> Project:
    """Restore a deleted project to its folder, or to ``NAME-2`` etc. if the folder exists.

    Args:
        root: Folder of all projects.
        entry: Id in the trash; may come from a client.

    Raises:
        InputError: If the entry does not exist.
        DataError: If it cannot be moved or opened.
    """
    place = next((each for each in _trash_folders(root) if each[0].name == entry), None)
    if place is None:
        raise InputError(f"The trash holds no project {entry[:80]!r}. It may have been restored or removed already.")
    folder, _, name = place
    CONNECTION_POOL.close_idle(folder)
    target = choose_folder(root, name)
    try:
        folder.rename(target)
    except OSError as error:
        raise DataError(f"The project cannot be restored to {target}: {error.strerror}. Try again.") from error
    return Project(target)


def purge_trash(root: Path, keep_days: float = TRASH_DAYS) -> int:
    """Purge projects that were deleted long ago, and drafts left by a crash.

    Returns:
        Number of projects removed.
    """
    now, count = datetime.now(UTC), 0
    for folder, deleted_at, _ in _trash_folders(root):
        if (now - deleted_at).total_seconds() > keep_days * _DAY_SECONDS:
            CONNECTION_POOL.close_idle(folder)
            shutil.rmtree(folder, ignore_errors=True)
            count += not folder.exists()
    for draft in root.glob(f"{DRAFT_PREFIX}*") if root.is_dir() else ():
        if not draft.is_symlink() and time.time() - draft.stat().st_mtime > _DAY_SECONDS:
            shutil.rmtree(draft, ignore_errors=True)
    return count


def choose_folder(root: Path, name: str) -> Path:
    """Return the folder of that name, or ``NAME-2`` etc. if it exists.

    Raises:
        InputError: If too many of them exist.
    """
    numbered = (f"{name[:60].rstrip('-')}-{number}" for number in range(2, _MAX_NUMBERS))
    for each in (name, *numbered):
        if not (root / each).exists():
            return root / each
    raise InputError(f"Too many projects are named like {name!r}. Choose another name.")


def _trash_folders(root: Path) -> list[tuple[Path, datetime, str]]:
    """(folder, time of deletion, original folder name) of all trash entries."""
    trash = root / TRASH
    if not trash.is_dir() or trash.is_symlink():
        return []
    found = []
    for folder in trash.iterdir():
        match = _ENTRY.fullmatch(folder.name)
        if match and folder.is_dir() and not folder.is_symlink():
            try:
                deleted_at = datetime.strptime(match[1], _TIME).replace(tzinfo=UTC)
            except ValueError:
                continue
            found.append((folder, deleted_at, match[2]))
    return found


def _copy_database(database: Database, path: Path, name: str) -> None:
    path.open("xb").close()
    with database.reading() as source, translate_sqlite_errors(path):
        target = connect(path)
        try:
            source.backup(target)  # an atomic snapshot, while others write
            refuse_damage(target, database.path)
            target.execute("BEGIN")
            target.execute(
                "UPDATE project SET name = ?, created_at = ?, archived_at = NULL", (name, datetime.now(UTC).isoformat())
            )
            target.execute("DELETE FROM item_locks")
            target.execute(f"PRAGMA application_id = {make_first_number():d}")
            target.execute("COMMIT")
        finally:
            target.close()


def _check_intact(database: Database) -> None:
    with database.reading() as connection:
        refuse_damage(connection, database.path)


def _copy_files(source: Path, target: Path, excluded: Collection[str] = ()) -> None:
    """Copy a folder without links and temporary files."""
    if not source.is_dir():
        return
    target.mkdir()
    for path in source.iterdir():
        if path.is_symlink() or path.name in excluded or path.name.endswith(".tmp"):
            continue
        if path.is_dir():
            _copy_files(path, target / path.name)
        elif path.is_file():
            shutil.copy2(path, target / path.name)


def _copy_runs(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    target.mkdir()
    for folder in source.iterdir():
        if not is_run_id(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        _copy_files(folder, target / folder.name, _NOT_COPIED)
        copy = RunLayout(target / folder.name)
        copy.logs.mkdir(exist_ok=True)
        try:
            status = read_status(copy)
        except DataError:
            continue
        if status.is_active:  # its process belongs to the original
            write_status(copy, status.replace(state="stopped", pid=None, pid_start=None, phase=""))
