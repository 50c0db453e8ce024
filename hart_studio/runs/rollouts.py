"""Recorded rollouts: prompts, boxes and outputs, with thumbnails of the images.

``rollouts/step_000010.jsonl`` holds one ``SavedGroup`` per line, ``rollouts/held_out_000020.jsonl`` those of the
held-out questions that are tracked through the run. Images are named by their content, so a crop that is shared by
rollouts or repeated in later steps is stored once.
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
"""Maximum longer side of a stored image, pixels."""
JPEG_QUALITY: Final = 85
"""JPEG quality of stored images."""


@dataclass(frozen=True, eq=False)
class GroupImages:
    """A rollout group with its images, to be recorded.

    Attributes:
        sample: The question.
        group: The rollouts.
        image_wh: (width, height) of the original upright image, the frame of every box.
        overview: The overview I_f, or None.
        crops: For each rollout, in order, the crops I_s of its answer turn; may be empty.
    """

    sample: Sample
    group: RolloutGroup
    image_wh: tuple[int, int]
    overview: Image.Image | None
    crops: Sequence[Sequence[Image.Image]]


class SavedGroup(Record):
    """One line of a record: a group and the names of its images."""

    sample: Sample
    """The question; never contains gold boxes."""
    group: RolloutGroup
    """The rollouts."""
    image_wh: tuple[int, int]
    """(width, height) of the original upright image, the frame of every box."""
    overview: str | None
    """Name of the stored overview; None if it was not stored. Open it with ``find_image``."""
    crops: tuple[tuple[str | None, ...], ...]
    """For each rollout, in order, the names of its stored crops."""

    @model_validator(mode="after")
    def _check_crops(self) -> Self:
        if len(self.crops) != len(self.group.rollouts):
            raise ValueError(f"expected crops for {len(self.group.rollouts)} rollouts, got {len(self.crops)}")
        return self


class ImageStore:
    """A folder of images with a size limit.

    Attributes:
        folder: Folder of the images, created if missing.
        max_bytes: Maximum total size.
        is_full: Whether an image has been refused.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.max_bytes = max_bytes
        self.is_full = False
        self._used = sum(path.stat().st_size for path in folder.glob("*.jpg"))

    def save(self, image: Image.Image) -> str | None:
        """Store a thumbnail; return its name, or None if the limit is reached."""
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
    """Record the groups of a step; an earlier record of the same step is replaced."""
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
    """List the steps with recorded rollouts, in order: training rollouts, or those of held-out questions."""
    pattern = "held_out_*.jsonl" if is_held_out else "step_*.jsonl"
    steps = {path: read_step(path.name) for path in layout.rollouts.glob(pattern)}
    return sorted(step for step in steps.values() if step is not None)


def read_groups(layout: RunLayout, step: int, *, is_held_out: bool = False) -> list[SavedGroup]:
    """Read the recorded groups of a step: training rollouts, or those of held-out questions.

    Raises:
        DataError: If nothing is recorded for the step, or a line is invalid.
    """
    path = layout.rollouts_of(step, is_held_out=is_held_out)
    groups = []
    for number, value in read_jsonl(path, reject_symlinks=True):
        try:
            groups.append(SavedGroup.model_validate(value))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise DataError(f"{path} line {number} is not a valid rollout group: {where}: {first['msg']}") from error
    return groups


def find_image(layout: RunLayout, name: str) -> Path:
    """Find a stored image by name, which may come from a file or a client.

    Raises:
        InputError: If the name is outside the image folder, or there is no such image.
    """
    path = resolve_inside(layout.images, name)
    if path.suffix != ".jpg" or not os.path.isfile(path):  # noqa: PTH113 - is_file raises where a name is too long
        raise InputError(f"There is no stored image {name!r} of {layout.run_id}")
    return path


def _encode(image: Image.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
