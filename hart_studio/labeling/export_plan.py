"""What an export writes, decided before a byte is written: which labels, in which split, under which file names."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, get_args

from hart_studio.errors import DataError, ImageError, InputError
from hart_studio.files import from_stored_path
from hart_studio.geometry import WH, clip
from hart_studio.labeling.export_files import check_image, common_folder, unique_names
from hart_studio.labeling.records import (
    DEFAULT_CLASS,
    MAX_CLASS_CHARS,
    REVIEWED_STATUSES,
    USABLE_STATUSES,
    ImageFile,
    Item,
    Origin,
    Status,
)
from hart_studio.models.families import FAMILIES
from hart_studio.records import Box

SPLITS: Final = ("train", "val", "test")
"""Names of splits, in the order in which they share the hash out."""

MIN_SIDE_PX: Final = 1e-3
"""A box with a shorter side is the noise of a float, not a region; no format but ours can hold it."""

_WAITING: Final[frozenset[Status]] = frozenset({"new", "proposed", "failed"})
MAY_HAVE_REGION_SQL: Final = (
    f"(items.status IN ({', '.join(repr(status) for status in sorted(_WAITING))}) OR "
    f"(items.boxes > 0 AND items.status IN ({', '.join(repr(status) for status in USABLE_STATUSES)})))"
)
"""Condition of ``may_have_region`` on the table ``items``."""
NO_BACKGROUND: Final = "no box on an image with undecided questions, or with boxes that are not exported"
"""Reason for which a format without questions gets no label of an image."""

_UNLABELED: Final[frozenset[Status]] = frozenset({"new", "failed", "bad_question"})


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Attributes:
        statuses: Items of these statuses.
        min_score: Least ``Label.score`` of a label that no person decided on; None = any, also an unknown one.
        splits: Share of the images for each of ``SPLITS``, adding up to 1. An image's split is a hash of its
            content: it is never in two, and stays in its own when others join.
        images: ``copy`` them into the export, or write their paths below their common folder (``reference``). Links
            are not offered: some trainers rewrite damaged JPEGs in place and would reach the originals through them.
        salt: Another text gives another split.
        classes: Classes of the project, see ``class_of``; empty = those that people and other tools gave to boxes.
        box_class: The one class of all boxes; empty = see ``class_of``. Our own format keeps labels as they are.
        chat_family: For grounded conversations: key of ``models.families``.
        model_wh_of: For grounded conversations of a family that writes pixels of its resized input (Qwen2.5-VL):
            upright original (width, height) -> the size that the model sees, from the processor's real output, as
            ``models.inputs.process_image(processor, family, overview, is_alone=True).size_wh`` gives it.
    """

    statuses: tuple[Status, ...] = USABLE_STATUSES
    min_score: float | None = None
    splits: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1})
    images: Literal["copy", "reference"] = "copy"
    salt: str = ""
    classes: tuple[str, ...] = ()
    box_class: str = ""
    chat_family: str = "qwen3_vl"
    model_wh_of: Callable[[WH], WH] | None = None

    def __post_init__(self) -> None:
        if not self.statuses or not set(self.statuses) <= set(get_args(Status)):
            raise InputError(f"expected statuses among {', '.join(get_args(Status))}, got {self.statuses}; choose some")
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise InputError(f"expected a least score in [0, 1] or none, got {self.min_score}; change it")
        shares = tuple(self.splits.values())
        is_whole = all(share >= 0 for share in shares) and math.isclose(sum(shares), 1, abs_tol=1e-6)
        if not is_whole or not set(self.splits) <= set(SPLITS):
            raise InputError(
                f"expected shares of {', '.join(SPLITS)} that add up to 1, got {dict(self.splits)}; change them"
            )
        if self.images not in ("copy", "reference"):
            raise InputError(f"expected images to be 'copy' or 'reference', got {self.images!r}; choose one")
        for name in (self.box_class, *self.classes):
            if len(name) > MAX_CLASS_CHARS or not name.isprintable():
                raise InputError(
                    f"expected a class name of at most {MAX_CLASS_CHARS} printable characters, got {name[:40]!r}"
                )
        if self.chat_family not in FAMILIES:
            raise InputError(f"expected one of the families {', '.join(FAMILIES)}, got {self.chat_family!r}")


@dataclass(frozen=True)
class PlannedItem:
    """An item as the formats see it.

    Attributes:
        item: The item, untouched.
        boxes: Its boxes clipped to the image, with their class as the label and the score that is exported; none for
            a rejected label, whose boxes are known to be wrong.
    """

    item: Item
    boxes: tuple[Box, ...]

    @property
    def score(self) -> float | None:
        """The score that is exported, see ``exported_score``."""
        return exported_score(self.item.label.origin, self.item.label.score)

    @property
    def is_negative(self) -> bool:
        """Whether it says "nothing here": rejected, or usable without ever having had a box."""
        return is_negative(self.item.label.status, bool(self.item.label.boxes))

    @property
    def is_labeled(self) -> bool:
        """Whether a data set can use it: it has boxes that no one called wrong, or is a confirmed negative."""
        return is_labeled(self.item.label.status, bool(self.item.label.boxes), bool(self.boxes))


