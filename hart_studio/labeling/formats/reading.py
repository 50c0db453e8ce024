"""Shared code of the loaders: find images, validate numbers, group boxes by question, count invalid rows.

All formats refer to the upright image. If a file states another image size, it belongs to another image, or to one that
was rotated or scaled: its boxes are counted as invalid and never rescaled.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, get_args

from hart_studio.data.rows import LoadedSamples, collect_samples, get_field, resolve_image_path, to_text, to_texts
from hart_studio.errors import DataError, HartError, InputError
from hart_studio.files import (
    MAX_DOCUMENT_BYTES,
    MAX_LINE_BYTES,
    open_regular_file,
    parse_bounded_json,
    read_lines,
    read_regular_file,
)
from hart_studio.geometry import WH, XYXY, clip
from hart_studio.imaging import SourceImage
from hart_studio.labeling.records import LabeledSample, Status
from hart_studio.records import Box

TEMPLATE: Final = "Where is the {label}?"
"""Question template for formats without questions."""

PLACEHOLDERS: Final = {
    "label": "class of the box",
    "area": "area of the box in square pixels",
    "name": "file name without suffix",
    "folder": "name of the folder of the image",
}
"""Placeholders of a question template in all label formats, with their meanings."""

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_]\w*)\}")

NOTHING_TO_ASK: Final = "an image without boxes and without a question"
"""Reason for an image without boxes when no question was given for such images."""

META: Final = "hart_meta.jsonl"
"""Native records beside an export; loaders of other formats ignore this file."""

MAX_TEXT_CHARS: Final = 100_000
"""Maximum length of a label or question."""

_STATUSES: Final = frozenset(get_args(Status))


@dataclass(frozen=True)
class ImportOptions:
    """Options for reading labels of another tool.

    Attributes:
        image_root: Base folder of image names; None = default of the format.
        source: Name of the dataset; empty = name of the folder.
        template: Question for boxes of a format without questions, with ``PLACEHOLDERS``. Boxes of one image with the
            same question form one sample.
        negative_question: Question for images without boxes and without a question; None = they are invalid rows.
        image_cache: Folder for images embedded in the file (Parquet).
    """

    image_root: Path | None = None
    source: str = ""
    template: str = TEMPLATE
    negative_question: str | None = None
    image_cache: Path | None = None

    def __post_init__(self) -> None:
        for question in (self.template, self.negative_question):
            if question is not None and not question.strip():
                raise InputError("The question is empty. Write one, such as 'Where is the {label}?'.")


class FoundImage(NamedTuple):
    """An image found by its name in a file."""

    name: str
    """Name in the file."""
    path: str
    """Absolute path, below the root."""
    wh: WH
    """Upright (width, height), pixels."""

    def check_size(self, width: Any, height: Any) -> None:
        """Compare with the size stated in the file; none or 0 = not stated.

        Raises:
            ValueError: If the sizes differ.
        """
        if width in (None, 0) or height in (None, 0):
            return
        stated = (to_number(width, "width"), to_number(height, "height"))
        if stated != self.wh:
            raise ValueError(
                f"image is {self.wh[0]} x {self.wh[1]} pixels, but the file states {stated[0]:g} x {stated[1]:g}"
            )

    def box(self, xyxy: Sequence[Any], label: Any = "", score: Any = None) -> Box:
        """Read a box of the file, clipped to the image.

        Args:
            xyxy: Four numbers, pixels of the upright image.
            label: Label of the box.
            score: Score of the box; ignored unless it is a number in [0, 1].

        Raises:
            ValueError: If the box is invalid or outside of the image.
        """
        edges = tuple(to_number(edge, "box") for edge in xyxy)
        if len(edges) != 4:
            raise ValueError(f"box has {len(edges)} numbers instead of four")
        is_share = isinstance(score, (int, float)) and not isinstance(score, bool) and 0 <= score <= 1
        box = Box.from_xyxy(edges, to_label(label), float(score) if is_share else None)
        inside = clip(box, self.wh)
        if inside is None:
            raise ValueError(f"box is outside of the image of {self.wh[0]} x {self.wh[1]} pixels")
        return inside


class ImageFinder:
    """Finds images below one folder, with a cache."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[str, FoundImage] = {}

    def find(self, name: Any) -> FoundImage:
        """Find an image by name.

        Raises:
            ValueError: If the name is no text, or the file does not exist.
            InputError: If the name leads out of the folder.
            ImageError: If the file is no image.
        """
        text = to_text(name, "image")
        if text not in self._found:
            path = resolve_image_path(self._root, text)
            with SourceImage(path) as image:
                self._found[text] = FoundImage(text, path, image.wh)
        return self._found[text]


