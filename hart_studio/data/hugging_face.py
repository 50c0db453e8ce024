"""Load samples from a Hugging Face dataset: saved to disk, a local folder of data files, or a Hub id.

A local folder is read without the ``datasets`` library (``dataset_folders``). A Hub id imports it, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hart_studio.data.benchmarks.published_files import is_hub_id
from hart_studio.data.columns import ColumnMapping
from hart_studio.data.dataset_folders import find_splits, read_dataset_rows, read_first_names
from hart_studio.data.hub_metadata import pin_revision
from hart_studio.data.rows import LoadedSamples
from hart_studio.data.tables import collect_rows
from hart_studio.errors import DataError
from hart_studio.records import GoldSample


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