@dataclass(frozen=True)
class PlannedImage:
    """An image with everything that is exported of it.

    Attributes:
        file: The original.
        name: Its file name in the export, unique by its stem whatever the case. With ``images="reference"`` its
            path below ``ExportPlan.image_root`` instead, with forward slashes.
        split: One of ``SPLITS``.
        items: Its questions.
        waiting: Questions of this image that are left out and may have a region, see ``may_have_region``.
        is_rotated: Whether only its EXIF orientation makes it upright.
    """

    file: ImageFile
    name: str
    split: str
    items: tuple[PlannedItem, ...]
    waiting: int = 0
    is_rotated: bool = False

    @property
    def wh(self) -> WH:
        """Upright (width, height), pixels."""
        return self.file.width, self.file.height

    @property
    def merged_boxes(self) -> tuple[Box, ...]:
        """Boxes of all questions, for formats without questions; equal ones of one class count once."""
        unique = {(class_name(box), box.xyxy): box for planned in self.items for box in planned.boxes}
        return tuple(unique.values())


@dataclass(frozen=True)
class ExportPlan:
    """Everything that a format writes.

    Attributes:
        images: Sorted by name.
        options: What was asked for.
        image_root: Common folder of the originals; names start there when images are referred to.
        excluded: Reason -> number of items that are not exported.
        notes: What else a person should know.
    """

    images: tuple[PlannedImage, ...]
    options: ExportOptions
    image_root: Path
    excluded: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that hold an image, in the order of ``SPLITS``."""
        return tuple(split for split in SPLITS if self.of_split(split))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes; at least one, because readers refuse a data set without a class.

        Those of the project keep their order, also where no box has them, so that their numbers stay from one export
        to the next. The default one is left out where no box has it.
        """
        if self.options.box_class:
            return (self.options.box_class,)
        used = {class_name(box) for _, planned in self.rows() for box in planned.boxes}
        known = tuple(name for name in self.options.classes if name in used or name != DEFAULT_CLASS)
        return known or tuple(sorted(used)) or (DEFAULT_CLASS,)

    def of_split(self, split: str) -> tuple[PlannedImage, ...]:
        """The images of a split."""
        return tuple(image for image in self.images if image.split == split)

    def rows(self, split: str | None = None) -> list[tuple[PlannedImage, PlannedItem]]:
        """Every question with its image, of one split or of all."""
        chosen = self.images if split is None else self.of_split(split)
        return [(image, planned) for image in chosen for planned in image.items]


def class_name(box: Box) -> str:
    """The class of a box as formats write it: its label as one printable line, or ``DEFAULT_CLASS``."""
    printable = "".join(sign if sign.isprintable() else " " for sign in box.label)
    return " ".join(printable.split()) or DEFAULT_CLASS


def is_negative(status: Status, has_boxes: bool) -> bool:
    """Whether a label says "nothing here": rejected, or usable without ever having had a box."""
    return status == "rejected" or (status in USABLE_STATUSES and not has_boxes)


def is_labeled(status: Status, has_boxes: bool, has_usable_boxes: bool) -> bool:
    """Whether a data set can use a label: it has boxes that no one called wrong, or is a confirmed negative."""
    return is_negative(status, has_boxes) or (has_usable_boxes and status not in _UNLABELED)


def may_have_region(status: Status, has_boxes: bool) -> bool:
    """Whether a question that is not exported may have a region: no one decided on it, or its label has a box.

    An image with such a question is no background image, whatever its other questions say.
    """
    return status in _WAITING or (status in USABLE_STATUSES and has_boxes)


def class_of(box: Box, origin: Origin, options: ExportOptions) -> str:
    """The class of a box in an export.

    What a model wrote beside its box is an answer, not a class: such a box has the first class of the project. Others
    keep the label that a person or another tool gave them if the project has that class.

    Args:
        box: A box of a label.
        origin: Who drew the boxes of the label.
        options: Hold the classes.
    """
    first = options.classes[0] if options.classes else DEFAULT_CLASS
    if options.box_class:
        return options.box_class
    if origin == "model" or not box.label:
        return first
    name = class_name(box)
    return name if not options.classes or name in options.classes else first


def exported_score(origin: Origin, score: float | None) -> float | None:
    """The score of a label in an export: the calibrated one of boxes that a model made and no one changed.

    Once a person has changed the boxes, no score belongs to them. What is not calibrated is no probability.
    """
    return score if origin == "model" else None


def split_of(sha256: str, splits: Mapping[str, float], salt: str) -> str:
    """The split of an image, from its content alone.

    Args:
        sha256: Of the image's bytes, hexadecimal.
        splits: Share of each of ``SPLITS``.
        salt: Another one gives another split.
    """
    place = int.from_bytes(hashlib.sha256(f"{salt}:{sha256}".encode()).digest()[:8], "big") / 2**64
    chosen = [split for split in SPLITS if splits.get(split, 0) > 0]
    reached = 0.0
    for split in chosen:
        reached += splits[split]
        if place < reached:
            return split
    return chosen[-1]  # the shares may add up to a hair less than 1


