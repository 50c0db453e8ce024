"""Hugging Face Parquet with embedded images, typed features and shards of limited size, for ``load_dataset(folder)``.

Rows are those of ``image_folder``. All splits have the same features, also one without any box. Importing this module
loads the ``datasets`` library.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import datasets
import pyarrow as pa
import pyarrow.parquet
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from hart_studio.data.cells import store_image
from hart_studio.data.parquet_rows import open_parquet
from hart_studio.data.rows import LoadedSamples, get_field
from hart_studio.errors import DataError, InputError
from hart_studio.files import read_regular_file
from hart_studio.imaging import DEFAULT_LIMITS
from hart_studio.labeling.export_plan import ExportPlan, PlannedImage, PlannedItem
from hart_studio.labeling.formats.image_folder import FOLDER_OF, add_row, to_row
from hart_studio.labeling.formats.reading import ImageFinder, ImportOptions, LabelCollector, list_files
from hart_studio.labeling.records import LabeledSample

SHARD_BYTES: Final = 500_000_000
"""Approximate image bytes per file, as recommended by the hub."""
GROUP_BYTES: Final = 64_000_000
"""Approximate image bytes in memory at a time."""

_PlannedRow = tuple[PlannedImage, PlannedItem]


def features_of(classes: tuple[str, ...]) -> datasets.Features:
    """Features of the dataset."""
    text = datasets.Value("string")
    objects = {
        "id": datasets.List(datasets.Value("int64")),
        "bbox": datasets.List(datasets.List(datasets.Value("float64"))),
        "area": datasets.List(datasets.Value("float64")),
        "category": datasets.List(datasets.ClassLabel(names=list(classes))),
        "score": datasets.List(datasets.Value("float64")),
    }
    columns = {
        "image": datasets.Image(),
        "id": text,
        "width": datasets.Value("int64"),
        "height": datasets.Value("int64"),
        "question": text,
        "choices": datasets.List(text),
        "answer": text,
        "kind": text,
        "status": text,
        "score": datasets.Value("float64"),
        "crop_answer": text,
        "verified": datasets.Value("bool"),
        "objects": objects,
    }
    return datasets.Features(columns)


def save_hf_parquet(plan: ExportPlan, folder: Path) -> None:
    """Write ``data/<split>-<shard>-of-<shards>.parquet`` and a ``README.md`` with splits and features.

    Raises:
        OSError: If the folder cannot be written, or an image cannot be read.
    """
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    features = features_of(plan.classes)
    schema = features.arrow_schema
    for split in plan.splits:
        shards = list(_parts(plan.rows(split), SHARD_BYTES))
        for number, shard in enumerate(shards):
            name = f"{FOLDER_OF[split]}-{number:05d}-of-{len(shards):05d}.parquet"
            with pyarrow.parquet.ParquetWriter(data / name, schema) as writer:
                for group in _parts(shard, GROUP_BYTES):
                    rows = [_row(image, planned, plan.classes) for image, planned in group]
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    _write_card(plan, features, folder / "README.md")


def load_hf_parquet(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    """Read Parquet files with the columns ``image`` and ``objects``, a few rows at a time.

    Args:
        path: A file, or a folder with ``data/*.parquet`` or ``*.parquet``.
        options: Import options. ``image_cache`` is required: images are stored there, named by their content.

    Raises:
        DataError: If a file cannot be read, or if there is no sample.
        InputError: If there is no ``image_cache``.
    """
    options = options or ImportOptions()
    if options.image_cache is None:
        raise InputError("Parquet files contain their images. Pass image_cache, a folder to store them in.")
    cache = options.image_cache
    cache.mkdir(parents=True, exist_ok=True)
    collector = LabelCollector(path, options)
    kept = ImageFinder(cache)
    for file in list_files(path, "data/*.parquet", "*.parquet"):
        beside = ImageFinder(options.image_root or file.parent)
        names, rows = _open(file)
        for number, row in enumerate(rows, start=1):
            where = f"{file.name} row {number}"
            with collector.row(where):
                if isinstance(row, ValueError):
                    raise row
                cell = get_field(row, "image")
                value = cell.get("bytes") if isinstance(cell, dict) else cell
                if isinstance(value, bytes):
                    image = kept.find(Path(store_image(value, cache)).name)
                else:
                    image = beside.find(cell.get("path") if isinstance(cell, dict) else cell)
                add_row(where, row, image, names, collector)
    return collector.finish()


def _parts(rows: list[_PlannedRow], limit: int) -> Iterator[list[_PlannedRow]]:
    """Split rows into parts of about ``limit`` image bytes, at least one row each."""
    part: list[_PlannedRow] = []
    size = 0
    for row in rows:
        bytes_of_row = row[0].source.stat().st_size
        if part and size + bytes_of_row > limit:
            yield part
            part, size = [], 0
        part.append(row)
        size += bytes_of_row
    if part:
        yield part


def _row(image: PlannedImage, planned: PlannedItem, classes: tuple[str, ...]) -> dict[str, Any]:
    cell = {
        "bytes": read_regular_file(image.source, DEFAULT_LIMITS.max_bytes, follow_symlinks=True),
        "path": Path(image.name).name,
    }
    return {"image": cell, **to_row(image, planned, classes)}


def _write_card(plan: ExportPlan, features: datasets.Features, path: Path) -> None:
    """Write the dataset card with the metadata from the library: its format of features changes between versions."""
    card = DatasetCardData()
    DatasetInfosDict({"default": datasets.DatasetInfo(features=features)}).to_dataset_card_data(card)
    files = [{"split": FOLDER_OF[split], "path": f"data/{FOLDER_OF[split]}-*"} for split in plan.splits]
    MetadataConfigs({"default": {"data_files": files}}).to_dataset_card_data(card)
    path.write_text(f"---\n{card.to_yaml()}\n---\n", encoding="utf-8", newline="\n")


def _open(file: Path) -> tuple[dict[int, str], Iterator[Any]]:
    """Open a file; returns its class names and a lazy iterator of rows."""
    try:
        schema, rows = open_parquet(file)
        features = datasets.Features.from_arrow_schema(schema)
    except DataError:
        raise
    except Exception as error:  # readers of binary files raise anything on hostile bytes
        raise DataError(f"{file} is not a Parquet file: {error}. Repair or remove it.") from error
    return _class_names(features), rows


def _class_names(features: datasets.Features) -> dict[int, str]:
    objects = features.get("objects")
    if not isinstance(objects, dict):
        return {}
    for name in ("category", "categories"):
        inner = getattr(objects.get(name), "feature", None)
        if isinstance(inner, datasets.ClassLabel):
            return dict(enumerate(inner.names))
    return {}
