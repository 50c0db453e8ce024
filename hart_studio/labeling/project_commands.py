"""Commands for whole projects: ``python -m hart_studio.labeling rename|duplicate|archive|delete|trash|restore``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from hart_studio.errors import InputError
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import (
    TRASH_DAYS,
    archive_project,
    delete_project,
    duplicate_project,
    list_trash,
    purge_trash,
    rename_project,
    restore_project,
)

AddCommand = Callable[[str, Callable[[argparse.Namespace], None], str, str], argparse.ArgumentParser]
"""From a name, a function and a line of help to the parser of the command."""


def add_project_commands(add: AddCommand) -> None:
    """Add the commands to a parser."""
    rename = add("rename", _rename, "change the name of a project; its folder keeps its name", "labels/signs Signs")
    rename.add_argument("project", type=Path, help="folder of the project")
    rename.add_argument("name", help="the new name")

    duplicate = add(
        "duplicate",
        _duplicate,
        "copy a project with its images, labels, history and labeling runs",
        "labels/signs labels/signs-copy",
    )
    duplicate.add_argument("project", type=Path, help="folder of the project")
    duplicate.add_argument("copy", type=Path, help="folder of the copy")
    duplicate.add_argument("--name", default="", help="name of the copy (default: the name of its folder)")

    archive = add("archive", _archive, "hide a project in the list of the page, or show it again", "labels/signs")
    archive.add_argument("project", type=Path, help="folder of the project")
    archive.add_argument("--undo", action="store_true", help="take it out of the archive")

    delete = add(
        "delete",
        _delete,
        f"move a project to the trash, where it stays for {TRASH_DAYS} days",
        "labels/signs --confirm Signs",
    )
    delete.add_argument("project", type=Path, help="folder of the project")
    delete.add_argument("--confirm", required=True, metavar="NAME", help="the name of the project, to be sure")

    trash = add(
        "trash", _list_trash, f"list deleted projects, and remove those of more than {TRASH_DAYS} days", "labels"
    )
    trash.add_argument("root", type=Path, help="folder that the projects lie in")

    restore = add("restore", _restore, "take a project out of the trash", "labels ENTRY")
    restore.add_argument("root", type=Path, help="folder that the projects lie in")
    restore.add_argument("entry", help="its id in the list of the trash")


def _rename(options: argparse.Namespace) -> None:
    project = Project(options.project)
    rename_project(project, options.name)
    print(f"renamed to {project.name!r} in {project.folder}")


def _duplicate(options: argparse.Namespace) -> None:
    copy = duplicate_project(Project(options.project), options.copy, options.name or options.copy.resolve().name)
    print(f"copied to {copy.name!r} in {copy.folder}: {copy.count()} items")


def _archive(options: argparse.Namespace) -> None:
    project = Project(options.project)
    archive_project(project, is_archived=not options.undo)
    print(f"{'unarchived' if options.undo else 'archived'} {project.name!r}")


def _delete(options: argparse.Namespace) -> None:
    project = Project(options.project)
    entry = delete_project(project, options.confirm)
    print(f"moved to the trash for {TRASH_DAYS} days: {entry}")
    print(f"restore it with: python -m hart_studio.labeling restore {project.folder.parent} {entry}")


def _list_trash(options: argparse.Namespace) -> None:
    if not options.root.is_dir():
        raise InputError(f"There is no folder {options.root}. Name the folder that the projects lie in.")
    purge_trash(options.root)
    entries = list_trash(options.root)
    for entry in entries:
        print(f"{entry.id}  {entry.name}  {entry.days_left} days left")
    if not entries:
        print("the trash is empty")


def _restore(options: argparse.Namespace) -> None:
    project = restore_project(options.root, options.entry)
    print(f"restored {project.name!r} to {project.folder}")
