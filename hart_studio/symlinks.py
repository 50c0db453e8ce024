"""Protection against symbolic links in copied runs and projects: nothing is written through them.

A link in such a folder may point to any file of the user. Two checks apply: a folder with a link out of it is
refused before work starts, and files that are appended to are opened without following links.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from hart_studio.errors import InputError


def open_append_nofollow(path: Path, *, is_buffered: bool = True) -> BinaryIO:
    """Open a regular file for reading and appending.

    Args:
        path: The file, created if missing.
        is_buffered: Whether writes are buffered.

    Raises:
        OSError: If it is a link or not a regular file, or cannot be opened.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    opened: Any = os.fdopen(number, "a+b", buffering=-1 if is_buffered else 0)
    return cast("BinaryIO", opened)


def unlink_symlink(path: Path) -> None:
    """Remove a path if it is a symbolic link; its target stays.

    Raises:
        OSError: If it cannot be removed.
    """
    if path.is_symlink():
        path.unlink(missing_ok=True)


def reject_external_symlinks(folder: Path, names: Iterable[str] | None = None) -> None:
    """Check that no symbolic link in a folder points outside it. The folder itself may be a link.

    Args:
        folder: A run or a project.
        names: Files and folders to check, recursively; None = everything.

    Raises:
        InputError: If there is such a link; the message names it.
    """
    root = folder.resolve()
    for path in [root / name for name in names] if names is not None else [root]:
        for link in _iter_symlinks(path):
            if not _resolves_inside(link, root):
                raise InputError(
                    f"{root.name} contains a symbolic link out of its folder: "
                    f"{os.fsencode(link.relative_to(root)).decode(errors='backslashreplace')}. Nothing was written. "
                    "Remove the link, or replace it with a copy of its target."
                )


def _iter_symlinks(path: Path) -> Iterator[Path]:
    """The path if it is a link, otherwise all links below it."""
    if path.is_symlink():
        yield path
        return
    waiting = [path]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        yield Path(entry.path)
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
        except (FileNotFoundError, NotADirectoryError):
            continue  # a file, or removed meanwhile


def _resolves_inside(link: Path, root: Path) -> bool:
    try:
        return root in link.resolve().parents
    except (OSError, RuntimeError):  # link loop
        return False
