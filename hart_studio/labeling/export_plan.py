"""Plan of an export, made before anything is written: which labels, in which split, under which file names."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

from hart_studio.errors import DataError, ImageError, InputError
from hart_studio.files import from_stored_path, open_regular_file
from hart_studio.geometry import WH, clip
from hart_studio.imaging import SourceImage
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
"""Names of the splits, in hash order."""

MIN_SIDE_PX: Final = 1e-3
"""Smaller boxes are rounding noise, not regions. Only the native format can hold them."""

_WAITING: Final[frozenset[Status]] = frozenset({"new", "proposed", "failed"})
MAY_HAVE_REGION_SQL: Final = (
    f"(items.status IN ({', '.join(repr(status) for status in sorted(_WAITING))}) OR "
    f"(items.boxes > 0 AND items.status IN ({', '.join(repr(status) for status in USABLE_STATUSES)})))"
)
"""SQL condition of ``LabelState.may_have_region`` on the table ``items``."""
UNFIT: Final = "no label that this format can hold"
"""Exclusion reason of labels that a format cannot hold."""
NO_BACKGROUND: Final = (
    "image without exported boxes, but with unreviewed questions or excluded boxes (would become a false background "
    "image)"
)
"""Exclusion reason in formats without questions, for images that would wrongly become background."""

_UNLABELED: Final[frozenset[Status]] = frozenset({"new", "failed", "bad_question"})

_MAX_STEM_CHARS: Final = 80
_SUFFIXES: Final = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        statuses: Statuses of the items to export.
        min_score: Minimum ``Label.score`` of labels without a review; None = any, also an unknown one.
        splits: Share of the images per split of ``SPLITS``, sum 1. The split of an image is a hash of its content: an
            image is in one split only, and stays there when others are added.
        images: ``copy`` them into the export, or write their paths below the common folder (``reference``). Links are
            not offered: some trainers rewrite damaged JPEGs in place and would change the originals.
        exif: Copies of images with an EXIF rotation: pixels turned ``upright``, or pixels as ``stored`` with the boxes
            turned; see ``rotated_images``. The native format copies such files unchanged.
        salt: Another salt gives other splits.
        classes: Classes of the project, see ``class_of``; empty = the box labels of reviewers and other tools.
        box_class: One class for all boxes; empty = see ``class_of``. The native format keeps labels as they are.
        chat_family: Model family of grounded conversations: key of ``models.families``.
        model_wh_of: For grounded conversations of a family whose boxes are pixels of the resized input (Qwen2.5-VL):
            upright original (width, height) -> size of the model input, from the output of the processor, as in
            ``models.inputs.process_image(processor, family, overview, is_alone=True).size_wh``.
    """

    statuses: tuple[Status, ...] = USABLE_STATUSES
    min_score: float | None = None
    splits: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1})
    images: Literal["copy", "reference"] = "copy"
    exif: Literal["upright", "stored"] = "upright"
    salt: str = ""
    classes: tuple[str, ...] = ()
    box_class: str = ""
    chat_family: str = "qwen3_vl"
    model_wh_of: Callable[[WH], WH] | None = None

    def __post_init__(self) -> None:
        if not self.statuses or not set(self.statuses) <= set(get_args(Status)):
            raise InputError(f"expected statuses among {', '.join(get_args(Status))}, got {self.statuses}")
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise InputError(f"expected a minimum score from 0 to 1, or none, got {self.min_score}")
        shares = tuple(self.splits.values())
        is_whole = all(share >= 0 for share in shares) and math.isclose(sum(shares), 1, abs_tol=1e-6)
        if not is_whole or not set(self.splits) <= set(SPLITS):
            raise InputError(f"expected shares of {', '.join(SPLITS)} that add up to 1, got {dict(self.splits)}")
        if self.images not in ("copy", "reference"):
            raise InputError(f"expected images to be 'copy' or 'reference', got {self.images!r}")
        if self.exif not in ("upright", "stored"):
            raise InputError(f"expected exif to be 'upright' or 'stored', got {self.exif!r}")
        for name in (self.box_class, *self.classes):
            if len(name) > MAX_CLASS_CHARS or not name.isprintable():
                raise InputError(
                    f"expected a class name of at most {MAX_CLASS_CHARS} printable characters, got {name[:40]!r}"
                )
        if self.chat_family not in FAMILIES:
            raise InputError(f"expected a model family among {', '.join(FAMILIES)}, got {self.chat_family!r}")


