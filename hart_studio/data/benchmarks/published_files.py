"""The files of a published benchmark: found in a folder, or fetched from the hub first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from hart_studio.errors import DataError

_HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``owner/name``; a local path may have it, too."""
    return _HUB_ID.fullmatch(name) is not None


def find_tables(folder: Path, patterns: Sequence[str], *, has_parts: bool) -> tuple[Path, ...]:
    """The files with the questions, in name order.

    Args:
        folder: Where the benchmark lies.
        patterns: Glob patterns for the path below the folder in lower case; the first that fits a file decides, so that
            a data set which is there in two forms is read once.
        has_parts: Whether several files of other kinds than Parquet, which always may, are parts of one benchmark.

    Raises:
        DataError: If there is none, or there are several where one should be.
    """
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    for pattern in patterns:
        found = [name for name in shown if fnmatchcase(name.as_posix().lower(), pattern)]
        if len(found) > 1 and not (has_parts or pattern.endswith(".parquet")):
            listed = ", ".join(name.as_posix() for name in found[:5])
            raise DataError(f"expected one file of questions in {folder}, got {listed}; name the file itself")
        if found:
            return tuple(folder / name for name in found)
    raise DataError(
        f"expected a published form of the benchmark in {folder}, one of {', '.join(patterns)}, got none; "
        "check the folder, or name the file itself"
    )


def fetch(hub_id: str, patterns: Sequence[str], cache: Path, *, allow_download: bool) -> Path:
    """The folder of a data set of the hub, with the files that are needed of it.

    They are real files below the cache, not links into a shared store, so names of images stay inside the folder.

    Args:
        hub_id: ``owner/name``.
        patterns: Glob patterns of the files.
        cache: Folder for downloads.
        allow_download: Whether the hub may be asked; otherwise only what was fetched before is used.

    Raises:
        DataError: If it cannot be fetched.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - takes a second, and only hub ids need it

    folder = cache / "downloads" / hub_id.replace("/", "--")
    try:
        snapshot_download(
            hub_id,
            repo_type="dataset",
            local_dir=folder,
            allow_patterns=list(patterns),
            local_files_only=not allow_download,
        )
    except Exception as error:  # proxies, time limits, gates and full disks each raise of their own kind
        reason = str(error).strip().split("\n", 1)[0]
        raise DataError(
            f"expected the data set {hub_id!r} on the hub, got: {reason}; check the name and the connection, or "
            "download it elsewhere and give its folder"
        ) from error
    return folder
