"""Table of the label formats: how each is read, written and compared, and which parts of a label it preserves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final, Literal

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import InputError
from hart_studio.geometry import WH, XYXY
from hart_studio.labeling.export_plan import ExportOptions, ExportPlan, PlannedImage
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
    "unlabeled", "negatives", "questions", "choices", "classes", "scores", "scores_if_all_known", "box_scores",
    "statuses", "evidence", "provenance", "reviews", "history",
]  # fmt: skip
"""Part of a label that a format can hold. ``questions``: questions with answers and their own boxes. ``evidence``: the
whole ``BoxCheck``. ``reviews``: reviewer, time and note."""

Loader = Callable[[Path, ImportOptions | None], LoadedSamples[LabeledSample]]
Saver = Callable[[ExportPlan, Path], None]

_QUESTION_ASPECTS: Final[frozenset[LabelAspect]] = frozenset(
    {"negatives", "questions", "choices", "classes", "statuses"}
)
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


@dataclass(frozen=True)
class FormatInfo:
    """Description of a format.

    Attributes:
        name: Key in ``FORMATS``.
        title: Display name.
        load: Reads a file or folder.
        save: Writes the labels of a plan into the export folder; None = the format is read-only.
        preserves: Parts of a label that it can hold.
        export_path: Path of a copied image in the export; None = images are embedded.
        can_reference: Whether images can be referenced instead of copied.
        tolerance: Image size, options -> maximum rounding error of an edge, original pixels, horizontal and vertical.
        written: Box, image size, options -> box as read back, original pixels; None = unchanged.
        exclusion_reason: Why readers of the format would drop an image; empty = they do not.
    """

    name: str
    title: str
    load: Loader
    save: Saver | None = None
    preserves: frozenset[LabelAspect] = frozenset()
    export_path: Callable[[PlannedImage], str] | None = None
    can_reference: bool = False
    tolerance: Callable[[WH, ExportOptions], tuple[float, float]] = _exactly
    written: Callable[[Box, WH, ExportOptions], XYXY] | None = None
    exclusion_reason: Callable[[PlannedImage], str] | None = None

    def check_options(self, options: ExportOptions) -> None:
        """Check that the format supports the options.

        Raises:
            InputError: If it does not.
        """
        if options.images == "reference" and not self.can_reference:
            raise InputError(f"{self.title} cannot reference images. Copy them into the export.")
        if options.box_class and self.name == "native":
            raise InputError(
                f"{self.title} keeps the labels of all boxes, so it does not support one class ({options.box_class!r}) "
                "for all boxes. Remove the class, or choose another format."
            )


def _save_hf_parquet(plan: ExportPlan, folder: Path) -> None:
    from hart_studio.labeling.formats.hf_parquet import save_hf_parquet  # noqa: PLC0415 - takes seconds to import

    save_hf_parquet(plan, folder)


def _load_hf_parquet(path: Path, options: ImportOptions | None = None) -> LoadedSamples[LabeledSample]:
    from hart_studio.labeling.formats.hf_parquet import load_hf_parquet  # noqa: PLC0415 - as above

    return load_hf_parquet(path, options)


_TABLE: Final = (
    FormatInfo(
        "native",
        "HART records (JSONL)",
        native.load_native,
        native.save_native,
        _QUESTION_ASPECTS | {"unlabeled", "scores", "box_scores", "evidence", "provenance", "reviews", "history"},
        native.export_path,
        can_reference=True,
    ),
    FormatInfo(
        "coco",
        "COCO JSON",
        coco.load_coco,
        coco.save_coco,
        _QUESTION_ASPECTS | {"scores", "box_scores"},
        coco.export_path,
        can_reference=True,
    ),
    FormatInfo(
        "yolo",
        "YOLO (Ultralytics)",
        yolo.load_yolo,
        yolo.save_yolo,
        frozenset({"negatives", "classes"}),
        yolo.export_path,
        tolerance=lambda wh, _: yolo.tolerance(wh),
        written=lambda box, wh, _: yolo.written_box(box, wh),
        exclusion_reason=yolo.exclusion_reason,
    ),
    FormatInfo(
        "pascal_voc",
        "Pascal VOC XML",
        pascal_voc.load_pascal_voc,
        pascal_voc.save_pascal_voc,
        frozenset({"negatives", "classes"}),
        pascal_voc.export_path,
        tolerance=lambda wh, _: pascal_voc.tolerance(wh),
        written=lambda box, wh, _: pascal_voc.written_box(box, wh),
    ),
    FormatInfo(
        "label_studio",
        "Label Studio tasks",
        label_studio.load_label_studio,
        label_studio.save_label_studio,
        _QUESTION_ASPECTS | {"scores", "box_scores"},
        label_studio.export_path,
        can_reference=True,
    ),
    FormatInfo(
        "createml",
        "CreateML JSON",
        createml.load_createml,
        createml.save_createml,
        frozenset({"negatives", "classes"}),
        createml.export_path,
        can_reference=True,
    ),
    FormatInfo(
        "image_folder",
        "Hugging Face ImageFolder",
        image_folder.load_image_folder,
        image_folder.save_image_folder,
        _QUESTION_ASPECTS | {"scores_if_all_known"},
        image_folder.export_path,
    ),
    FormatInfo(
        "hf_parquet",
        "Hugging Face Parquet",
        _load_hf_parquet,
        _save_hf_parquet,
        _QUESTION_ASPECTS | {"scores", "box_scores"},
    ),
    FormatInfo(
        "grounded_chat",
        "Grounded conversations (JSONL)",
        grounded_chat.load_grounded_chat,
        grounded_chat.save_grounded_chat,
        _QUESTION_ASPECTS - {"negatives", "classes"},
        grounded_chat.export_path,
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