class LabelState(NamedTuple):
    """What decides whether a label is exported."""

    status: Status
    has_boxes: bool
    """Whether it has boxes, also outside of the image."""
    has_usable_boxes: bool
    """Whether any of its boxes is exported."""

    @property
    def is_negative(self) -> bool:
        """Whether it is a negative: rejected, or usable without ever having had a box."""
        return self.status == "rejected" or (self.status in USABLE_STATUSES and not self.has_boxes)

    @property
    def is_labeled(self) -> bool:
        """Whether a dataset can use it: it has boxes that were not rejected, or is a confirmed negative."""
        return self.is_negative or (self.has_usable_boxes and self.status not in _UNLABELED)

    @property
    def may_have_region(self) -> bool:
        """Whether its question may have a region that is not exported: it has no decision yet, or its label has a box.

        An image with such a question is not exported as background, whatever its other questions say.
        """
        return self.status in _WAITING or (self.status in USABLE_STATUSES and self.has_boxes)


@dataclass(frozen=True)
class PlannedItem:
    """An item to export.

    Attributes:
        item: The item, unchanged.
        boxes: Its boxes clipped to the image, with the exported class and score; none for a rejected label, whose boxes
            are wrong.
    """

    item: Item
    boxes: tuple[Box, ...]

    @property
    def score(self) -> float | None:
        """The exported score, see ``exported_score``."""
        return exported_score(self.item.label.origin, self.item.label.score)

    @property
    def state(self) -> LabelState:
        """What decides whether it is exported."""
        return LabelState(self.item.label.status, bool(self.item.label.boxes), bool(self.boxes))


@dataclass(frozen=True)
class PlannedImage:
    """An image with all its exported items.

    Attributes:
        file: The original image.
        name: File name in the export, with a case-insensitively unique stem. With ``images="reference"`` its path below
            ``ExportPlan.image_root``, with forward slashes.
        split: One of ``SPLITS``.
        items: Its questions.
        waiting: Excluded questions of this image that may have a region, see ``LabelState.may_have_region``.
        orientation: EXIF orientation of the original, 1 to 8; 1 is upright.
        rewritten: Copy without an EXIF rotation to export instead of the original; None = the original is exported.
        rewritten_sha256: SHA-256 of that copy, hexadecimal.
    """

    file: ImageFile
    name: str
    split: str
    items: tuple[PlannedItem, ...]
    waiting: int = 0
    orientation: int = 1
    rewritten: Path | None = None
    rewritten_sha256: str = ""

    @property
    def wh(self) -> WH:
        """(width, height) in the frame of the exported boxes, pixels: upright, except for ``exif="stored"``."""
        return self.file.wh

    @property
    def is_rotated(self) -> bool:
        """Whether EXIF rotates or mirrors the original."""
        return self.orientation != 1

    @property
    def source(self) -> Path:
        """File whose bytes are exported."""
        return self.rewritten or from_stored_path(self.file.path)

    @property
    def exported_sha256(self) -> str:
        """SHA-256 of that file, hexadecimal."""
        return self.rewritten_sha256 or self.file.sha256

    @property
    def merged_boxes(self) -> tuple[Box, ...]:
        """Boxes of all questions, for formats without questions, without duplicates of the same class."""
        unique = {(class_name(box), box.xyxy): box for planned in self.items for box in planned.boxes}
        return tuple(unique.values())


@dataclass(frozen=True)
class ExportPlan:
    """Everything that a format writes.

    Attributes:
        images: Sorted by name.
        options: Options of the export.
        image_root: Common folder of the originals; referenced images have paths relative to it.
        excluded: Reason -> number of excluded items.
        notes: Notes to show.
    """

    images: tuple[PlannedImage, ...]
    options: ExportOptions
    image_root: Path
    excluded: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits with at least one image, in the order of ``SPLITS``."""
        return tuple(split for split in SPLITS if self.of_split(split))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes; at least one, because readers reject a dataset without a class.

        The classes of the project keep their order, and stay in the list without boxes, so that class ids do not change
        between exports. The default class is dropped if no box has it.
        """
        if self.options.box_class:
            return (self.options.box_class,)
        used = {class_name(box) for _, planned in self.rows() for box in planned.boxes}
        known = tuple(name for name in self.options.classes if name in used or name != DEFAULT_CLASS)
        return known or tuple(sorted(used)) or (DEFAULT_CLASS,)

    def path_of(self, image: PlannedImage) -> str:
        """Path of an image: below ``images`` in the export, or below ``image_root`` if images are referenced."""
        return f"images/{image.name}" if self.options.images == "copy" else image.name

    def of_split(self, split: str) -> tuple[PlannedImage, ...]:
        """Images of a split."""
        return tuple(image for image in self.images if image.split == split)

    def rows(self, split: str | None = None) -> list[tuple[PlannedImage, PlannedItem]]:
        """All questions with their images, of one split or of all."""
        chosen = self.images if split is None else self.of_split(split)
        return [(image, planned) for image in chosen for planned in image.items]


