"""Samples from a Hugging Face data set: saved to disk, a local folder of data files, or a hub id.

Whoever imports this module waits for the ``datasets`` library, so only jobs that read such a data set should.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets

from hart_studio.data.columns import Columns, read_row
from hart_studio.data.rows import LoadedSamples, collect_samples
from hart_studio.errors import DataError
from hart_studio.records import GoldSample


def load_hugging_face(
    name: str,
    cache: Path,
    columns: Columns,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    image_root: Path | None = None,
    needs_answer: bool = True,
) -> LoadedSamples[GoldSample]:
    """Read a data set.

    Args:
        name: A folder made by ``save_to_disk``, a folder of data files, or a hub id.
        cache: Folder for the pictures that are stored as bytes, made when missing. Files are named by content, so
            questions about one picture share one file.
        columns: Which column holds what.
        config: Configuration of a data set that has several.
        split: Split; needed when there are several.
        revision: Version of a hub data set.
        image_root: Folder that pictures given as paths must lie in. By default the data set's own folder, or for a hub
            id the library's cache.
        needs_answer: Whether a row without a known answer is a bad one.

    Raises:
        DataError: If it cannot be read, lacks a column, has several splits and none was named, or holds no sample.
    """
    folder = Path(name) if Path(name).is_dir() else None
    table = _pick_split(_open(name, folder, config, revision), name, split)
    columns.check(table.column_names, name)
    table = table.select_columns(list(dict.fromkeys(columns.named))).with_format(None)
    if isinstance(table.features[columns.image], datasets.Image):
        # The bytes as they are: nothing is decoded, nothing is encoded again.
        table = table.cast_column(columns.image, datasets.Image(decode=False))
    cache.mkdir(parents=True, exist_ok=True)
    root = image_root or folder or Path(datasets.config.HF_CACHE_HOME)
    source = folder.resolve().name if folder else name

    def read(index: int) -> GoldSample:
        return read_row(table[index], columns, number=index + 1, source=source, root=root, cache=cache)

    rows = ((f"row {index + 1}", index) for index in range(len(table)))
    return collect_samples(source, rows, read, needs_answer=needs_answer)


def read_column_names(name: str, config: str | None = None, split: str | None = None) -> list[str]:
    """Names of the columns of a data set.

    Raises:
        DataError: If it cannot be read, or has several splits and none was named.
    """
    folder = Path(name) if Path(name).is_dir() else None
    return list(_pick_split(_open(name, folder, config, None), name, split).column_names)


def _open(name: str, folder: Path | None, config: str | None, revision: str | None) -> Any:
    """The data set, or a mapping of its splits."""
    is_saved = folder is not None and any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json"))
    try:
        if is_saved:
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, name=config, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise DataError(
            f"expected a data set at {name!r}, got: {reason}; check the name, or give a local folder"
        ) from error


def _pick_split(opened: Any, name: str, split: str | None) -> datasets.Dataset:
    if isinstance(opened, datasets.Dataset):
        return opened
    chosen = split or (next(iter(opened)) if len(opened) == 1 else None)
    if chosen not in opened:
        raise DataError(f"expected one of the splits {', '.join(opened)} of {name}, got {chosen}; name one")
    return opened[chosen]
