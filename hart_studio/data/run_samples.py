"""Load the samples of a run from the source in its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hart_studio.data.columns import ColumnMapping
from hart_studio.data.hugging_face import load_hugging_face
from hart_studio.data.needle_source import SampleSource, generate_sample, generate_samples
from hart_studio.data.sources import load_jsonl, load_mme_realworld, load_needle
from hart_studio.data.splits import Split, read_manifest, restore_split, split_samples, write_manifest
from hart_studio.records import GoldSample
from hart_studio.runs.config import DataConfig, RunConfig

SCENE_WH: Final = (2048, 1536)
"""(width, height) of the scenes of a run: half the default size, which is still much larger than the overview of the
built-in model and takes a quarter of the time. Project default."""

MANIFEST: Final = "split.json"
"""File of the run with the parts of the split."""


def load_samples(settings: DataConfig, cache: Path, *, makes_folder: bool = True) -> SampleSource:
    """Load the samples.

    Args:
        settings: Source of the samples.
        cache: Folder for images that are not files in the source.
        makes_folder: Whether to create the folder for needle scenes.

    Raises:
        DataError: If they cannot be read.
    """
    path = Path(settings.path)
    image_root = Path(settings.image_root) if settings.image_root else None
    if settings.source == "needle":
        if settings.path:
            return SampleSource(load_needle(path))
        if makes_folder:
            cache.mkdir(parents=True, exist_ok=True)
        return generate_needle_samples(settings, cache)
    if settings.source == "jsonl":
        return SampleSource(load_jsonl(path, image_root=image_root))
    if settings.source == "mme_realworld":
        return SampleSource(load_mme_realworld(path, image_root=image_root))
    columns = ColumnMapping(**{str(name): column for name, column in settings.columns.items()})
    return SampleSource(load_hugging_face(settings.path, cache, columns, image_root=image_root))


def generate_needle_samples(settings: DataConfig, folder: Path) -> SampleSource:
    """Generate needle questions for a run, reproducibly from the seed; images are drawn on first use.

    Args:
        settings: Number and seed of the questions.
        folder: Folder for the images.
    """
    return generate_samples("train", settings.needle_samples, folder, seed=settings.needle_seed, scene_wh=SCENE_WH)


def get_needle_sample(settings: DataConfig, sample_id: str, folder: Path) -> GoldSample | None:
    """Generate one question of ``generate_needle_samples`` by its id, without the others; None if there is none."""
    return generate_sample(
        "train", sample_id, settings.needle_samples, folder, seed=settings.needle_seed, scene_wh=SCENE_WH
    )


def split_run(config: RunConfig, source: SampleSource, folder: Path, *, is_writer: bool) -> Split:
    """Split the samples of a run: by its manifest, or with a new manifest that is saved.

    Args:
        config: Sizes and seed.
        source: The samples.
        folder: Folder of the run.
        is_writer: Whether this process writes the manifest.

    Raises:
        InputError: If there are too few samples.
        DataError: If the samples have changed since they were split.
    """
    path = folder / MANIFEST
    if path.exists():
        return restore_split(source.loaded.samples, read_manifest(path))
    split = split_config(config, source)
    if is_writer:
        write_manifest(path, split.manifest)
    return split


def split_config(config: RunConfig, source: SampleSource) -> Split:
    """Split the samples as configured."""
    data = config.data
    has_rl = any(stage != "sft" for stage in config.method.stages)
    sft_samples = data.sft_samples if "sft" in config.method.stages else 0
    return split_samples(
        source.loaded.samples,
        data.rl_samples if has_rl else 0,
        sft_samples,
        data.eval_samples,
        seed=config.seed,
        split_by_image=data.split_by_image,
    )
