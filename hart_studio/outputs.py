"""Check the output path of a command before anything is replaced."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hart_studio.errors import InputError
from hart_studio.files import open_regular_file, to_stored_path

HEADER_BYTES: Final = 1 << 20
"""Number of bytes read to recognize an earlier output."""


def check_output(path: Path, kind: str, is_earlier: Callable[[bytes], bool]) -> None:
    """Refuse to replace anything but an earlier output of the same kind.

    Call it before the work starts.

    Args:
        path: The file to write.
        kind: Name of the output with its article, such as ``a quality report``.
        is_earlier: Whether the first ``HEADER_BYTES`` of a file are those of an earlier output.

    Raises:
        InputError: If a link, a device, a pipe, a folder, or a file with other content is there, or the path cannot be
            used.
    """
    shown = to_stored_path(path)
    try:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            with open_regular_file(path) as file:  # never opens a database, which would release its locks
                is_own = not status.st_size or is_earlier(file.read(HEADER_BYTES))
            if is_own:
                return
            found = f"another file, which is not {kind}"
        else:
            found = "a folder" if stat.S_ISDIR(status.st_mode) else "a link, a pipe or a device"
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        found = f"a file that cannot be read ({getattr(error, 'strerror', None) or error})"
    raise InputError(f"Cannot write {kind} to {shown}: {found} is there. Choose another path.")


def check_output_folder(path: Path, kind: str) -> None:
    """Refuse to write into a folder that holds anything.

    Call it before the work starts.

    Args:
        path: The folder to create or to fill.
        kind: Name of the output with its article, such as ``a needle dataset``.

    Raises:
        InputError: If a link, a file or a folder that is not empty is there, or the path cannot be used.
    """
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            found = "a link or a file"
        elif any(path.iterdir()):
            found = "a folder that is not empty"
        else:
            return
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        found = f"a folder that cannot be read ({getattr(error, 'strerror', None) or error})"
    raise InputError(f"Cannot write {kind} to {to_stored_path(path)}: {found} is there. Choose a new or empty folder.")
