"""Disjoint parts of a dataset: D_RL, D_SFT and held-out evaluation (paper, Sec. 4.3).

Training parts have no gold boxes, so a trainer cannot use them. Only the evaluation part keeps them.

The order of the samples is derived from hashes of the seed and their ids. It does not depend on the
order of the file, on the location of the images, or on the random numbers of a library. Evaluation is assigned first:
changing the size of a training part does not change it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field

from hart_studio.errors import DataError, InputError
from hart_studio.files import read_regular_file, write_json
from hart_studio.records import GoldSample, Record, Sample

_COUNT_TITLES: Final = {"eval_samples": "held-out", "rl_samples": "RL", "sft_samples": "SFT"}


class SplitManifest(Record):
    """Manifest that reproduces a split; saved with a run."""

    fingerprint: str
    """SHA-256 of the dataset, hexadecimal; see ``fingerprint``."""
    seed: int
    """Seed of the sample order."""
    split_by_image: bool
    """Whether no image is in more than one part."""
    shared_images: int = Field(ge=0)
    """Number of images in more than one part; 0 with ``split_by_image``."""
    evaluation_ids: tuple[str, ...]
    """Ids of the held-out part."""
    rl_ids: tuple[str, ...]
    """Ids of D_RL."""
    sft_ids: tuple[str, ...]
    """Ids of D_SFT."""
    dropped: str = ""
    """Number and reasons of the invalid rows, which are in no part; empty if there are none."""


@dataclass(frozen=True)
class Split:
    """Disjoint parts of a dataset."""

    rl: tuple[Sample, ...]
    """D_RL, without gold boxes."""
    sft: tuple[Sample, ...]
    """D_SFT, without gold boxes."""
    evaluation: tuple[GoldSample, ...]
    """Held-out part, with gold boxes if the source has them."""
    manifest: SplitManifest
    """Manifest that reproduces the split."""


def fingerprint(samples: Iterable[GoldSample]) -> str:
    """SHA-256 of the samples, hexadecimal, independent of their order and of the location of the images.

    It covers every field except the name of the dataset. Of an image it covers the file name, not the folder or the
    pixels.
    """
    rows = [
        {**sample.model_dump(mode="json", exclude={"source"}), "image": Path(sample.image).name} for sample in samples
    ]
    for row in rows:
        if not row["label_boxes"]:  # keeps the fingerprint of data without labels unchanged
            del row["label_boxes"]
    lines = sorted(json.dumps(row, sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def split_samples(
    samples: Sequence[GoldSample],
    rl_samples: int,
    sft_samples: int | None,
    eval_samples: int,
    *,
    seed: int,
    split_by_image: bool,
) -> Split:
    """Assign samples to the parts at random.

    Args:
        samples: Samples with unique ids.
        rl_samples: Size of D_RL. The paper uses 10,000 of the 21,690 in MME-RealWorld.
        sft_samples: Size of D_SFT; None = the rest.
        eval_samples: Size of the held-out part.
        seed: Random seed.
        split_by_image: Keep all questions of an image in one part. A part may then be smaller than its size, if no
            remaining image has few enough questions to fit; the manifest lists its ids.

    Raises:
        InputError: If a count is negative, if there are too few samples, or if a requested part stays empty.
        DataError: If two samples have the same id.
    """
    wanted = {"eval_samples": eval_samples, "rl_samples": rl_samples, "sft_samples": sft_samples or 0}
    _check_counts(wanted, len(samples), takes_rest=sft_samples is None)
    _index_by_id(samples)
    capacities = [eval_samples, rl_samples, len(samples) if sft_samples is None else sft_samples]
    parts: list[list[str]] = [[], [], []]
    for ids in _shuffled_groups(samples, seed, split_by_image):
        part = next((index for index, capacity in enumerate(capacities) if len(ids) <= capacity), None)
        if part is not None:
            capacities[part] -= len(ids)
            parts[part] += ids
    for (name, count), part_ids in zip(wanted.items(), parts, strict=True):
        if count and not part_ids:
            raise InputError(
                f"No remaining image has at most {name} = {count} questions. Raise {name} or disable split_by_image."
            )
    evaluation_ids, rl_ids, sft_ids = (tuple(ids) for ids in parts)
    manifest = SplitManifest(
        fingerprint=fingerprint(samples),
        seed=seed,
        split_by_image=split_by_image,
        shared_images=_count_shared_images(samples, parts),
        evaluation_ids=evaluation_ids,
        rl_ids=rl_ids,
        sft_ids=sft_ids,
    )
    return restore_split(samples, manifest)


def restore_split(samples: Sequence[GoldSample], manifest: SplitManifest) -> Split:
    """Restore the parts of a manifest.

    Args:
        samples: The dataset, in any order.
        manifest: From ``split_samples`` or ``read_manifest``.

    Raises:
        DataError: If the samples have changed, or if the manifest contains a duplicate or unknown id.
    """
    found = fingerprint(samples)
    if found != manifest.fingerprint:
        raise DataError(
            f"The dataset differs from the one this run started with: expected fingerprint "
            f"{manifest.fingerprint[:12]}, got {found[:12]}. Restore it, or start a new run."
        )
    by_id = _index_by_id(samples)
    named = Counter((*manifest.evaluation_ids, *manifest.rl_ids, *manifest.sft_ids))
    wrong = [name for name, count in named.items() if count > 1 or name not in by_id]
    if wrong:
        raise DataError(f"The split manifest contains the duplicate or unknown id {wrong[0]!r}. Start a new run.")
    return Split(
        rl=tuple(by_id[name].without_gold_boxes() for name in manifest.rl_ids),
        sft=tuple(by_id[name].without_gold_boxes() for name in manifest.sft_ids),
        evaluation=tuple(by_id[name] for name in manifest.evaluation_ids),
        manifest=manifest,
    )


def write_manifest(path: Path, manifest: SplitManifest) -> None:
    """Write a manifest as JSON, atomically.

    Raises:
        OSError: If the folder is missing or full.
    """
    write_json(path, manifest.model_dump(mode="json"))


def read_manifest(path: Path) -> SplitManifest:
    """Read a manifest written by ``write_manifest``.

    Raises:
        DataError: If the file cannot be read, or is not a manifest.
    """
    try:
        return SplitManifest.model_validate_json(read_regular_file(path, follow_symlinks=True))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise DataError(f"Cannot read the split manifest {path}: {reason}. Restore it, or start a new run.") from error


def _check_counts(wanted: dict[str, int], available: int, *, takes_rest: bool) -> None:
    """Check the counts; ``sft_samples`` is 0 if it takes the rest."""
    if min(wanted.values()) < 0:
        raise InputError(f"expected counts of at least 0, got {wanted}; use 0 for an unused part")
    least = 0 if takes_rest else 1
    requested = sum(wanted.values())
    if requested < least:
        raise InputError("No samples requested. Raise one of the counts.")
    if requested > available:
        parts = ", ".join(f"{_COUNT_TITLES[name]} {count:,}" for name, count in wanted.items() if count)
        raise InputError(
            f"{requested:,} samples requested ({parts}), but the dataset has {available:,}. Lower one of the counts."
        )


def _index_by_id(samples: Sequence[GoldSample]) -> dict[str, GoldSample]:
    by_id = {sample.id: sample for sample in samples}
    if len(by_id) != len(samples):
        twice, _ = Counter(sample.id for sample in samples).most_common(1)[0]
        raise DataError(f"The id {twice!r} occurs more than once. Rename or remove one.")
    return by_id


def _shuffled_groups(samples: Sequence[GoldSample], seed: int, split_by_image: bool) -> list[list[str]]:
    """Groups of ids that must stay together, in an order given by the seed."""
    groups: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        groups[sample.image if split_by_image else sample.id].append(sample.id)
    # A group is ordered by its smallest id: image paths differ between machines.
    return sorted((sorted(ids) for ids in groups.values()), key=lambda ids: _rank(seed, ids[0]))


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _count_shared_images(samples: Sequence[GoldSample], parts: Sequence[Sequence[str]]) -> int:
    part_of = {name: index for index, ids in enumerate(parts) for name in ids}
    parts_of_image: dict[str, set[int]] = defaultdict(set)
    for sample in samples:
        if sample.id in part_of:
            parts_of_image[sample.image].add(part_of[sample.id])
    return sum(len(found) > 1 for found in parts_of_image.values())
