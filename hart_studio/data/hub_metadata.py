"""Check the files named in the metadata of a Hub dataset before the ``datasets`` library resolves them.

Hub datasets are untrusted. The card and ``.huggingface.yaml`` may name data files by URL or by a path on
this machine, and the library would contact the URL or read the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import yaml

from hart_studio.errors import DataError
from hart_studio.files import read_regular_file

_FILES: Final = ("README.md", ".huggingface.yaml")
_MAX_METADATA_BYTES: Final = 8 * 2**20
_KEYS: Final = frozenset({"data_files", "data_dir"})
_OUTSIDE: Final = re.compile(r"\s*[/~\\]|.*(?::|\\)|(?:.*/)?\.\.(?:/|$)", re.DOTALL)
"""Absolute paths, URLs (``ftp://``, ``zip::``), drives, backslashes and ``..``."""


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
