"""Labels from elsewhere: clip their boxes, recompute their scores, restore the reviews of a HART Studio export.

A record may state any score and an auto-accepted status, so both are checked with the calibrations of the project.

Native records lie beside an export, see ``formats.native``, with the exported boxes. Where another tool left the boxes
unchanged, the records are restored with status, reviewer and history. Where it changed them, its boxes are imported as
labels of that tool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from hart_studio.data.rows import InvalidRow, LoadedSamples, get_field, to_text, to_texts
from hart_studio.errors import DataError, HartError
from hart_studio.files import open_regular_file, parse_bounded_json, read_lines
from hart_studio.geometry import clip
from hart_studio.labeling.calibration import Calibration, LabelOrigin, LabelScore, get_answer_form, load_calibration
from hart_studio.labeling.calibration_lookup import CALIBRATION, get_calibration
from hart_studio.labeling.export_plan import class_name
from hart_studio.labeling.formats import native
from hart_studio.labeling.formats.reading import META, NOTHING_TO_ASK, iterate_lines, parse_line, to_list, to_number
from hart_studio.labeling.formats.table import FormatInfo, NamedBox, get_unmatched_box
from hart_studio.labeling.project import Project, make_item_id
from hart_studio.labeling.records import ImageFile, Item, Label, LabeledSample
from hart_studio.labeling.review import MAX_BOXES
from hart_studio.models.catalog import BUILT_IN_FOLDERS
from hart_studio.records import Box, Sample

_TOLERANCE: Final = 1e-6  # differences of scores between machines

NO_BOXES: Final = "hart: an image without boxes"
"""Question assigned to images without boxes and question, so that their records are found."""

_TOLERANCE_PX: Final = 0.01
_MAX_PAIRS: Final = 1_000_000


def clip_imported_boxes(boxes: Sequence[Box], image: ImageFile) -> tuple[Box, ...]:
    """Clip the boxes of a label, in original pixels, to its image.

    Raises:
        ValueError: If there are too many boxes, or one is outside of the image.
    """
    if len(boxes) > MAX_BOXES:
        raise ValueError(f"label has {len(boxes):,} boxes; the limit is {MAX_BOXES}")
    found = []
    for box in boxes:
        clipped = clip(box, (image.width, image.height))
        if clipped is None:
            raise ValueError(
                f"box is outside of the image of {image.width} x {image.height} pixels: "
                f"[{', '.join(f'{edge:g}' for edge in box.xyxy)}]"
            )
        found.append(clipped)
    return tuple(found)


class ScoreChecker:
    """Recomputes scores of imported labels with the calibrations of a project.

    Attributes:
        dropped: Number of items that lost a score or the status ``auto_accepted``.
    """

    def __init__(self, project: Project) -> None:
        self.dropped = 0
        self._project = project
        self._calibrations: dict[str, Calibration | None] = {}

    def check_item(self, item: Item) -> Item:
        """Replace the scores of an item by those of the project's calibrations.

        A score that no calibration supports is dropped. A label that would not be auto-accepted here becomes
        ``proposed``. Decisions of reviewers are kept.

        Args:
            item: Item with the image domain read from the file.

        Raises:
            DataError: If a calibration cannot be read.
        """
        labels = [self._check(label, item) for label in (*item.history, item.label)]
        lost = [
            new.status != old.status or (new.score is None and old.score is not None)
            for new, old in zip(labels, (*item.history, item.label), strict=True)
        ]
        self.dropped += any(lost)
        return item.model_copy(update={"label": labels[-1], "history": tuple(labels[:-1])})

    def _check(self, label: Label, item: Item) -> Label:
        if label.score is None and label.status != "auto_accepted":
            return label
        calibration = self._find(label.provenance.model) if label.provenance else None
        label_score = _score(calibration, label, item)
        score = label_score.score
        if score is not None and label.score is not None and abs(score - label.score) <= _TOLERANCE:
            score = label.score
        is_accepted = calibration is not None and calibration.auto_accepts(label.check, score)
        return label.model_copy(
            update={
                "score": score,
                "uncalibrated": label_score.uncalibrated,
                "status": "proposed" if label.status == "auto_accepted" and not is_accepted else label.status,
            }
        )

    def _find(self, model: str) -> Calibration | None:
        """Return the calibration of a model: the project's own, or that of a built-in model.

        The model name comes from the record, so its folder is not read: an upload could have placed a calibration
        there.
        """
        if model not in self._calibrations:
            names = {Path(folder).name: folder for folder in BUILT_IN_FOLDERS.values()} | BUILT_IN_FOLDERS
            folder = names.get(model) or names.get(Path(model).name)
            known = get_calibration(folder, self._project.folder) if folder else None
            self._calibrations[model] = known or self._get_own(model)
        return self._calibrations[model]

    def _get_own(self, model: str) -> Calibration | None:
        path = self._project.folder / CALIBRATION
        own = load_calibration(path) if path.is_file() else None
        return own if own and own.model in (model, Path(model).name) else None


def _score(calibration: Calibration | None, label: Label, item: Item) -> LabelScore:
    has_rollouts = label.check is not None and label.check.rollouts > 0
    if calibration is None or label.provenance is None:
        return LabelScore(None, "model" if has_rollouts else None)
    provenance, sample = label.provenance, item.sample
    origin = LabelOrigin(
        item.image.domain,
        sample.source,
        get_answer_form(sample),
        provenance.rollouts,
        provenance.temperature,
        provenance.is_refined,
        is_given=label.origin == "imported" and bool(label.boxes),
    )
    return calibration.score_label(label.check, bool(label.boxes), origin)


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
    boxes: tuple[NamedBox, ...]
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
        elif not _is_same(record.boxes, [sample], info):
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
        if not _is_same(meant, samples, info):
            found.changed += len(records[sha256])
            found.others += samples
        elif sum(found.add(record, image) for record in records[sha256]) < len(records[sha256]):
            found.others += samples
    return found


def _item_id(sample: Sample, image: ImageFile) -> str:
    return make_item_id(image.sha256, sample.question, sample.choices)


def _is_same(boxes: Iterable[NamedBox], samples: Sequence[LabeledSample], info: FormatInfo) -> bool:
    """Whether the samples have the same boxes, ignoring duplicates."""
    some = sorted(set(boxes))
    others = sorted(set(info.name_boxes(box for sample in samples for box in sample.boxes)))
    pairs = [(some, others), (others, some)]
    if len(some) * len(others) > _MAX_PAIRS:  # crafted files could make the search take quadratic time
        if len(some) != len(others):
            return False
        pairs = [([one], [other]) for one, other in zip(some, others, strict=True)]
    return all(get_unmatched_box(*pair, (_TOLERANCE_PX, _TOLERANCE_PX)) is None for pair in pairs)


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
                    for each in (content, *_describe_copy(content)):
                        sha256 = to_text(get_field(get_field(each, "image"), "sha256"), "sha256")
                        found[to_text(get_field(each, "item_id"), "item_id")] = _Record(each, sha256, boxes, classes)
            except (ValueError, RecursionError, HartError):
                continue
    return found


def _describe_copy(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The record as one about the upright copy of its image, if the export wrote one."""
    sha256 = content["export"].get("image_sha256")
    if sha256:
        image = {**get_field(content, "image"), "sha256": to_text(sha256, "image_sha256")}
        question = to_text(get_field(content, "question"), "question")
        item_id = make_item_id(image["sha256"], question, to_texts(get_field(content, "choices"), "choices"))
        yield {**content, "image": image, "item_id": item_id}


def read_originals(records: Path) -> dict[str, str]:
    """Read which images of an export are upright copies of images with EXIF rotation.

    Args:
        records: File from ``locate_records``; invalid lines are skipped.

    Returns:
        SHA-256 of a copy -> SHA-256 of its original.

    Raises:
        DataError: If the records cannot be read.
    """
    found = {}
    for _, line in iterate_lines(records):
        try:
            content = parse_line(line)
            copy = get_field(content, "export").get("image_sha256")
            if isinstance(copy, str) and copy:
                found[copy] = to_text(get_field(get_field(content, "image"), "sha256"), "sha256")
        except (ValueError, RecursionError, HartError, AttributeError):
            continue
    return found


def _read_box(box: Any, info: FormatInfo) -> NamedBox:
    edges = [to_number(edge, "xyxy") for edge in to_list(box, "xyxy")]
    if len(edges) != 4:
        raise ValueError("expected four numbers in 'xyxy'")
    name = to_text(get_field(box, "class"), "class") if "classes" in info.preserves else ""
    return name, (edges[0], edges[1], edges[2], edges[3])
