"""Decisions of an export of this program that comes back from another tool.

Beside an export lie its records, see ``formats.native``, with the boxes as the format holds them. Where the other tool
has left these as they were, the records count, with status, reviewer and history. Where it has changed them, its boxes
come in as labels of another tool.
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
"""Question that an image without boxes and without a question gets, so that its records are found."""

_TOLERANCE_PX: Final = 0.01
_MAX_PAIRS: Final = 1_000_000

_NamedBox = tuple[str, XYXY]


class RestoredReviews(NamedTuple):
    """What came back."""

    items: tuple[Item, ...]
    """Items whose boxes are as they were exported, with everything that was decided about them."""
    others: LoadedSamples[LabeledSample]
    """The other rows."""
    changed: int
    """Items whose boxes the other tool has changed, added or removed; their rows are among the others."""
    classes: tuple[str, ...]
    """Classes of boxes that people or other tools gave."""


class _Record(NamedTuple):
    content: dict[str, Any]
    sha256: str
    boxes: tuple[_NamedBox, ...]
    classes: frozenset[str]


def locate_records(path: Path) -> Path | None:
    """The records that lie beside an export, or None.

    Args:
        path: The folder of the export, or a file in it.
    """
    folder = path if path.is_dir() else path.parent
    return next((each / META for each in (folder, folder.parent) if (each / META).is_file()), None)


def restore_reviews(
    records: Path,
    info: FormatInfo,
    loaded: LoadedSamples[LabeledSample],
    inspect_image: Callable[[str], ImageFile | str],
) -> RestoredReviews:
    """Find the records of what a format holds.

    Args:
        records: From ``locate_records``.
        info: The format.
        loaded: What it holds; images without boxes and questions are asked ``NO_BOXES``.
        inspect_image: Path of an image -> its size and content, or why it cannot be used.

    Raises:
        DataError: If the records cannot be opened.
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
        """Keep an item; False if its record is none."""
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
    """For formats without questions: all boxes of an image at once."""
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
    """Whether each box of either is among the others; equal ones may have become one."""
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
    """Records by the id of their item. A line that is none, or of another format, has nothing to restore."""
    found: dict[str, _Record] = {}
    try:
        file = open_regular_file(path)
    except OSError as error:
        raise DataError(f"expected records in {path.name!r}, got {error.strerror}; remove the file") from error
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