def plan_export(
    items: Iterable[Item], options: ExportOptions, open_questions: Mapping[str, int] | None = None
) -> ExportPlan:
    """Choose the items, deal their images out to the splits and name the files.

    A file that lies in two places is one image. Images that are gone or changed since they were imported are left
    out with all their items. The order of ``items`` does not matter.

    Args:
        items: Any items; the newest revision of each.
        options: What to export.
        open_questions: SHA-256 of an image -> its questions that are not among ``items`` and may have a region.

    Raises:
        InputError: If the images have no common folder, as on two drives.
    """
    excluded: Counter[str] = Counter()
    groups: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in items:
        if item.id in groups[item.image.sha256]:
            excluded["the same item twice"] += 1
        groups[item.image.sha256].setdefault(item.id, item)
    notes: Counter[str] = Counter()
    found: list[tuple[PlannedImage, str]] = []
    for sha256, group in sorted(groups.items()):
        chosen = []
        for _, item in sorted(group.items()):
            if reason := exclusion_reason(item, options):
                excluded[reason] += 1
            else:
                chosen.append(PlannedItem(item, usable_boxes(item, notes, options)))
        if not chosen:
            continue
        file = min((each.item.image for each in chosen), key=lambda image: image.path)
        if options.images == "reference" and from_stored_path(file.path) != Path(file.path):
            excluded["a file name that is not UTF-8, which other tools cannot read: copy the images"] += len(chosen)
            continue
        try:
            suffix, is_rotated = check_image(file)
        except (DataError, ImageError) as error:
            excluded[str(error)] += len(chosen)
            continue
        taken = {each.item.id for each in chosen}
        labels = [item.label for name, item in group.items() if name not in taken]
        waiting = sum(may_have_region(label.status, bool(label.boxes)) for label in labels)
        waiting += (open_questions or {}).get(sha256, 0)
        split = split_of(sha256, options.splits, options.salt)
        found.append((PlannedImage(file, "", split, tuple(chosen), waiting, is_rotated), suffix))
    root = common_folder([image.file.path for image, _ in found])
    if options.images == "reference":
        names = [Path(os.path.relpath(image.file.path, root)).as_posix() for image, _ in found]
    else:
        names = unique_names([(image.file, suffix) for image, suffix in found])
    named = [replace(image, name=name) for (image, _), name in zip(found, names, strict=True)]
    return ExportPlan(
        images=tuple(sorted(named, key=lambda image: image.name)),
        options=options,
        image_root=root,
        excluded=dict(sorted(excluded.items())),
        notes=tuple(f"{count} {note}" for note, count in sorted(notes.items())),
    )


def exclusion_reason(item: Item, options: ExportOptions) -> str:
    """Why an item is not asked for; empty when it is.

    The least score binds programs only: what a person decided is wanted whatever the model thought of it.
    """
    return label_exclusion_reason(item.label.status, item.label.score, options)


def label_exclusion_reason(status: Status, score: float | None, options: ExportOptions) -> str:
    """The same of a label with this status and score."""
    if status not in options.statuses:
        return describe_status(status)
    if options.min_score is not None and status not in REVIEWED_STATUSES:
        if score is None:
            return "no score"
        if score < options.min_score:
            return f"score below {options.min_score:g}"
    return ""


def describe_status(status: Status) -> str:
    """Reason for which an item is left out: its status was not chosen."""
    return f"status {status}"


def usable_boxes(item: Item, notes: Counter[str], options: ExportOptions) -> tuple[Box, ...]:
    """The boxes of an item as a data set holds them; changes are counted in ``notes``.

    Args:
        item: The item.
        notes: What a person should know -> how often.
        options: Hold the classes.

    Returns:
        Clipped to the image, with ``class_of`` as their label and ``exported_score`` as their score.
    """
    if item.label.status == "rejected":
        return ()
    kept = []
    for box in item.label.boxes:
        inside = clip_box(box, (item.image.width, item.image.height))
        if inside is None:
            notes["boxes outside of the image or without an area, left out"] += 1
            continue
        if inside.xyxy != box.xyxy:
            notes["boxes that reached past the image, clipped"] += 1
        label = item.label
        changes = {
            "label": class_of(box, label.origin, options),
            "score": exported_score(label.origin, label.score),
        }
        kept.append(inside.model_copy(update=changes))
    return tuple(kept)


def clip_box(box: Box, wh: WH) -> Box | None:
    """The part of a box inside the image; None where there is none that a data set can hold."""
    is_inside = box.x_min >= 0 and box.y_min >= 0 and box.x_max <= wh[0] and box.y_max <= wh[1]
    inside = box if is_inside else clip(box, wh)
    return None if inside is None or min(inside.width, inside.height) < MIN_SIDE_PX else inside