class LabelCollector:
    """Collects samples and invalid rows, in file order.

    Attributes:
        options: Import options.
        source: Name of the dataset.
    """

    def __init__(self, path: Path, options: ImportOptions, placeholders: Mapping[str, str] = PLACEHOLDERS) -> None:
        """Check the template.

        Args:
            path: File or folder of the labels.
            options: Import options.
            placeholders: Placeholders of the format, with their meanings.

        Raises:
            InputError: If the template has another placeholder.
        """
        check_placeholders(options.template, placeholders)
        self.options = options
        self.source = options.source or (path if path.is_dir() else path.parent).resolve().name
        self._rows: list[tuple[str, LabeledSample | Exception]] = []

    @contextmanager
    def row(self, location: str) -> Iterator[None]:
        """Catch an error inside the block and record one invalid row.

        Args:
            location: Location of the row, for messages.
        """
        try:
            yield
        except (ValueError, OverflowError, RecursionError, HartError) as error:
            reason = ValueError("number is too large") if isinstance(error, OverflowError) else error
            self._rows.append((location, reason))

    def add(self, location: str, sample: LabeledSample) -> None:
        """Add a sample."""
        self._rows.append((location, sample))

    def add_boxes(
        self,
        location: str,
        image: FoundImage,
        boxes: Iterable[tuple[Box, str]],
        facts: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Add boxes without a question: one sample per question made by the template.

        A box is an invalid row if the template has a placeholder without a value for it.

        Args:
            location: Location of the row, for messages.
            image: Their image.
            boxes: Boxes, each with the text for ``{label}``.
            facts: Values of other placeholders for each box; empty = those that all formats have.
        """
        by_question: dict[str, list[Box]] = {}
        for number, (box, words) in enumerate(boxes):
            values = {"label": words, "area": f"{box.area:.0f}", **name_image(image.name)}
            values |= facts[number] if facts else {}
            with self.row(location):
                by_question.setdefault(fill_template(self.options.template, values), []).append(box)
        for question, members in by_question.items():
            self.add_question(location, image, question, members)

    def add_negative(self, location: str, image: FoundImage) -> None:
        """Add a negative: an image that is confirmed to show nothing."""
        if self.options.negative_question is None:
            self._rows.append((location, ValueError(NOTHING_TO_ASK)))
        else:
            self.add_question(location, image, self.options.negative_question, ())

    def add_question(
        self, location: str, image: FoundImage, question: str, boxes: Sequence[Box], about: Any = None
    ) -> None:
        """Add a question with its boxes.

        Args:
            location: Location of the row, for messages.
            image: Its image.
            question: The question.
            boxes: Its boxes.
            about: Row with optional fields ``id``, ``choices``, ``answer``, ``kind`` and ``status``.
        """
        with self.row(location):
            known = about if isinstance(about, dict) else {}
            choices = to_texts(known.get("choices"), "choices")
            answer = known.get("answer")
            status = known.get("status")
            sample = LabeledSample(
                id=to_text(known.get("id") or sample_id(image.name, question, choices), "id"),
                image=image.path,
                question=to_label(question, "question"),
                choices=choices,
                answer=None if answer in (None, "") else to_text(answer, "answer"),
                category=to_text(known.get("kind") or "", "kind"),
                source=self.source,
                boxes=tuple(boxes),
                status=status if isinstance(status, str) and status in _STATUSES else "proposed",
            )
            self._rows.append((location, sample))

    def finish(self) -> LoadedSamples[LabeledSample]:
        """Return the collected samples and invalid rows.

        Raises:
            DataError: If there is no sample.
        """

        def read(found: LabeledSample | Exception) -> LabeledSample:
            if isinstance(found, Exception):
                raise found
            return found

        return collect_samples(self.source, self._rows, read, needs_answer=False)


def check_placeholders(template: str, known: Mapping[str, str]) -> None:
    """Check the placeholders of a question template.

    Args:
        template: The template; a placeholder is a word in braces.
        known: Placeholders with their meanings.

    Raises:
        InputError: If one is unknown; the error lists the known ones.
    """
    unknown = [name for name in _PLACEHOLDER.findall(template) if name not in known]
    if unknown:
        listed = ", ".join(f"{{{name}}} ({meaning})" for name, meaning in known.items())
        raise InputError(f"Unknown placeholder {{{unknown[0]}}} in the question. Known ones are: {listed}.")


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders of a template in one pass; values are not searched for placeholders.

    ``str.format`` would allow access to attributes.

    Raises:
        ValueError: If a placeholder has no value.
    """

    def fill(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise ValueError(f"no value for {{{found[1]}}} in the question")
        return values[found[1]]

    return _PLACEHOLDER.sub(fill, template)


def name_image(name: str) -> dict[str, str]:
    """Values of ``{name}`` and ``{folder}``.

    Args:
        name: Path of the image with forward slashes.
    """
    path = PurePosixPath(name)
    return {"name": path.stem, "folder": path.parent.name}


def sample_id(name: str, question: str, choices: Sequence[str] = ()) -> str:
    """Stable id of a question about an image: 16 hexadecimal digits of a hash."""
    return hashlib.sha256(json.dumps([name, question, list(choices)]).encode()).hexdigest()[:16]


def to_number(value: Any, name: str) -> float:
    """Convert to a finite number.

    Raises:
        ValueError: If it is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected a number in {name!r}, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(f"expected a finite number in {name!r}, got one that is too large") from error
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number in {name!r}, got {number}")
    return number


def parse_number(text: Any, name: str) -> float:
    """Parse a finite number.

    Raises:
        ValueError: If it is no finite number.
    """
    try:
        return to_number(float(text), name)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a finite number in {name!r}, got {str(text)[:40]!r}") from error


def to_label(value: Any, name: str = "label") -> str:
    """Convert to a text of limited length.

    Raises:
        ValueError: If it is no text or too long.
    """
    text = to_text(value, name)
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"expected at most {MAX_TEXT_CHARS} characters in {name!r}, got {len(text)}")
    return text


def to_list(row: Any, name: str) -> list[Any]:
    """Read a required list field.

    Raises:
        ValueError: If it is missing or no list.
    """
    value = get_field(row, name)
    if not isinstance(value, list):
        raise ValueError(f"expected a list in {name!r}, got {type(value).__name__}")
    return value


def from_xywh(xywh: Any) -> XYXY:
    """``(x_min, y_min, x_max, y_max)`` of a list ``[x_min, y_min, width, height]``.

    Raises:
        ValueError: If it is no list of four numbers.
    """
    if not isinstance(xywh, (list, tuple)) or len(xywh) != 4:
        raise ValueError("expected [x, y, width, height] for a box")
    x_min, y_min, width, height = (to_number(value, "bbox") for value in xywh)
    return x_min, y_min, x_min + width, y_min + height


def to_xywh(box: Box) -> list[float]:
    """Convert a box to ``[x_min, y_min, width, height]``, as in COCO and Hugging Face."""
    return [box.x_min, box.y_min, box.width, box.height]


def read_bytes(path: Path) -> bytes:
    """Read a regular file.

    Raises:
        DataError: If it cannot be read, or is larger than ``MAX_DOCUMENT_BYTES``.
    """
    try:
        return read_regular_file(path, MAX_DOCUMENT_BYTES, follow_symlinks=True)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Check the path.") from error


def iterate_lines(path: Path) -> Iterator[tuple[int, bytes | ValueError]]:
    """Iterate over the lines of a JSONL file of any size, one line in memory at a time.

    Yields:
        Number from 1 and content of each line that is not blank, or an error if it is too long.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        file = open_regular_file(path, follow_symlinks=True)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
    with file:
        for number, line in read_lines(file):
            if line is None:
                yield number, ValueError(f"line is longer than {MAX_LINE_BYTES:,} bytes")
            elif line.strip():
                yield number, line


def parse_line(line: bytes | ValueError) -> Any:
    """Parse a line from ``iterate_lines`` as JSON.

    Raises:
        ValueError: If the line is too long or no JSON.
        RecursionError: If it is nested too deeply.
    """
    if isinstance(line, ValueError):
        raise line
    return parse_bounded_json(line)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: If it cannot be read or is no JSON.
    """
    try:
        return parse_bounded_json(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}. Repair the file.") from error


def list_files(path: Path, *patterns: str) -> list[Path]:
    """Return the file itself, or the files of a folder that match the first pattern with a match, sorted.

    Raises:
        DataError: If there are none.
    """
    if path.is_file():
        return [path]
    for pattern in patterns:
        if found := sorted(file for file in path.glob(pattern) if file.is_file() and file.name != META):
            return found
    raise DataError(f"No file {' or '.join(patterns)} at {path}. Check the path.")
