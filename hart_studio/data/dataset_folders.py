"""Read datasets in local folders: saved with ``save_to_disk``, or Parquet, Arrow, JSON and CSV files.

Folders are untrusted, and files of the ``datasets`` library in it (a dataset card, ``.huggingface.yaml``,
a loading script, ``dataset_infos.json``) can name URLs and files elsewhere. None of them is read: data files
are found by their suffixes and are always inside the folder. Nothing here uses the network.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hart_studio.data.arrow_rows import read_arrow
from hart_studio.data.tables import LocatedRow, read_rows
from hart_studio.errors import DataError, InputError
from hart_studio.files import open_regular_file, read_regular_file, resolve_inside

MAX_FILES: Final = 200_000
"""Maximum number of files in a folder. Project default."""

ENDINGS: Final = (".parquet", ".arrow", ".jsonl", ".json", ".csv", ".tsv")
"""Suffixes of data files. The most frequent suffix in a folder is used; on a tie, the first in this list."""

DEFAULT_SPLIT: Final = "train"
"""Split of files whose names contain no split."""

REMAINING_SPLIT: Final = "other"
"""Split of files whose names contain no split, if other names contain one."""

_METADATA: Final = frozenset({"state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"})
_SPLIT_NAMES: Final = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_WORD: Final = re.compile(r"[A-Za-z]+")
_SHARD: Final = re.compile(r"(.+)-\d{5}-of-\d{5}")
_MAX_METADATA_BYTES: Final = 2**20


def find_splits(folder: Path, config: str | None = None) -> dict[str, tuple[Path, ...]]:
    """Find the data files of a folder.

    Args:
        folder: The dataset.
        config: Configuration, if there are several: a subfolder.

    Returns:
        Split -> its files in order. A dataset saved without splits has the split ``train``.

    Raises:
        DataError: If there are none, or a named file is outside the folder.
    """
    folder = folder.resolve()
    if config is not None:
        folder = _find_inside(folder, config)
    if (folder / "dataset_dict.json").is_file():
        names = _read_metadata(folder / "dataset_dict.json").get("splits")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DataError(f"{folder / 'dataset_dict.json'} names no splits. Save the dataset again.")
        return {name: _list_saved(_find_inside(folder, name)) for name in names}
    if (folder / "state.json").is_file():
        return {DEFAULT_SPLIT: _list_saved(folder)}
    return _group_files(folder)


def read_dataset_rows(files: Sequence[Path]) -> Iterator[LocatedRow]:
    """Read the rows of the data files of a split, one after another.

    Yields:
        The location of each row, and its cells by column, or a ``ValueError`` for an invalid line.

    Raises:
        DataError: If a file cannot be read.
    """
    for path in files:
        prefix = f"{path.name}, " if len(files) > 1 else ""
        for location, row in _read_file(path):
            yield f"{prefix}{location}", row


def _read_file(path: Path) -> Iterator[LocatedRow]:
    if path.suffix.lower() != ".arrow":
        yield from read_rows(path)
        return
    for number, row in enumerate(read_arrow(path), start=1):
        yield f"row {number}", row


def read_first_names(files: Sequence[Path]) -> list[str]:
    """Names of the columns of the first readable row.

    Raises:
        DataError: If no file has a row, or one cannot be read.
    """
    for _, row in read_dataset_rows(files):
        if isinstance(row, dict):
            return list(row)
    raise DataError(f"The data files {', '.join(path.name for path in files[:4])} contain no rows. Check the dataset.")


def _group_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    found = []
    for count, path in enumerate(folder.rglob("*")):
        if count >= MAX_FILES:
            raise DataError(f"{folder} contains more than {MAX_FILES:,} files. Split the dataset.")
        is_data = path.suffix.lower() in ENDINGS and path.name not in _METADATA
        is_hidden = any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
        if is_data and not is_hidden and _is_own(path, folder):
            found.append(path)
    endings = Counter(path.suffix.lower() for path in found)
    if not endings:
        raise DataError(
            f"{folder} contains no data files ({', '.join(ENDINGS)}); links out of it are not followed. Convert "
            "the dataset to Parquet, or give another folder."
        )
    chosen = max(ENDINGS, key=lambda ending: (endings[ending], -ENDINGS.index(ending)))
    splits: dict[str, list[Path]] = {}
    for path in sorted(path for path in found if path.suffix.lower() == chosen):
        splits.setdefault(_find_split(path.relative_to(folder)), []).append(path)
    rest = splits.pop("", [])
    if rest:
        splits.setdefault(REMAINING_SPLIT if splits else DEFAULT_SPLIT, []).extend(rest)
    return {name: tuple(files) for name, files in splits.items()}


def _find_split(path: Path) -> str:
    """Find the split in the name of a file or its folders; empty = none."""
    shard = _SHARD.fullmatch(path.stem)
    if shard:
        return _SPLIT_NAMES.get(shard[1].lower(), shard[1])
    words = [word.lower() for part in reversed(path.with_suffix("").parts) for word in _WORD.findall(part)]
    return next((_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES), "")


def _list_saved(folder: Path) -> tuple[Path, ...]:
    """List the Arrow files of a folder written by ``save_to_disk``."""
    entries = _read_metadata(folder / "state.json").get("_data_files")
    listed = entries if isinstance(entries, list) else []
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in listed]
    if not names or not all(isinstance(name, str) and name.endswith(".arrow") for name in names):
        raise DataError(f"state.json in {str(folder)!r} names no Arrow files. Save the dataset again.")
    return tuple(_find_inside(folder, str(name)) for name in names)


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular_file(path, _MAX_METADATA_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"Cannot read {path.name} of the dataset {str(path.parent)!r}: {error}") from error
    return found if isinstance(found, dict) else {}


def _find_inside(folder: Path, name: str) -> Path:
    try:
        path = resolve_inside(folder, name)
        if path.suffix.lower() == ".arrow":
            open_regular_file(path).close()
        elif not path.is_dir():
            raise DataError(f"{folder} has no folder {name[:80]!r}. Name another configuration or split.")
    except InputError as error:
        raise DataError(
            f"The dataset in {folder} names {name[:80]!r}, which is outside the folder. Nothing is read."
        ) from error
    except OSError as error:
        raise DataError(f"The data file {name[:80]!r} of {folder} cannot be read: {error.strerror}.") from error
    return path


def _is_own(path: Path, folder: Path) -> bool:
    """Whether a path is a regular file inside the folder, with all links resolved."""
    try:
        return path.is_file() and path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):
        return False
