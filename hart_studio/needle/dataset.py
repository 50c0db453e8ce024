"""Write needle scenes as a dataset of images and samples (``data.sources.load_needle`` reads it)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from hart_studio.files import append_jsonl
from hart_studio.image_domains import NEEDLE, NEEDLE_CUSTOM, embed_domain
from hart_studio.needle.drawing import draw_scene
from hart_studio.needle.questions import Question, make_question
from hart_studio.needle.scenes import Scene, SceneSettings, make_scene

SPLITS: Final[dict[str, int]] = {"train": 1, "val": 2, "test": 3}
"""Split -> first entry of its seed sequence. They differ, so splits never share a scene; 0 is used by pretraining."""

JPEG_QUALITY: Final = 90
"""JPEG quality: details stay readable, and a 4096 x 3072 scene takes about 1 MB."""


@dataclass(frozen=True)
class NeedleItem:
    """One question of a split with its scene, not yet drawn."""

    id: str
    scene: Scene
    question: Question

    def record(self, image: str) -> dict[str, object]:
        """The sample as one JSON object; ``gold_boxes`` are in original pixels, for evaluation only."""
        return {
            "id": self.id,
            "image": image,
            "question": self.question.text,
            "choices": list(self.question.choices),
            "answer": self.question.letter,
            "kind": self.question.kind,
            "category": self.question.topic,
            "gold_boxes": [[round(value, 2) for value in box.xyxy] for box in self.question.gold_boxes],
        }


def iterate_items(
    split: str, count: int, *, seed: int = 0, settings: SceneSettings | None = None, gist_share: float = 0.3
) -> Iterator[NeedleItem]:
    """The first ``count`` questions of a split; a larger ``count`` starts with the same ones.

    Args:
        split: ``train``, ``val`` or ``test``.
        count: Number of questions, one scene each.
        seed: Random seed.
        settings: Difficulty; default: ``SceneSettings()``.
        gist_share: Share of questions that the overview can answer.
    """
    for index in range(count):
        yield make_item(split, index, seed=seed, settings=settings, gist_share=gist_share)


def make_item(
    split: str, index: int, *, seed: int = 0, settings: SceneSettings | None = None, gist_share: float = 0.3
) -> NeedleItem:
    """One question of a split by its index from 0, without making those before it; see ``iterate_items``."""
    rng = np.random.default_rng([SPLITS[split], seed, index])
    scene = make_scene(rng, settings or SceneSettings())
    return NeedleItem(item_id(split, seed, index), scene, make_question(rng, scene, gist_share))


def item_id(split: str, seed: int, index: int) -> str:
    """Id of one question of a split."""
    return f"needle-{split}-{seed}-{index:05d}"


def write_image(scene: Scene, path: Path, **encoding: Any) -> None:
    """Draw a scene at its full size and write it as JPEG, marked with its image domain.

    The domain is ``needle`` only if the scene was made with the default settings: calibrations are fitted on those.

    Args:
        scene: The scene.
        path: The file.
        **encoding: Options of Pillow's JPEG encoder; default: those of a dataset.
    """
    buffer = io.BytesIO()
    options = encoding or {"quality": JPEG_QUALITY, "subsampling": 0}
    Image.fromarray(draw_scene(scene, (scene.width, scene.height))).save(buffer, format="JPEG", **options)
    path.write_bytes(embed_domain(buffer.getvalue(), NEEDLE if scene.is_default else NEEDLE_CUSTOM))


def write_item(item: NeedleItem, out: Path) -> Path:
    """Write ``images/<id>.jpg`` and append the sample to ``samples.jsonl``; return the path of the image."""
    name = f"images/{item.id}.jpg"
    write_image(item.scene, out / name)
    append_jsonl(out / "samples.jsonl", item.record(name))
    return out / name
