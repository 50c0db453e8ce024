"""Table of the label formats: how each is read, written and compared, and which parts of a label it preserves."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, product
from pathlib import Path
from typing import Final, Literal, NamedTuple

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import InputError
from hart_studio.geometry import WH, XYXY
from hart_studio.labeling.export_plan import (
    NO_BACKGROUND,
    UNFIT,
    ExportOptions,
    ExportPlan,
    LabelState,
    PlannedImage,
    class_name,
)
from hart_studio.labeling.formats import (
    coco,
    createml,
    grounded_chat,
    image_folder,
    label_studio,
    native,
    pascal_voc,
    x_anylabeling,
    yolo,
)
from hart_studio.labeling.formats.reading import ImportOptions
from hart_studio.labeling.records import LabeledSample
from hart_studio.records import Box

LabelAspect = Literal[
    "unlabeled", "negatives", "questions", "classes", "scores", "scores_if_all_known", "statuses", "records"
]
"""Part of a label that a format can hold. ``questions``: questions with choices, answers and their own boxes.
``unlabeled``: items without a label to export. ``scores_if_all_known``: scores, but only if every exported label has
one. ``records``: the whole native record, with the boxes as they are, evidence, provenance, reviews and history."""

ROTATED_REFERENCE: Final = (
    "image with EXIF rotation, which some readers apply and others do not: copy the images, so that boxes and images "
    "agree"
)
"""Exclusion reason of referenced images with EXIF rotation."""

Loader = Callable[[Path, ImportOptions | None], LoadedSamples[LabeledSample]]
Saver = Callable[[ExportPlan, Path], None]

_QUESTION_ASPECTS: Final[frozenset[LabelAspect]] = frozenset({"negatives", "questions", "classes", "statuses"})
_FLOAT_NOISE_PX: Final = 1e-6
"""Rounding error of conversions between corners, sizes, centers and percent, for all supported image sizes."""

NamedBox = tuple[str, XYXY]
"""Class and edges of a box, pixels."""

_ROUNDING: Final = 1e-9
"""Added to a tolerance in the cell lookup, pixels, so that a difference equal to the tolerance is found."""

_GridCell = tuple[str, int, int, int, int]


def _exactly(wh: WH, options: ExportOptions) -> tuple[float, float]:
    del wh, options  # independent of both
    return _FLOAT_NOISE_PX, _FLOAT_NOISE_PX


class FittedLabels(NamedTuple):
    """Labels of one image in a format."""

    is_kept: list[bool]
    """Whether the format can hold each label."""
    waiting: int
    """Questions of the image that are not exported and may have a region."""
    reason: str
    """Why the kept labels are excluded, too; empty = they are not."""


@dataclass(frozen=True)
class FormatInfo:
    """Description of a format.

    Attributes:
        name: Key in ``FORMATS``.
        title: Display name.
        load: Reads a file or folder.
        save: Writes the labels of a plan into the export folder; None = the format is read-only.
        preserves: Parts of a label that it can hold.
        layout: Path of a copied image in the export, with ``{name}``, and ``{split}`` or ``{hub_split}``; empty =
            images are embedded.
        can_reference: Whether images can be referenced instead of copied.
        applies_exif: Whether its readers apply EXIF rotation, so that images with one can be referenced, too.
        is_detection_set: Whether a detector is trained on all boxes of an image, also with questions: a region without
            a box is background.
        tolerance: Image size, options -> maximum rounding error of an edge, original pixels, horizontal and vertical.
        written: Edges of a box, image size, options -> edges as read back, original pixels; None = unchanged.
        exclusion_reason: Why readers of the format would drop an image; empty = they do not.
        note: Note to show after an export; None = none.
    """

    name: str
    title: str
    load: Loader
    save: Saver | None = None
    preserves: frozenset[LabelAspect] = frozenset()
    layout: str = ""
    can_reference: bool = False
    applies_exif: bool = False
    is_detection_set: bool = False
    tolerance: Callable[[WH, ExportOptions], tuple[float, float]] = _exactly
    written: Callable[[XYXY, WH, ExportOptions], XYXY] | None = None
    exclusion_reason: Callable[[PlannedImage], str] | None = None
    note: Callable[[ExportPlan], str] | None = None

    def check_options(self, options: ExportOptions) -> None:
        """Check that the format supports the options.

        Raises:
            InputError: If it does not.
        """
        if options.images == "reference" and not self.can_reference:
            raise InputError(f"{self.title} cannot reference images. Copy them into the export.")
        if options.exif == "stored" and (options.images == "reference" or "records" in self.preserves):
            problem = "references images" if options.images == "reference" else "copies images unchanged"
            raise InputError(
                f"{self.title} {problem}, with boxes of the upright image, so boxes cannot be turned to the stored "
                "image. Choose upright."
            )
        if options.box_class and "records" in self.preserves:
            raise InputError(
                f"{self.title} keeps the labels of all boxes, so it does not support one class ({options.box_class!r}) "
                "for all boxes. Remove the class, or choose another format."
            )

    def path_of(self, image: PlannedImage, options: ExportOptions) -> str:
        """Path of an image in the export, or its name if it is referenced or embedded."""
        if not self.layout or options.images == "reference":
            return image.name
        return self.layout.format(name=image.name, split=image.split, hub_split=image_folder.FOLDER_OF[image.split])

    def fit_plan(self, plan: ExportPlan) -> ExportPlan:
        """Remove items from a plan that the format cannot hold or that its readers would misinterpret."""
        excluded = Counter(plan.excluded)
        images = []
        for image in plan.images:
            fitted = self.fit_labels([planned.state for planned in image.items], image.waiting)
            kept = tuple(compress(image.items, fitted.is_kept))
            excluded[UNFIT] += len(image.items) - len(kept)
            if reason := self._find_exclusion_reason(image, plan.options) or fitted.reason:
                excluded[reason] += len(kept)
            elif kept:
                images.append(replace(image, items=kept, waiting=fitted.waiting))
        counts = {reason: count for reason, count in sorted(excluded.items()) if count}
        return replace(plan, images=tuple(images), excluded=counts)

    def _find_exclusion_reason(self, image: PlannedImage, options: ExportOptions) -> str:
        if options.images == "reference" and image.is_rotated and not self.applies_exif:
            return ROTATED_REFERENCE
        return self.exclusion_reason(image) if self.exclusion_reason else ""

    def fit_labels(self, labels: Sequence[LabelState], waiting: int) -> FittedLabels:
        """Decide which labels of an image the format can hold, and whether its readers would misinterpret the image.

        Formats without questions cannot distinguish a negative from an unlabeled image. So an image without boxes is
        excluded while one of its questions may have a region that is not exported.

        Args:
            labels: Labels of the image that the options select.
            waiting: Its other questions that may have a region.
        """
        is_kept = [
            "unlabeled" in self.preserves
            or (label.is_labeled and (label.has_usable_boxes or "negatives" in self.preserves))
            for label in labels
        ]
        waiting += sum(label.may_have_region for label in labels if not label.is_labeled)
        has_boxes = any(label.has_usable_boxes for label in compress(labels, is_kept))
        is_ambiguous = "questions" not in self.preserves and waiting > 0 and not has_boxes
        return FittedLabels(is_kept, waiting, NO_BACKGROUND if is_ambiguous else "")

    def name_boxes(self, boxes: Iterable[Box]) -> list[NamedBox]:
        """Boxes as far as the format holds them: without classes that it does not preserve."""
        return [(class_name(box) if "classes" in self.preserves else "", box.xyxy) for box in boxes]


def _save_hf_parquet(plan: ExportPlan, folder: Path) -> None:
    from hart_studio.labeling.formats.hf_parquet import save_hf_parquet  # noqa: PLC0415 - takes seconds to import

    save_hf_parquet(plan, folder)


def _load_hf_parquet(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    from hart_studio.labeling.formats.hf_parquet import load_hf_parquet  # noqa: PLC0415 - as above

    return load_hf_parquet(path, options)


_TABLE: Final = (
    FormatInfo(
        "native",
        "HART Studio export (JSONL)",
        native.load_native,
        native.save_native,
        _QUESTION_ASPECTS | {"unlabeled", "scores", "records"},
        "images/{name}",
        can_reference=True,
        applies_exif=True,
    ),
    FormatInfo(
        "coco",
        "COCO JSON",
        coco.load_coco,
        coco.save_coco,
        _QUESTION_ASPECTS | {"scores"},
        "images/{name}",
        can_reference=True,
        is_detection_set=True,
    ),
    FormatInfo(
        "yolo",
        "YOLO (Ultralytics)",
        yolo.load_yolo,
        yolo.save_yolo,
        frozenset({"negatives", "classes"}),
        "images/{split}/{name}",
        is_detection_set=True,
        tolerance=lambda wh, _: yolo.tolerance(wh),
        written=lambda edges, wh, _: yolo.written_box(edges, wh),
        exclusion_reason=yolo.exclusion_reason,
    ),
    FormatInfo(
        "pascal_voc",
        "Pascal VOC XML",
        pascal_voc.load_pascal_voc,
        pascal_voc.save_pascal_voc,
        frozenset({"negatives", "classes"}),
        f"{pascal_voc.IMAGES}/{{name}}",
        is_detection_set=True,
        tolerance=lambda *_: pascal_voc.TOLERANCE,
        written=lambda edges, wh, _: pascal_voc.written_box(edges, wh),
        note=pascal_voc.describe_export,
    ),
    FormatInfo(
        "label_studio",
        "Label Studio tasks",
        label_studio.load_label_studio,
        label_studio.save_label_studio,
        _QUESTION_ASPECTS | {"scores"},
        "images/{name}",
        can_reference=True,
        applies_exif=True,
        note=label_studio.describe_serving,
    ),
    FormatInfo(
        "createml",
        "CreateML JSON",
        createml.load_createml,
        createml.save_createml,
        frozenset({"negatives", "classes"}),
        "{split}/{name}",
        can_reference=True,
        is_detection_set=True,
    ),
    FormatInfo(
        "image_folder",
        "Hugging Face ImageFolder",
        image_folder.load_image_folder,
        image_folder.save_image_folder,
        _QUESTION_ASPECTS | {"scores_if_all_known"},
        "{hub_split}/{name}",
    ),
    FormatInfo(
        "hf_parquet",
        "Hugging Face Parquet",
        _load_hf_parquet,
        _save_hf_parquet,
        _QUESTION_ASPECTS | {"scores"},
    ),
    FormatInfo(
        "grounded_chat",
        "Grounded conversations (JSONL)",
        grounded_chat.load_grounded_chat,
        grounded_chat.save_grounded_chat,
        _QUESTION_ASPECTS - {"negatives", "classes"},
        "images/{name}",
        can_reference=True,
        tolerance=grounded_chat.tolerance,
        written=grounded_chat.written_box,
    ),
    FormatInfo("x_anylabeling", "X-AnyLabeling and LabelMe JSON", x_anylabeling.load_x_anylabeling),
)

FORMATS: Final[dict[str, FormatInfo]] = {info.name: info for info in _TABLE}
"""All formats by name. ``image_folder`` and ``grounded_chat`` preserve more than stated here for some labels."""


def get_format(name: str) -> FormatInfo:
    """Return a format that can be written.

    Raises:
        InputError: If no such format exists.
    """
    info = FORMATS.get(name)
    if info is None or info.save is None:
        known = ", ".join(each.name for each in _TABLE if each.save)
        raise InputError(f"Unknown export format {name!r}. Choose one of: {known}.")
    return info


def get_unmatched_box(
    boxes: Sequence[NamedBox], others: Sequence[NamedBox], tolerance: tuple[float, float]
) -> NamedBox | None:
    """Return the first box without an equal one in ``others``, or None.

    Args:
        boxes: Boxes to find.
        others: Boxes to search. One of them may equal several boxes.
        tolerance: Maximum difference of edges, horizontal and vertical, pixels.

    """
    across, down = tolerance
    limits = (across, down, across, down)
    cells: dict[_GridCell, list[XYXY]] = defaultdict(list)
    for name, edges in set(others):
        first, second, third, fourth = (
            math.floor(edge / _cell_size(limit)) for edge, limit in zip(edges, limits, strict=True)
        )
        cells[name, first, second, third, fourth].append(edges)
    for box in boxes:
        near = (edges for cell in _get_grid_cells(box, limits) for edges in cells.get(cell, ()))
        if not any(_is_close(box[1], edges, limits) for edges in near):
            return box
    return None


def _cell_size(limit: float) -> float:
    return 2 * (limit + _ROUNDING)


def _get_grid_cells(box: NamedBox, limits: XYXY) -> Iterator[_GridCell]:
    """Cells that can hold a box within the tolerance: each edge falls in one or two."""
    spans = []
    for edge, limit in zip(box[1], limits, strict=True):
        size, reach = _cell_size(limit), limit + _ROUNDING / 2
        spans.append(range(math.floor((edge - reach) / size), math.floor((edge + reach) / size) + 1))
    for first, second, third, fourth in product(*spans):
        yield box[0], first, second, third, fourth


def _is_close(edges: XYXY, others: XYXY, limits: XYXY) -> bool:
    return all(abs(one - other) <= limit for one, other, limit in zip(edges, others, limits, strict=True))
