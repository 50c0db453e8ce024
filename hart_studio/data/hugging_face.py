"""Load samples from a Hugging Face dataset: saved to disk, a local folder of data files, or a Hub id.

A local folder is read without the ``datasets`` library (``dataset_folders``). A Hub id imports it, which takes seconds.

Hub datasets are untrusted. The card and ``.huggingface.yaml`` may name data files by URL or by a path on this machine,
and the library would contact the URL or read the path, so the files named in them are checked before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import yaml

from hart_studio.data.benchmarks.published_files import is_hub_id
from hart_studio.data.columns import ColumnMapping
from hart_studio.data.dataset_folders import find_splits, read_dataset_rows, read_first_names
from hart_studio.data.rows import LoadedSamples
from hart_studio.data.tables import collect_rows
from hart_studio.errors import DataError
from hart_studio.files import read_regular_file
from hart_studio.records import GoldSample

_FILES: Final = ("README.md", ".huggingface.yaml")

_MAX_METADATA_BYTES: Final = 8 * 2**20
_KEYS: Final = frozenset({"data_files", "data_dir"})

_OUTSIDE: Final = re.compile(r"\s*[/~\\]|.*(?::|\\)|(?:.*/)?\.\.(?:/|$)", re.DOTALL)
"""Absolute paths, URLs (``ftp://``, ``zip::``), drives, backslashes and ``..``."""


def load_hugging_face(
    name: str,
    cache: Path,
    columns: ColumnMapping,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    image_root: Path | None = None,
    needs_answer: bool = True,
) -> LoadedSamples[GoldSample]:
    """Load a dataset.

    Args:
        name: A folder written by ``save_to_disk``, a folder of data files, or a Hub id.
        cache: Folder for images that are stored as bytes, created if missing. Files are named by content, so
            questions about one image share one file.
        columns: The column mapping.
        config: Configuration, if there are several; of a local dataset, a subfolder.
        split: Split; required if there are several.
        revision: Revision of a Hub dataset.
        image_root: Folder that must contain images given as paths. Default: the folder of the dataset, or for a Hub
            id the cache of the library.
        needs_answer: Whether a row without a known answer is invalid.

    Raises:
        DataError: If it cannot be read, lacks a column, has several splits and none is given, or contains no valid row.
    """
    folder = find_folder(name)
    if folder is not None:
        files = _pick_split(find_splits(folder, config), name, split)
        columns.check(read_first_names(files), name)
        rows, root, source = read_dataset_rows(files), image_root or folder, folder.resolve().name
    else:
        table = _pick_split(_open_hub(name, config, revision), name, split)
        columns.check(table.column_names, name)
        _refuse_media(table, columns, name)
        rows, root, source = _read_table(table, columns), image_root or _hub_cache(), name
    return collect_rows(rows, columns, source, root, cache, needs_answer=needs_answer)


def read_column_names(name: str, config: str | None = None, split: str | None = None) -> list[str]:
    """Read the column names of a dataset.

    Raises:
        DataError: If it cannot be read, or has several splits and none is given.
    """
    folder = find_folder(name)
    if folder is not None:
        return read_first_names(_pick_split(find_splits(folder, config), name, split))
    return list(_pick_split(_open_hub(name, config, None), name, split).column_names)


def find_folder(name: str) -> Path | None:
    """Find a local folder; None if there is none and the name may be a Hub id."""
    try:
        return Path(name) if name and Path(name).is_dir() else None
    except (OSError, ValueError):
        return None


def _read_table(table: Any, columns: ColumnMapping) -> Iterator[tuple[str, Any]]:
    """Iterate over the stored rows. Decoding is disabled: the library would open paths and URLs in cells."""
    table = table.select_columns(list(dict.fromkeys(columns.named))).with_format("arrow")
    for index in range(len(table)):
        (row,) = table[index].to_pylist()
        yield f"row {index + 1}", row


def _refuse_media(table: Any, columns: ColumnMapping, name: str) -> None:
    """Check that only the image column contains images or other media files.

    Raises:
        DataError: If another column does.
    """
    from datasets.features.features import require_decoding  # noqa: PLC0415 - takes seconds

    for column in dict.fromkeys(columns.named):
        if column != columns.image and require_decoding(table.features[column], ignore_decode_attribute=True):
            raise DataError(
                f"The column {column!r} of the dataset {name} contains images or other media. Choose a text column."
            )


def _hub_cache() -> Path:
    import datasets  # noqa: PLC0415 - takes seconds

    return Path(datasets.config.HF_CACHE_HOME)


def _open_hub(name: str, config: str | None, revision: str | None) -> Any:
    """Open the dataset, or a mapping of its splits."""
    if not is_hub_id(name):
        raise DataError(
            f"Dataset {name!r} not found: neither a folder nor a Hub id such as owner/name. Check the name."
        )
    import datasets  # noqa: PLC0415 - takes seconds

    try:
        return datasets.load_dataset(name, name=config, revision=pin_revision(name, revision))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise DataError(
            f"Cannot load the dataset {name!r}: {reason}. Check the name, or give a local folder."
        ) from error


def _pick_split(opened: Any, name: str, split: str | None) -> Any:
    if not isinstance(opened, dict):  # one table; a mapping of the library is also a dictionary
        return opened
    chosen = split or (next(iter(opened)) if len(opened) == 1 else None)
    if chosen not in opened:
        raise DataError(f"Choose a split of {name}: {', '.join(opened)}; got {chosen}")
    return opened[chosen]


def pin_revision(hub_id: str, revision: str | None) -> str | None:
    """Check the metadata of a Hub dataset, and return the checked commit.

    Args:
        hub_id: ``owner/name``.
        revision: Branch, tag or commit; None = the newest commit.

    Returns:
        The commit to load; the given revision if downloads are disabled (``HF_HUB_OFFLINE``).

    Raises:
        DataError: If the Hub cannot be reached, or the metadata names a file outside the dataset or cannot be read.
    """
    import huggingface_hub  # noqa: PLC0415 - takes a second
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

    if huggingface_hub.constants.HF_HUB_OFFLINE:  # only cached files are read
        return revision
    try:
        commit = huggingface_hub.HfApi().dataset_info(hub_id, revision=revision).sha
        for name in _FILES:
            with suppress(EntryNotFoundError):
                path = huggingface_hub.hf_hub_download(hub_id, name, repo_type="dataset", revision=commit)
                check_metadata(hub_id, name, Path(path))
    except DataError:
        raise
    except Exception as error:  # proxies, timeouts, gated datasets and full disks raise different errors
        reason = str(error).strip().split("\n", 1)[0]
        raise DataError(
            f"Cannot load the dataset {hub_id!r}: {reason}. Check the name and the connection, or give a folder."
        ) from error
    return commit


def check_metadata(hub_id: str, name: str, path: Path) -> None:
    """Refuse a metadata file that names data files outside its dataset.

    Args:
        hub_id: Id of the dataset, for messages.
        name: Name of the file in the dataset; a card has its metadata between two ``---`` lines.
        path: The local copy.

    Raises:
        DataError: If it names such a file, or is not valid YAML.
    """
    try:
        text = read_regular_file(path, _MAX_METADATA_BYTES, follow_symlinks=True).decode("utf-8-sig")
        found = yaml.safe_load(_read_front_matter(text) if name.endswith(".md") else text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(
            f"The metadata of the dataset {hub_id} ({name}) cannot be read. Download it and check."
        ) from error
    for pattern in _list_patterns(found, is_pattern=False, seen=set()):
        if _OUTSIDE.match(pattern):
            raise DataError(
                f"The dataset {hub_id} names the data file {pattern[:80]!r} in {name}, which is outside the dataset. "
                "Nothing was read. Download the dataset, check it, and give its local folder."
            )


def _read_front_matter(text: str) -> str:
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", text, re.DOTALL)
    return found[1] if found else ""


def _list_patterns(value: Any, *, is_pattern: bool, seen: set[int]) -> Iterator[str]:
    """All texts below a key with data files; YAML aliases may repeat a value or refer to itself."""
    if isinstance(value, str):
        if is_pattern:
            yield value
    elif isinstance(value, (dict, list)):
        key = hash((id(value), is_pattern))
        if key not in seen:
            seen.add(key)
            pairs = value.items() if isinstance(value, dict) else ((None, each) for each in value)
            for name, each in pairs:
                yield from _list_patterns(each, is_pattern=is_pattern or name in _KEYS, seen=seen)
