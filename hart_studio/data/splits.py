"""Disjoint parts of one data set: D_RL, D_SFT and held-out evaluation (paper, Sec. 4.3; method, Sec. 4).

Training parts are blind: they have no gold boxes, so no trainer can read one. Only the evaluation part keeps them.

The order in which samples are dealt out comes from hashes of the seed and of their ids. So it does not depend on the
order of the file, on where the images lie, or on a library's random numbers, and evaluation is dealt first: another
size of a training part leaves it as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from hart_studio.errors import DataError, InputError
from hart_studio.files import read_regular_file, write_json
from hart_studio.records import GoldSample, Record, Sample


class SplitManifest(Record):
    """What makes a split again: kept beside a run."""

    fingerprint: str
    """SHA-256 of the data set that was split, hexadecimal; see ``fingerprint``."""
    seed: int
    """Seed of the order in which samples were dealt out."""
    split_by_image: bool
    """Whether no image is in more than one part."""
    shared_images: int = Field(ge=0)
    """Images in more than one part; 0 with ``split_by_image``."""
    evaluation_ids: tuple[str, ...]
    """Ids of the held-out part."""
    rl_ids: tuple[str, ...]
    """Ids of D_RL."""
    sft_ids: tuple[str, ...]
    """Ids of D_SFT."""


@dataclass(frozen=True)
class Split:
    """The parts. No sample is in two of them."""

    rl: tuple[Sample, ...]
    """D_RL, without gold boxes."""
    sft: tuple[Sample, ...]
    """D_SFT, without gold boxes."""
    evaluation: tuple[GoldSample, ...]
    """Held out, with gold boxes where the source has them."""
    manifest: SplitManifest
    """What makes the same split again."""


def fingerprint(samples: Iterable[GoldSample]) -> str:
    """SHA-256 of the samples, hexadecimal: the same whatever their order and wherever the images lie.

    It covers every field but the data set's name, and of an image its file name, not its pixels.
    """
    rows = [
        {**sample.model_dump(mode="json", exclude={"source"}), "image": Path(sample.image).name} for sample in samples
    ]
    for row in rows:
        if not row["label_boxes"]:  # so that data without labels keeps the fingerprint that it has always had
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
    """Deal samples out to the parts at random.

    Args:
        samples: One data set; ids unique.
        rl_samples: Size of D_RL. The paper takes 10,000 of MME-RealWorld's 21,690.
        sft_samples: Size of D_SFT; None = the rest.
        eval_samples: Size of the held-out part.
        seed: Another seed gives another split.
        split_by_image: Keep all questions of an image in one part. A part then stops short of its size when no image
            left
            over has few enough questions to fit in; the manifest's ids tell its size.

    Raises:
        InputError: If a count is negative, if there are too few samples, or if a part that was asked for stays empty.
        DataError: If two samples have one id.
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
                f"expected an image with at most {name} = {count} questions, got none left; "
                f"raise {name} or turn split_by_image off"
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
    """The parts that a manifest names.

    Args:
        samples: The data set that was split, in any order.
        manifest: From ``split_samples`` or ``read_manifest``.

    Raises:
        DataError: If the samples are not those that were split, or if the manifest names an id twice or a strange one.
    """
    found = fingerprint(samples)
    if found != manifest.fingerprint:
        raise DataError(
            f"expected the data set with fingerprint {manifest.fingerprint[:12]}, got {found[:12]}; "
            "the data have changed since they were split: split them again"
        )
    by_id = _index_by_id(samples)
    named = Counter((*manifest.evaluation_ids, *manifest.rl_ids, *manifest.sft_ids))
    wrong = [name for name, count in named.items() if count > 1 or name not in by_id]
    if wrong:
        raise DataError(f"expected each id of the manifest once and in the data set, got {wrong[0]!r}; split again")
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
    """Read what ``write_manifest`` wrote.

    Raises:
        DataError: If the file cannot be read, or is no manifest.
    """
    try:
        return SplitManifest.model_validate_json(read_regular_file(path, follow_symlinks=True))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise DataError(f"expected the manifest of a split at {path}, got: {reason}; split the data again") from error


def _check_counts(wanted: dict[str, int], available: int, *, takes_rest: bool) -> None:
    if min(wanted.values()) < 0:
        raise InputError(f"expected counts of at least 0, got {wanted}; give 0 to a part that is not wanted")
    least = 0 if takes_rest else 1
    if not least <= sum(wanted.values()) <= available:
        raise InputError(
            f"expected counts that add up to {least} to {available}, the samples there are, got {wanted}; lower a count"
        )


def _index_by_id(samples: Sequence[GoldSample]) -> dict[str, GoldSample]:
    by_id = {sample.id: sample for sample in samples}
    if len(by_id) != len(samples):
        twice, _ = Counter(sample.id for sample in samples).most_common(1)[0]
        raise DataError(f"expected ids that are unique, got {twice!r} more than once; rename or remove one")
    return by_id


def _shuffled_groups(samples: Sequence[GoldSample], seed: int, split_by_image: bool) -> list[list[str]]:
    """Ids that must stay together, in an order that the seed decides."""
    groups: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        groups[sample.image if split_by_image else sample.id].append(sample.id)
    # A group goes by its least id: the path of an image differs from machine to machine.
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
