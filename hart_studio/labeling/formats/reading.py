"""What every loader does: find the image, check the numbers, group boxes by question, count what is no label.

The frame of every format is the upright image. A file that states another size than the image has is about
another image, or about one that was turned or scaled: its boxes are counted as bad, never rescaled by a guess.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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
"""Question for the boxes of one label, in formats that have no questions."""

NOTHING_TO_ASK: Final = "an image without boxes and without a question"
"""Reason for a row that says "nothing here", when no question was given for such images."""

META: Final = "hart_meta.jsonl"
"""Our own records beside an export: no loader takes it for a part of the other format."""

MAX_TEXT_CHARS: Final = 100_000
"""A longer label or question is no text for people, characters."""

_STATUSES: Final = frozenset(get_args(Status))


@dataclass(frozen=True)
class ImportOptions:
    """How to read another tool's labels.

    Attributes:
        image_root: Folder that the images' names start from; None = where the format puts them.
        source: Name of the data set; empty = the folder's.
        template: Question for a box of a format without questions; ``{label}`` becomes its label. Boxes of one
            image with the same question are one sample.
        negative_question: Question for an image that has neither boxes nor a question; None = it is counted as a
            row that has nothing to ask about.
        image_cache: Folder for images that are stored inside the file (Parquet).
    """

    image_root: Path | None = None
    source: str = ""
    template: str = TEMPLATE
    negative_question: str | None = None
    image_cache: Path | None = None

    def __post_init__(self) -> None:
        for question in (self.template, self.negative_question):
            if question is not None and not question.strip():
                raise InputError("expected a question, got empty text; write one, such as 'Where is the {label}?'")


class FoundImage(NamedTuple):
    """An existing image that a file names."""

    name: str
    """As the file has it."""
    path: str
    """Absolute, below the root."""
    wh: WH
    """Upright (width, height), pixels."""

    def check_size(self, width: Any, height: Any) -> None:
        """Compare with the size that the file states; none or 0 is no statement.

        Raises:
            ValueError: If it is another size.
        """
        if width in (None, 0) or height in (None, 0):
            return
        stated = (to_number(width, "width"), to_number(height, "height"))
        if stated != self.wh:
            raise ValueError(
                f"expected boxes of an image of {self.wh[0]} x {self.wh[1]} pixels, got a stated size of "
                f"{stated[0]:g} x {stated[1]:g}"
            )

    def box(self, xyxy: Sequence[Any], label: Any = "", score: Any = None) -> Box:
        """A box that a file has, clipped to the image.

        Args:
            xyxy: Four numbers, pixels of the upright image.
            label: Its label.
            score: Its score; what is no share in [0, 1] is not one.

        Raises:
            ValueError: If it is no box, or lies outside.
        """
        edges = tuple(to_number(edge, "box") for edge in xyxy)
        if len(edges) != 4:
            raise ValueError(f"expected four numbers for a box, got {len(edges)}")
        is_share = isinstance(score, (int, float)) and not isinstance(score, bool) and 0 <= score <= 1
        box = Box.from_xyxy(edges, to_label(label), float(score) if is_share else None)
        inside = clip(box, self.wh)
        if inside is None:
            raise ValueError(f"a box outside of the image of {self.wh[0]} x {self.wh[1]} pixels")
        return inside


class ImageFinder:
    """Looks images up below one folder, each once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[str, FoundImage] = {}

    def find(self, name: Any) -> FoundImage:
        """The image of that name.

        Raises:
            ValueError: If the name is no text, or there is no such file.
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
    """Gathers samples and invalid rows, in file order.

    Attributes:
        options: How to read.
        source: Name of the data set.
    """

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self.options = options
        self.source = options.source or (path if path.is_dir() else path.parent).resolve().name
        self._rows: list[tuple[str, LabeledSample | Exception]] = []

    @contextmanager
    def row(self, location: str) -> Iterator[None]:
        """Count whatever goes wrong inside as one invalid row.

        Args:
            location: Where it is, for people.
        """
        try:
            yield
        except (ValueError, OverflowError, RecursionError, HartError) as error:
            reason = ValueError("a number that is too large") if isinstance(error, OverflowError) else error
            self._rows.append((location, reason))

    def add(self, location: str, sample: LabeledSample) -> None:
        """Keep a sample."""
        self._rows.append((location, sample))

    def add_boxes(self, location: str, image: FoundImage, boxes: Iterable[tuple[Box, str]]) -> None:
        """Keep boxes without a question: one sample for each question that the template makes.

        Args:
            location: Where they are, for people.
            image: Their image.
            boxes: Each with the words for ``{label}``.
        """
        by_question: dict[str, list[Box]] = {}
        for box, words in boxes:
            # Not str.format: a template must not be able to reach into objects.
            by_question.setdefault(self.options.template.replace("{label}", words), []).append(box)
        for question, members in by_question.items():
            self.add_question(location, image, question, members)

    def add_negative(self, location: str, image: FoundImage) -> None:
        """Keep an image that is there to say that it shows nothing."""
        if self.options.negative_question is None:
            self._rows.append((location, ValueError(NOTHING_TO_ASK)))
        else:
            self.add_question(location, image, self.options.negative_question, ())

    def add_question(
        self, location: str, image: FoundImage, question: str, boxes: Sequence[Box], about: Any = None
    ) -> None:
        """Keep a question with its boxes.

        Args:
            location: Where it is, for people.
            image: Its image.
            question: The question.
            boxes: Its boxes.
            about: Fields ``id``, ``choices``, ``answer``, ``kind`` and ``status`` of the same row, where it has them.
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
        """What was gathered.

        Raises:
            DataError: If there is no sample.
        """

        def read(found: LabeledSample | Exception) -> LabeledSample:
            if isinstance(found, Exception):
                raise found
            return found

        return collect_samples(self.source, self._rows, read, needs_answer=False)


