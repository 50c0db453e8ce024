"""Preview of a dataset before a run: a few samples with images, and the sizes of the splits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hart_studio.errors import HartError
from hart_studio.files import from_stored_path
from hart_studio.imaging import ImageOpener
from hart_studio.records import Sample
from hart_studio.runs.config import RunConfig

SAMPLES: Final = 5
THUMBNAIL_SIDE: Final = 480
"""Greatest side of a preview image, pixels."""


@dataclass(frozen=True)
class PreviewCard:
    """One sample without gold boxes, which training does not get either."""

    question: str
    choices: tuple[str, ...]
    answer: str
    part: str
    """Stage that uses the sample."""
    image: Path | None
    """Scaled copy; None if the image cannot be opened."""
    problem: str = ""


@dataclass(frozen=True)
class Preview:
    """Preview of a data source."""

    headline: str
    cards: tuple[PreviewCard, ...]
    left_out: tuple[str, ...]
    """Reasons for skipped rows, with counts."""


def preview_samples(config: RunConfig, folder: Path) -> Preview:
    """Read the source, split it, and render the first samples of each split.

    Args:
        config: Source and sizes.
        folder: Served folder for the images.

    Raises:
        DataError: If the source cannot be read.
        InputError: If it has too few samples.
    """
    # Reading a dataset of the hub imports its library, which takes seconds.
    from hart_studio.data.run_samples import load_samples, split_config  # noqa: PLC0415

    source = load_samples(config.data, folder / "drawn")
    split = split_config(config, source)
    parts = {"RL": split.rl, "SFT": split.sft, "held out": [sample.without_gold_boxes() for sample in split.evaluation]}
    headline = ", ".join(
        f"{len(samples):,} {name if name == 'held out' else 'for ' + name}" for name, samples in parts.items()
    )
    filled = {name: samples for name, samples in parts.items() if samples}
    shares = _share(SAMPLES, len(filled))
    cards = [
        _make_card(sample, name, source.open_image, folder)
        for (name, samples), count in zip(filled.items(), shares, strict=True)
        for sample in samples[:count]
    ]
    reasons = tuple(
        f"{count:,} row{'s' * (count != 1)} skipped: {reason}" for reason, count in source.loaded.reasons.most_common(3)
    )
    return Preview(headline, tuple(cards), reasons)


def _share(total: int, parts: int) -> Sequence[int]:
    """Split a total into integers that differ by at most 1, larger ones first."""
    return [total // parts + (index < total % parts) for index in range(parts)]


def _make_card(sample: Sample, part: str, open_image: ImageOpener, folder: Path) -> PreviewCard:
    source = from_stored_path(sample.image)
    version = source.stat().st_mtime_ns if source.exists() else 0  # the file may have changed
    name = f"preview-{hashlib.sha256(f'{source} {version}'.encode()).hexdigest()[:20]}.jpg"
    thumbnail: Path | None = folder / name
    problem = ""
    try:
        if not (folder / name).exists():
            with open_image(sample.image) as image:
                image.overview(max_side=THUMBNAIL_SIDE).save(folder / name, quality=85)
    except (HartError, OSError) as error:
        thumbnail, problem = None, str(error)
    return PreviewCard(sample.question, sample.choices, sample.answer or "", part, thumbnail, problem)