def class_name(box: Box) -> str:
    """Class of a box in an export: its label as one printable line, or ``DEFAULT_CLASS``."""
    return to_class(box.label)


def to_class(label: str) -> str:
    """Convert the label of a box to a class: one printable line, or ``DEFAULT_CLASS``."""
    printable = "".join(sign if sign.isprintable() else " " for sign in label)
    return " ".join(printable.split()) or DEFAULT_CLASS


def class_of(label: str, origin: Origin, options: ExportOptions) -> str:
    """Class of a box in an export.

    The text that a model writes beside a box is an answer, not a class, so its box gets the first class of the project.
    Other boxes keep the label of the reviewer or other tool if the project has that class.
    """
    first = options.classes[0] if options.classes else DEFAULT_CLASS
    if options.box_class:
        return options.box_class
    if origin == "model" or not label:
        return first
    name = to_class(label)
    return name if not options.classes or name in options.classes else first


def exported_score(origin: Origin, score: float | None) -> float | None:
    """Score of a label in an export: the calibrated score if a model made the boxes and no one changed them.

    A score does not apply to boxes that a reviewer changed. An uncalibrated score is no probability.
    """
    return score if origin == "model" else None


def split_of(sha256: str, splits: Mapping[str, float], salt: str) -> str:
    """Split of an image, computed from its content.

    Args:
        sha256: SHA-256 of the image file, hexadecimal.
        splits: Share per split of ``SPLITS``.
        salt: Another salt gives other splits.
    """
    position = int.from_bytes(hashlib.sha256(f"{salt}:{sha256}".encode()).digest()[:8], "big") / 2**64
    chosen = [split for split in SPLITS if splits.get(split, 0) > 0]
    reached = 0.0
    for split in chosen:
        reached += splits[split]
        if position < reached:
            return split
    return chosen[-1]  # rounding: the shares may add up to slightly less than 1


def plan_export(
    items: Iterable[Item], options: ExportOptions, undecided_questions: Mapping[str, int] | None = None
) -> ExportPlan:
    """Select the items, assign their images to splits and choose file names.

    Identical files at two paths are one image. Images that are gone or changed since the import are excluded with all
    their items. The order of ``items`` does not matter.

    Args:
        items: Items with their newest revision.
        options: Options of the export.
        undecided_questions: SHA-256 of an image -> its questions that are not in ``items`` and may have a region.

    Raises:
        InputError: If the images have no common folder, for instance with two drives.
    """
    excluded: Counter[str] = Counter()
    groups: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in items:
        if item.id in groups[item.image.sha256]:
            excluded["duplicate item"] += 1
        groups[item.image.sha256].setdefault(item.id, item)
    notes: Counter[str] = Counter()
    found: list[tuple[PlannedImage, str]] = []
    for sha256, group in sorted(groups.items()):
        chosen = []
        for _, item in sorted(group.items()):
            if reason := exclusion_reason(item.label.status, item.label.score, options):
                excluded[reason] += 1
            else:
                chosen.append(PlannedItem(item, usable_boxes(item, notes, options)))
        if not chosen:
            continue
        file = min((each.item.image for each in chosen), key=lambda image: image.path)
        if options.images == "reference" and from_stored_path(file.path) != Path(file.path):
            excluded["file name is not UTF-8, which other tools cannot read: copy the images"] += len(chosen)
            continue
        try:
            suffix, orientation = check_image(file)
        except (DataError, ImageError) as error:
            excluded[str(error)] += len(chosen)
            continue
        taken = {each.item.id for each in chosen}
        others = (item.label for name, item in group.items() if name not in taken)
        waiting = sum(LabelState(label.status, bool(label.boxes), False).may_have_region for label in others)
        waiting += (undecided_questions or {}).get(sha256, 0)
        split = split_of(sha256, options.splits, options.salt)
        found.append((PlannedImage(file, "", split, tuple(chosen), waiting, orientation), suffix))
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


