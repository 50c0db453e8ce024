"""Find the files of a published benchmark in a folder, or download them from the Hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from hart_studio.errors import DataError

_HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``owner/name``; a local path may have this form too."""
    return _HUB_ID.fullmatch(name) is not None


def find_tables(folder: Path, patterns: Sequence[str], *, has_parts: bool) -> tuple[Path, ...]:
    """Find the files with the questions, in name order.

    Args:
        folder: Folder of the benchmark.
        patterns: Glob patterns for the path below the folder in lower case; the first pattern with a match decides, so
            that a dataset in two formats is read once.
        has_parts: Whether several files are parts of one benchmark; Parquet files always are.

    Raises:
        DataError: If there is none, or several instead of one.
    """
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    for pattern in patterns:
        found = [name for name in shown if fnmatchcase(name.as_posix().lower(), pattern)]
        if len(found) > 1 and not (has_parts or pattern.endswith(".parquet")):
            listed = ", ".join(name.as_posix() for name in found[:5])
            raise DataError(f"expected one file of questions in {folder}, got {listed}; give the path of the file")
        if found:
            return tuple(folder / name for name in found)
    raise DataError(
        f"No file of the benchmark in {folder} matches {', '.join(patterns)}. "
        "Check the folder, or give the path of the file."
    )


def download_folder(hub_id: str, cache: Path) -> Path:
    """Folder of the downloaded files of a Hub dataset."""
    return cache / "downloads" / hub_id.replace("/", "--")


def fetch(hub_id: str, patterns: Sequence[str], cache: Path, *, allow_download: bool) -> Path:
    """Download the needed files of a Hub dataset and return the folder.

    They are real files below the cache, not links into a shared store, so image paths stay inside the folder.

    Args:
        hub_id: ``owner/name``.
        patterns: Glob patterns of the files.
        cache: Folder for downloads.
        allow_download: Whether to download from the Hub; otherwise only cached files are used.

    Raises:
        DataError: If it cannot be downloaded.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - takes a second, and only hub ids need it

    folder = download_folder(hub_id, cache)
    try:
        snapshot_download(
            hub_id,
            repo_type="dataset",
            local_dir=folder,
            allow_patterns=list(patterns),
            local_files_only=not allow_download,
        )
    except Exception as error:  # proxies, timeouts, gated datasets and full disks raise different errors
        reason = str(error).strip().split("\n", 1)[0]
        raise DataError(
            f"Cannot download the dataset {hub_id!r}: {reason}. Check the name and the connection, or "
            "download it elsewhere and give its folder."
        ) from error
    return folder