def sample_id(name: str, question: str, choices: Sequence[str] = ()) -> str:
    """A stable id for a question about an image: 16 hexadecimal digits of a hash of all that it is."""
    return hashlib.sha256(json.dumps([name, question, list(choices)]).encode()).hexdigest()[:16]


def to_number(value: Any, name: str) -> float:
    """A finite number.

    Raises:
        ValueError: If it is none.
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
    """A finite number written as text.

    Raises:
        ValueError: If it is none.
    """
    try:
        return to_number(float(text), name)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a finite number in {name!r}, got {str(text)[:40]!r}") from error


def to_label(value: Any, name: str = "label") -> str:
    """A text of bounded length.

    Raises:
        ValueError: If it is none.
    """
    text = to_text(value, name)
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"expected at most {MAX_TEXT_CHARS} characters in {name!r}, got {len(text)}")
    return text


def to_list(row: Any, name: str) -> list[Any]:
    """The list that a row must have in a field.

    Raises:
        ValueError: If it has none.
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
    """``[x_min, y_min, width, height]``, as COCO and Hugging Face write boxes."""
    return [box.x_min, box.y_min, box.width, box.height]


def read_bytes(path: Path) -> bytes:
    """All of a regular file.

    Raises:
        DataError: If it cannot be read, or is larger than ``MAX_DOCUMENT_BYTES``.
    """
    try:
        return read_regular_file(path, MAX_DOCUMENT_BYTES, follow_symlinks=True)
    except OSError as error:
        raise DataError(f"expected a readable file at {path}, got {error.strerror}; check the path") from error


def iterate_lines(path: Path) -> Iterator[tuple[int, bytes | ValueError]]:
    """Lines of a JSONL file of any size, one at a time in memory.

    Args:
        path: The file.

    Yields:
        The number of each line that is not blank, from 1, and the line, or why it is too long to be read.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        file = open_regular_file(path, follow_symlinks=True)
    except OSError as error:
        raise DataError(f"expected a readable file at {path}, got {error.strerror}; check the path") from error
    with file:
        for number, line in read_lines(file):
            if line is None:
                yield number, ValueError(f"expected at most {MAX_LINE_BYTES:,} bytes in a line, got more")
            elif line.strip():
                yield number, line


def parse_line(line: bytes | ValueError) -> Any:
    """The JSON value of a line from ``iterate_lines``.

    Raises:
        ValueError: If the line is too long or no JSON.
        RecursionError: If it is nested too deeply.
    """
    if isinstance(line, ValueError):
        raise line
    return parse_bounded_json(line)


def read_json(path: Path) -> Any:
    """A JSON document.

    Raises:
        DataError: If it cannot be read or is none.
    """
    try:
        return parse_bounded_json(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected JSON in {path}, got text that is none: {error}; repair the file") from error


def list_files(path: Path, *patterns: str) -> list[Path]:
    """The file itself, or the files of a folder that the first fitting pattern finds, sorted.

    Raises:
        DataError: If there are none.
    """
    if path.is_file():
        return [path]
    for pattern in patterns:
        if found := sorted(file for file in path.glob(pattern) if file.is_file() and file.name != META):
            return found
    raise DataError(f"expected a file or a folder with {' or '.join(patterns)} at {path}, got none; check the path")