def exclusion_reason(status: Status, score: float | None, options: ExportOptions) -> str:
    """Why a label is excluded by the options; empty when it is not.

    The minimum score applies only to labels without a review.
    """
    if status not in options.statuses:
        return describe_status(status)
    if options.min_score is not None and status not in REVIEWED_STATUSES:
        if score is None:
            return "no score"
        if score < options.min_score:
            return f"score below {options.min_score:g}"
    return ""


def describe_status(status: Status) -> str:
    """Exclusion reason of an item whose status was not selected."""
    return f"status {status}"


def usable_boxes(item: Item, notes: Counter[str], options: ExportOptions) -> tuple[Box, ...]:
    """Exported boxes of an item; counts changes in ``notes``.

    Args:
        item: The item.
        notes: Note -> number of boxes; is updated.
        options: Options with the classes.

    Returns:
        Boxes clipped to the image, with ``class_of`` as their label and ``exported_score`` as their score.
    """
    label = item.label
    if label.status == "rejected":
        return ()
    kept = []
    for box in label.boxes:
        inside = clip_box(box, item.image.wh)
        if inside is None:
            notes["boxes outside of the image or without an area, excluded"] += 1
            continue
        if inside.xyxy != box.xyxy:
            notes["boxes clipped to the image"] += 1
        changes = {
            "label": class_of(box.label, label.origin, options),
            "score": exported_score(label.origin, label.score),
        }
        kept.append(inside.model_copy(update=changes))
    return tuple(kept)


def clip_box(box: Box, wh: WH) -> Box | None:
    """Part of a box inside the image; None if there is none that a dataset can hold."""
    is_inside = box.x_min >= 0 and box.y_min >= 0 and box.x_max <= wh[0] and box.y_max <= wh[1]
    inside = box if is_inside else clip(box, wh)
    return None if inside is None or min(inside.width, inside.height) < MIN_SIDE_PX else inside


def check_image(file: ImageFile) -> tuple[str, int]:
    """Check that an original image is unchanged since the import.

    Returns:
        Suffix of its format, kept as written when it is a common one, and EXIF orientation.

    Raises:
        DataError: If the file is gone or has changed.
        ImageError: If the image cannot be decoded.
    """
    digest = hashlib.sha256()
    try:
        with open_regular_file(from_stored_path(file.path), follow_symlinks=True) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError) as error:
        raise DataError("the image is gone or cannot be read") from error
    if digest.hexdigest() != file.sha256:
        raise DataError("the image has changed since it was imported")
    with SourceImage(file.path) as image:
        usual, orientation = _SUFFIXES[image.format], image.orientation
    suffix = from_stored_path(file.path).suffix.lower()
    return (suffix if suffix in usual else usual[0]), orientation


def common_folder(paths: Sequence[str]) -> Path:
    """Return the deepest folder that contains all files.

    Raises:
        InputError: If there is none, for instance with two drives.
    """
    try:
        return Path(os.path.commonpath([Path(path).parent for path in paths])) if paths else Path()
    except ValueError as error:  # relative and absolute paths, or two drives
        raise InputError(
            "The images are on two drives and have no common folder. Export them separately, or copy them."
        ) from error


def unique_names(files: Sequence[tuple[ImageFile, str]]) -> list[str]:
    """File names with case-insensitively unique stems, because label files are named after them."""
    stems = [
        re.sub(r"[^\w.-]+|^[.]+|[.]+$", "_", Path(file.path).stem)[:_MAX_STEM_CHARS] or "image" for file, _ in files
    ]
    count = Counter(stem.casefold() for stem in stems)
    used: set[str] = set()
    names = []
    for (file, suffix), stem in zip(files, stems, strict=True):
        wanted = stem if count[stem.casefold()] == 1 else f"{stem}-{file.sha256[:12]}"
        unique = wanted if wanted.casefold() not in used else f"{stem}-{file.sha256}"
        used.add(unique.casefold())
        names.append(f"{unique}{suffix}")
    return names
