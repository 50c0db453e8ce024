"""The labeling projects below one root, by ids that may come from a client."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from hart_studio.errors import HartError, InputError
from hart_studio.files import resolve_inside
from hart_studio.labeling.database import DATABASE
from hart_studio.labeling.project import Project, ProjectSettings, check_name
from hart_studio.labeling.project_creation import create_project
from hart_studio.labeling.project_lifecycle import duplicate_project, rename_project, restore_project

_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_MAX_NUMBERS: Final = 1000


class ProjectEntry(NamedTuple):
    """A project in the list."""

    id: str
    """Name of its folder."""
    name: str
    """What people call it; the id when it cannot be opened."""
    items: int
    """Number of items."""
    is_archived: bool
    """Whether lists hide it."""
    problem: str
    """Why it cannot be opened; empty when it can."""


_FileStamp = tuple[int, int, int]


class ProjectStore:
    """Finds and makes projects.

    Attributes:
        root: Folder of all projects; may be missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, tuple[_FileStamp | None, ProjectEntry]] = {}

    def open_project(self, project_id: object) -> Project:
        """The project of an id.

        Raises:
            InputError: If there is none.
            DataError: If it cannot be opened.
        """
        if not isinstance(project_id, str) or not _ID.fullmatch(project_id):
            raise InputError(f"expected the name of a project, got {str(project_id)[:40]!r}; choose one from the list")
        folder = resolve_inside(self.root, project_id)
        if not (folder / DATABASE).is_file() or folder.name != project_id:  # a link to another project is none
            raise InputError(f"expected a project, got {project_id!r}, which is not there; reload the page")
        return Project(folder)

    def list_projects(self) -> list[ProjectEntry]:
        """All projects by id. One that cannot be opened is listed with its problem."""
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
        """Make an empty project.

        Args:
            name: What people call it.
            settings: What holds for the whole project.

        Raises:
            InputError: If the name cannot be used, or a project has it.
        """
        title, entries = check_name(name), self.list_projects()
        _refuse_taken_name(title, entries)
        return create_project(self._choose_folder(title, entries), title, settings)

    def rename_project(self, project: Project, name: str) -> None:
        """Change the name that people see; the id stays.

        Raises:
            InputError: If the name cannot be used, another project has it, or a run or an import works on the project.
        """
        title = check_name(name)
        _refuse_taken_name(title, [each for each in self.list_projects() if each.id != project.folder.name])
        rename_project(project, title)

    def duplicate_project(self, project: Project, name: str) -> Project:
        """Copy a project; see ``project_lifecycle.duplicate_project``.

        Raises:
            InputError: If the name cannot be used, or a project has it.
        """
        title, entries = check_name(name), self.list_projects()
        _refuse_taken_name(title, entries)
        return duplicate_project(project, self._choose_folder(title, entries), title)

    def restore_project(self, entry: str) -> Project:
        """Take a project out of the trash; see ``project_lifecycle.restore_project``."""
        return restore_project(self.root, entry)

    def _choose_folder(self, title: str, entries: Sequence[ProjectEntry]) -> Path:
        """Folder for a new project of a name. A project that was renamed may have the one that is meant for it."""
        slug = to_slug(title)
        names = {each.id: each.name for each in entries}
        if slug in names and to_slug(names[slug]) == slug:
            raise InputError(f"A project named {title!r}, or much alike, already exists. Choose another name.")
        return next(path for path in self._numbered_folders(slug) if not path.exists())

    def _numbered_folders(self, slug: str) -> Iterator[Path]:
        yield self.root / slug
        for number in range(2, _MAX_NUMBERS):
            yield self.root / f"{slug[:60].rstrip('-')}-{number}"
        raise InputError(f"Too many projects are named like {slug!r}. Choose another name.")


def _describe(folder: Path) -> ProjectEntry:
    try:
        project = Project(folder)
        return ProjectEntry(folder.name, project.name, project.count(), project.archived_at is not None, "")
    except HartError as error:
        return ProjectEntry(folder.name, folder.name, 0, is_archived=False, problem=str(error))


def _stamp_at_rest(folder: Path) -> _FileStamp | None:
    """Inode, size and time of the file of a project that no program has open; None when one has.

    Without a write-ahead log the file holds everything, so what was read from it holds until it changes.
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
    """The name of a project's folder: plain letters, digits and hyphens, at most 64.

    A name in another script, which leaves none of them, has a folder that is named by its hash.
    """
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].strip("-")
    return slug or f"project-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
