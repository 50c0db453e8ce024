"""Recorded rollouts: what the model saw, where it pointed, what it said, with small copies of the images.

``rollouts/step_000010.jsonl`` holds one ``SavedGroup`` a line, ``rollouts/held_out_000020.jsonl`` those of the held-out
questions that are followed through the run. Images are named by their content, so the crop that
all rollouts of a group share, or a question that comes back, is stored once.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from PIL import Image
from pydantic import ValidationError, model_validator

from hart_studio.errors import DataError, InputError
from hart_studio.files import read_jsonl, resolve_inside, write_atomically
from hart_studio.records import Record, RolloutGroup, Sample
from hart_studio.runs.layout import RunLayout, read_step

MAX_SIDE: Final = 1024
"""Pixels of the longer side of a stored image; a larger one is made smaller."""
JPEG_QUALITY: Final = 85
"""Quality of the stored images."""


@dataclass(frozen=True, eq=False)
class GroupImages:
    """A group with its images, to be recorded.

    Attributes:
        sample: The question.
        group: Its rollouts.
        image_wh: (width, height) of the original upright image, the frame of every box.
        overview: The overview I_f, or None.
        crops: For each rollout, in order, the crops I_s that it answered from; may be empty.
    """

    sample: Sample
    group: RolloutGroup
    image_wh: tuple[int, int]
    overview: Image.Image | None
    crops: Sequence[Sequence[Image.Image]]


class SavedGroup(Record):
    """One line: a group and the names of its images."""

    sample: Sample
    """The question; a gold box is never written here."""
    group: RolloutGroup
    """Its rollouts."""
    image_wh: tuple[int, int]
    """(width, height) of the original upright image, the frame of every box."""
    overview: str | None
    """Name of the stored overview; None when it was not stored. Open it with ``find_image``."""
    crops: tuple[tuple[str | None, ...], ...]
    """For each rollout, in order, the names of its stored crops."""

    @model_validator(mode="after")
    def _check_crops(self) -> Self:
        if len(self.crops) != len(self.group.rollouts):
            raise ValueError(f"expected crops for {len(self.group.rollouts)} rollouts, got {len(self.crops)}")
        return self


class ImageStore:
    """A folder of images that never outgrows its share of the disk.

    Attributes:
        folder: Where the images lie, made when missing.
        max_bytes: Size that all of them together may have.
        is_full: Whether an image has been refused.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.max_bytes = max_bytes
        self.is_full = False
        self._used = sum(path.stat().st_size for path in folder.glob("*.jpg"))

    def save(self, image: Image.Image) -> str | None:
        """Store a small copy; returns its name, or None when there is no room for it."""
        data = _encode(image)
        name = f"{hashlib.sha256(data).hexdigest()[:20]}.jpg"
        if (self.folder / name).exists():
            return name
        if self._used + len(data) > self.max_bytes:
            self.is_full = True
            return None
        write_atomically(self.folder / name, data)
        self._used += len(data)
        return name


def save_groups(
    layout: RunLayout, step: int, groups: Sequence[GroupImages], store: ImageStore, *, is_held_out: bool = False
) -> None:
    """Record the groups of a step; a record of the same step, from an earlier attempt, is replaced."""
    lines = [
        SavedGroup(
            sample=item.sample,
            group=item.group,
            image_wh=item.image_wh,
            overview=store.save(item.overview) if item.overview else None,
            crops=tuple(tuple(store.save(crop) for crop in crops) for crops in item.crops),
        ).model_dump_json()
        for item in groups
    ]
    write_atomically(layout.rollouts_of(step, is_held_out=is_held_out), "".join(line + "\n" for line in lines))


def list_rollout_steps(layout: RunLayout, *, is_held_out: bool = False) -> list[int]:
    """The steps whose rollouts are recorded, in order: those that were trained on, or those of held-out questions."""
    pattern = "held_out_*.jsonl" if is_held_out else "step_*.jsonl"
    steps = {path: read_step(path.name) for path in layout.rollouts.glob(pattern)}
    return sorted(step for step in steps.values() if step is not None)


def read_groups(layout: RunLayout, step: int, *, is_held_out: bool = False) -> list[SavedGroup]:
    """The recorded groups of a step: those that were trained on, or those of held-out questions.

    Raises:
        DataError: If nothing is recorded for the step, or a line is no group.
    """
    path = layout.rollouts_of(step, is_held_out=is_held_out)
    groups = []
    for number, value in read_jsonl(path, reject_symlinks=True):
        try:
            groups.append(SavedGroup.model_validate(value))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise DataError(f"{path} line {number} is no group of rollouts: {where}: {first['msg']}") from error
    return groups


def find_image(layout: RunLayout, name: str) -> Path:
    """The stored image of that name, which came from a file or a client.

    Raises:
        InputError: If the name leads out of the folder of images, or there is no such image.
    """
    path = resolve_inside(layout.images, name)
    if path.suffix != ".jpg" or not os.path.isfile(path):  # noqa: PTH113 - is_file raises where a name is too long
        raise InputError(f"expected a stored image of {layout.run_id}, got {name!r}, which is not there")
    return path


def _encode(image: Image.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
