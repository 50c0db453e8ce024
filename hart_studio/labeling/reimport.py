"""Restore the reviews of a HART Studio export that is imported again after use in another tool.

Native records lie beside an export, see ``formats.native``, with the exported boxes. Where the other tool left the
boxes unchanged, the records are restored with status, reviewer and history. Where it changed them, its boxes are
imported as labels of another tool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from hart_studio.data.rows import InvalidRow, LoadedSamples, get_field, to_text
from hart_studio.errors import DataError, HartError
from hart_studio.files import open_regular_file, parse_bounded_json, read_lines
from hart_studio.geometry import XYXY
from hart_studio.labeling.export_plan import class_name
from hart_studio.labeling.formats import native
from hart_studio.labeling.formats.reading import META, NOTHING_TO_ASK, to_list, to_number
from hart_studio.labeling.formats.table import FormatInfo
from hart_studio.labeling.project import make_item_id
from hart_studio.labeling.records import ImageFile, Item, LabeledSample
from hart_studio.records import Sample

NO_BOXES: Final = "hart: an image without boxes"
"""Question assigned to images without boxes and question, so that their records are found."""

_TOLERANCE_PX: Final = 0.01
_MAX_PAIRS: Final = 1_000_000

_NamedBox = tuple[str, XYXY]


class RestoredReviews(NamedTuple):
    """Result of the restore."""

    items: tuple[Item, ...]
    """Items with unchanged boxes, with their reviews."""
    others: LoadedSamples[LabeledSample]
    """Other rows."""
    changed: int
    """Number of items whose boxes were changed, added or removed; their rows are in ``others``."""
    classes: tuple[str, ...]
    """Classes of boxes from reviewers or other tools."""


class _Record(NamedTuple):
    content: dict[str, Any]
    sha256: str
    boxes: tuple[_NamedBox, ...]
    classes: frozenset[str]


def locate_records(path: Path) -> Path | None:
    """Return the records file beside an export, or None.

    Args:
        path: Folder of the export, or a file in it.
    """
    folder = path if path.is_dir() else path.parent
    return next((each / META for each in (folder, folder.parent) if (each / META).is_file()), None)


def restore_reviews(
    records: Path,
    info: FormatInfo,
    loaded: LoadedSamples[LabeledSample],
    inspect_image: Callable[[str], ImageFile | str],
) -> RestoredReviews:
    """Match the rows of an export with its records.

    Args:
        records: File from ``locate_records``.
        info: Format of the export.
        loaded: Rows of the export; images without boxes and questions have the question ``NO_BOXES``.
        inspect_image: Path of an image -> size and content, or why it is unusable.

    Raises:
        DataError: If the records cannot be read.
    """
    known = _read_records(records, info)
    rows = [(sample, inspect_image(sample.image)) for sample in loaded.samples]
    has_questions = "questions" in info.preserves
    found = _match_questions(rows, known, info) if has_questions else _match_images(rows, known, info)
    others, invalid_rows = [], list(loaded.invalid_rows)
    for sample in found.others:
        if sample.question == NO_BOXES:
            invalid_rows.append(InvalidRow(sample.id, NOTHING_TO_ASK))
        else:
            others.append(sample)
    rest = replace(loaded, samples=tuple(others), invalid_rows=tuple(invalid_rows))
    return RestoredReviews(tuple(found.items), rest, found.changed, tuple(dict.fromkeys(found.classes)))


class _Found:
    def __init__(self) -> None:
        self.items: list[Item] = []
        self.others: list[LabeledSample] = []
        self.classes: list[str] = []
        self.changed = 0

    def add(self, record: _Record, image: ImageFile) -> bool:
        """Add an item; False if its record is invalid."""
        try:
            item = native.make_item(record.content, image.path)
        except (ValueError, HartError, RecursionError):
            return False
        self.items.append(item)
        if item.label.origin != "model":
            names = (class_name(box) for box in item.label.boxes if box.label)
            self.classes += [name for name in names if name in record.classes]
        return True


def _match_questions(
    rows: Iterable[tuple[LabeledSample, ImageFile | str]], known: dict[str, _Record], info: FormatInfo
) -> _Found:
    found = _Found()
    for sample, image in rows:
        record = None if isinstance(image, str) else known.get(_item_id(sample, image))
        if record is None or isinstance(image, str):
            found.others.append(sample)
        elif not _is_same(record.boxes, _name_boxes([sample], info)):
            found.changed += 1
            found.others.append(sample)
        elif not found.add(record, image):
            found.others.append(sample)
    return found


def _match_images(
    rows: Iterable[tuple[LabeledSample, ImageFile | str]], known: dict[str, _Record], info: FormatInfo
) -> _Found:
    """Match all boxes of an image, for formats without questions."""
    records: dict[str, list[_Record]] = defaultdict(list)
    for record in known.values():
        records[record.sha256].append(record)
    found = _Found()
    groups: dict[str, tuple[ImageFile, list[LabeledSample]]] = {}
    for sample, image in rows:
        if isinstance(image, str) or image.sha256 not in records:
            found.others.append(sample)
        else:
            groups.setdefault(image.sha256, (image, []))[1].append(sample)
    for sha256, (image, samples) in groups.items():
        meant = tuple(box for record in records[sha256] for box in record.boxes)
        if not _is_same(meant, _name_boxes(samples, info)):
            found.changed += len(records[sha256])
            found.others += samples
        elif sum(found.add(record, image) for record in records[sha256]) < len(records[sha256]):
            found.others += samples
    return found


def _item_id(sample: Sample, image: ImageFile) -> str:
    return make_item_id(image.sha256, sample.question, sample.choices)


def _name_boxes(samples: Sequence[LabeledSample], info: FormatInfo) -> tuple[_NamedBox, ...]:
    has_classes = "classes" in info.preserves
    return tuple((class_name(box) if has_classes else "", box.xyxy) for sample in samples for box in sample.boxes)


def _is_same(some: Sequence[_NamedBox], others: Sequence[_NamedBox]) -> bool:
    """Whether both lists have the same boxes, ignoring duplicates."""
    first, second = sorted(set(some)), sorted(set(others))
    if len(first) == len(second) and all(_is_close(one, other) for one, other in zip(first, second, strict=True)):
        return True
    if len(first) * len(second) > _MAX_PAIRS:
        return False
    return all(any(_is_close(one, other) for other in second) for one in first) and all(
        any(_is_close(one, other) for other in first) for one in second
    )


def _is_close(one: _NamedBox, other: _NamedBox) -> bool:
    return one[0] == other[0] and all(
        abs(first - second) <= _TOLERANCE_PX for first, second in zip(one[1], other[1], strict=True)
    )


def _read_records(path: Path, info: FormatInfo) -> dict[str, _Record]:
    """Records by item id. Invalid lines, and those of another format, are skipped."""
    found: dict[str, _Record] = {}
    try:
        file = open_regular_file(path)
    except OSError as error:
        raise DataError(f"Cannot read the records in {path.name!r}: {error.strerror}. Remove the file.") from error
    with file:
        for _, line in read_lines(file):
            try:
                content = parse_bounded_json(line or b"")
                export = get_field(content, "export")
                if get_field(export, "format") == info.name:
                    rows = to_list(export, "boxes")
                    classes = frozenset(to_text(get_field(row, "class"), "class") for row in rows)
                    boxes = tuple(_read_box(row, info) for row in rows)
                    sha256 = to_text(get_field(get_field(content, "image"), "sha256"), "sha256")
                    found[to_text(get_field(content, "item_id"), "item_id")] = _Record(content, sha256, boxes, classes)
            except (ValueError, RecursionError, HartError):
                continue
    return found


def _read_box(box: Any, info: FormatInfo) -> _NamedBox:
    edges = [to_number(edge, "xyxy") for edge in to_list(box, "xyxy")]
    if len(edges) != 4:
        raise ValueError("expected four numbers in 'xyxy'")
    name = to_text(get_field(box, "class"), "class") if "classes" in info.preserves else ""
    return name, (edges[0], edges[1], edges[2], edges[3])
