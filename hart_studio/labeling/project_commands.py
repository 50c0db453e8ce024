"""Project commands: ``python -m hart_studio.labeling rename|duplicate|archive|delete|trash|restore``."""

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
"""Takes name, function, help text and example of a subcommand; returns its parser."""


def add_project_commands(add: AddCommand) -> None:
    """Add the subcommands to a parser."""
    rename = add("rename", _rename, "rename a project; its folder is unchanged", "labels/signs Signs")
    rename.add_argument("project", type=Path, help="project folder")
    rename.add_argument("name", help="new name")

    duplicate = add(
        "duplicate",
        _duplicate,
        "copy a project with images, labels, history and labeling runs",
        "labels/signs labels/signs-copy",
    )
    duplicate.add_argument("project", type=Path, help="project folder")
    duplicate.add_argument("copy", type=Path, help="folder of the copy")
    duplicate.add_argument("--name", default="", help="name of the copy (default: the folder's name)")

    archive = add("archive", _archive, "archive or unarchive a project", "labels/signs")
    archive.add_argument("project", type=Path, help="project folder")
    archive.add_argument("--undo", action="store_true", help="unarchive the project")

    delete = add(
        "delete", _delete, f"move a project to the trash for {TRASH_DAYS} days", "labels/signs --confirm Signs"
    )
    delete.add_argument("project", type=Path, help="project folder")
    delete.add_argument("--confirm", required=True, metavar="NAME", help="project name, as confirmation")

    trash = add("trash", _list_trash, f"list deleted projects, and purge those older than {TRASH_DAYS} days", "labels")
    trash.add_argument("root", type=Path, help="folder that contains the projects")

    restore = add("restore", _restore, "restore a project from the trash", "labels ENTRY")
    restore.add_argument("root", type=Path, help="folder that contains the projects")
    restore.add_argument("entry", help="id from the trash list")


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
        raise InputError(f"There is no folder {options.root}. Pass the folder that contains the projects.")
    purge_trash(options.root)
    entries = list_trash(options.root)
    for entry in entries:
        print(f"{entry.id}  {entry.name}  {entry.days_left} days left")
    if not entries:
        print("the trash is empty")


def _restore(options: argparse.Namespace) -> None:
    project = restore_project(options.root, options.entry)
    print(f"restored {project.name!r} to {project.folder}")
