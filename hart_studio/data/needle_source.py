"""Needle questions generated from a seed; each image is drawn on first use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hart_studio.data.rows import LoadedSamples
from hart_studio.imaging import ImageOpener, SourceImage
from hart_studio.needle.dataset import NeedleItem, item_id, iterate_items, make_item, write_image
from hart_studio.needle.scenes import Scene, SceneSettings
from hart_studio.records import Box, GoldSample

_MAX_DIGITS: Final = 12


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
    """Generate the questions of a preset, reproducibly from the seed; images are drawn on first use.

    Args:
        split: ``train``, ``val`` or ``test``.
        count: Number of questions, one scene each.
        folder: Folder for the images.
        seed: Random seed.
        scene_wh: (width, height) of the scenes in pixels; None = the size of the published set.
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
    """Generate one question of ``generate_samples`` by its id; None if the preset has no such id."""
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
