"""Labeling projects below one root, by ids that may come from a client."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from hart_studio.errors import HartError, InputError
from hart_studio.files import resolve_inside
from hart_studio.labeling.database import DATABASE
from hart_studio.labeling.project import Project, ProjectSettings, check_name
from hart_studio.labeling.project_lifecycle import (
    choose_folder,
    create_project,
    duplicate_project,
    rename_project,
    restore_project,
)

_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")


class ProjectEntry(NamedTuple):
    """A project in a list."""

    id: str
    """Name of its folder."""
    name: str
    """Display name; the id if the project cannot be opened."""
    items: int
    is_archived: bool
    problem: str
    """Why it cannot be opened; empty if it can."""


_FileStamp = tuple[int, int, int]


class ProjectStore:
    """Opens and creates projects.

    Attributes:
        root: Folder of all projects; may not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, tuple[_FileStamp | None, ProjectEntry]] = {}

    def open_project(self, project_id: object) -> Project:
        """Open a project by id.

        Raises:
            InputError: If it does not exist.
            DataError: If it cannot be opened.
        """
        if not isinstance(project_id, str) or not _ID.fullmatch(project_id):
            raise InputError(f"Invalid project id {str(project_id)[:40]!r}. Choose a project from the list.")
        folder = resolve_inside(self.root, project_id)
        if not (folder / DATABASE).is_file() or folder.name != project_id:  # links to other projects do not count
            raise InputError(f"No project {project_id!r}. Reload the page.")
        return Project(folder)

    def list_projects(self) -> list[ProjectEntry]:
        """List all projects by id. A project that cannot be opened is listed with its problem."""
        found = []
        for folder in sorted(self.root.iterdir()) if self.root.is_dir() else []:
            if _ID.fullmatch(folder.name) and (folder / DATABASE).is_file() and not folder.is_symlink():
                stamp = _stamp_at_rest(folder)
                known = self._known.get(folder.name)
                if stamp is None or known is None or known[0] != stamp or known[1].problem:
                    known = (stamp, _describe(folder))
                    self._known[folder.name] = known
                found.append(known[1])
        return found

    def create_project(self, name: str, settings: ProjectSettings | None = None) -> Project:
        """Create an empty project.

        Raises:
            InputError: If the name is invalid or taken.
        """
        title, entries = check_name(name), self.list_projects()
        _refuse_taken_name(title, entries)
        return create_project(self._choose_folder(title, entries), title, settings)

    def rename_project(self, project: Project, name: str) -> None:
        """Change the display name; the id is unchanged.

        Raises:
            InputError: If the name is invalid or taken, or a run or an import is active.
        """
        title = check_name(name)
        _refuse_taken_name(title, [each for each in self.list_projects() if each.id != project.folder.name])
        rename_project(project, title)

    def duplicate_project(self, project: Project, name: str) -> Project:
        """Copy a project; see ``project_lifecycle.duplicate_project``.

        Raises:
            InputError: If the name is invalid or taken.
        """
        title, entries = check_name(name), self.list_projects()
        _refuse_taken_name(title, entries)
        return duplicate_project(project, self._choose_folder(title, entries), title)

    def restore_project(self, entry: str) -> Project:
        """Restore a project from the trash; see ``project_lifecycle.restore_project``."""
        return restore_project(self.root, entry)

    def _choose_folder(self, title: str, entries: Sequence[ProjectEntry]) -> Path:
        """Choose the folder of a new project. A renamed project may occupy the folder of that name."""
        slug = to_slug(title)
        names = {each.id: each.name for each in entries}
        if slug in names and to_slug(names[slug]) == slug:
            raise InputError(f"A project named {title!r}, or with a similar name, already exists. Choose another name.")
        return choose_folder(self.root, slug)


def _describe(folder: Path) -> ProjectEntry:
    try:
        project = Project(folder)
        return ProjectEntry(folder.name, project.name, project.count(), project.archived_at is not None, "")
    except HartError as error:
        return ProjectEntry(folder.name, folder.name, 0, is_archived=False, problem=str(error))


def _stamp_at_rest(folder: Path) -> _FileStamp | None:
    """Inode, size and time of a project file that no program has open; None if one has.

    Without a write-ahead log the file is complete, so values read from it stay valid until it changes.
    """
    try:
        if (folder / f"{DATABASE}-wal").exists():
            return None
        found = (folder / DATABASE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _refuse_taken_name(title: str, entries: Sequence[ProjectEntry]) -> None:
    if any(each.name.casefold() == title.casefold() for each in entries):
        raise InputError(f"A project named {title!r} already exists. Choose another name.")


def to_slug(name: str) -> str:
    """Folder name of a project: ASCII letters, digits and hyphens, at most 64.

    For a name without any of these characters it is a hash.
    """
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].strip("-")
    return slug or f"project-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
