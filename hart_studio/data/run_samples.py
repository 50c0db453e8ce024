"""Load the samples of a run from the source in its settings.

Needle questions are generated from a seed; each image is drawn on first use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hart_studio.data.columns import ColumnMapping
from hart_studio.data.hugging_face import load_hugging_face
from hart_studio.data.rows import LoadedSamples
from hart_studio.data.sources import load_jsonl, load_mme_realworld, load_needle
from hart_studio.data.splits import Split, read_manifest, restore_split, split_samples, write_manifest
from hart_studio.data.zwz_rl_vqa import load_zwz_rl_vqa
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.needle.dataset import NeedleItem, item_id, iterate_items, make_item, write_image
from hart_studio.needle.scenes import Scene, SceneSettings
from hart_studio.records import Box, GoldSample
from hart_studio.runs.config import DataConfig, RunConfig

_MAX_DIGITS: Final = 12

SCENE_WH: Final = (2048, 1536)
"""(width, height) of the scenes of a run: half the default size, which is still much larger than the overview of the
built-in model and takes a quarter of the time. Project default."""

MANIFEST: Final = "split.json"
"""File of the run with the parts of the split."""


@dataclass(frozen=True, eq=False)
class SampleSource:
    """Samples of a run, for training and evaluation.

    Attributes:
        loaded: The samples and the invalid rows.
        open_image: Opens an image of the samples.
    """

    loaded: LoadedSamples[GoldSample]
    open_image: ImageOpener = SourceImage


class LazySceneRenderer:
    """Opens images of needle scenes; each image is drawn on first use."""

    def __init__(self, scenes: Mapping[str, Scene]) -> None:
        """Store the scenes.

        Args:
            scenes: Path of the image -> its scene.
        """
        self._scenes = scenes

    def __call__(self, path: str) -> SourceImage:
        """Open the image; draw it if the file is missing.

        Raises:
            ImageError: As ``SourceImage``, also for a path without a scene.
        """
        if path in self._scenes and not Path(path).exists():
            target = Path(path)
            draft = target.with_name(
                f"{target.stem}.{os.getpid()}.draft.jpg"
            )  # several processes may draw the same image
            write_image(self._scenes[path], draft)
            draft.replace(target)
        return SourceImage(path)


def generate_samples(
    split: str, count: int, folder: Path, *, seed: int = 0, scene_wh: tuple[int, int] | None = None
) -> SampleSource:
    """Generate the questions of a split, reproducibly from the seed; images are drawn on first use.

    Args:
        split: ``train``, ``val`` or ``test``.
        count: Number of questions, one scene each.
        folder: Folder for the images.
        seed: Random seed.
        scene_wh: (width, height) of the scenes in pixels; None = 4096 x 3072.
    """
    scenes: dict[str, Scene] = {}
    samples = []
    for item in iterate_items(split, count, seed=seed, settings=_scene_settings(scene_wh)):
        sample = _sample_of(item, folder)
        scenes[sample.image] = item.scene
        samples.append(sample)
    return SampleSource(LoadedSamples("needle", tuple(samples)), LazySceneRenderer(scenes))


def generate_sample(
    split: str, sample_id: str, count: int, folder: Path, *, seed: int = 0, scene_wh: tuple[int, int] | None = None
) -> GoldSample | None:
    """Generate one question of ``generate_samples`` by its id; None if the split has no such id."""
    index = sample_id.rpartition("-")[2]
    if not (index.isascii() and index.isdecimal() and len(index) <= _MAX_DIGITS and int(index) < count):
        return None
    if sample_id != item_id(split, seed, int(index)):
        return None
    return _sample_of(make_item(split, int(index), seed=seed, settings=_scene_settings(scene_wh)), folder)


def _scene_settings(scene_wh: tuple[int, int] | None) -> SceneSettings:
    return SceneSettings(width=scene_wh[0], height=scene_wh[1]) if scene_wh else SceneSettings()


def _sample_of(item: NeedleItem, folder: Path) -> GoldSample:
    question = item.question
    return GoldSample(
        id=item.id,
        image=str((folder / f"{item.id}.jpg").resolve()),
        question=question.text,
        choices=question.choices,
        answer=question.letter,
        category=question.kind,
        source="needle",
        gold_boxes=tuple(Box.from_xyxy(box.xyxy) for box in question.gold_boxes),
    )


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
    if settings.source == "zwz_rl_vqa":
        return SampleSource(load_zwz_rl_vqa(path, cache, image_root=image_root))
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
        write_manifest(path, split.manifest.model_copy(update={"dropped": source.loaded.describe_dropped()}))
    return split


def split_config(config: RunConfig, source: SampleSource) -> Split:
    """Split the samples as configured."""
    data = config.data
    has_rl = any(stage != "sft" for stage in config.method.stage_names)
    sft_samples = data.sft_samples if "sft" in config.method.stage_names else 0
    return split_samples(
        source.loaded.samples,
        data.rl_samples if has_rl else 0,
        sft_samples,
        data.eval_samples,
        seed=config.seed,
        split_by_image=data.split_by_image,
    )
