"""Convert rows to samples, shared by all sources. An invalid row is counted with its reason and never stops loading."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from hart_studio.errors import DataError, HartError
from hart_studio.files import from_stored_path, resolve_inside, to_printable, to_stored_path
from hart_studio.formatting import format_percent, list_reasons
from hart_studio.prompts import OPTION_LETTERS
from hart_studio.records import Box, Sample

RowT = TypeVar("RowT")
SampleT = TypeVar("SampleT", bound=Sample)

MAX_ROWS: Final = 5_000_000
"""Maximum number of rows of a table: a few bytes can encode a row, and each row becomes a sample or an invalid row in
memory. Project default."""

MAX_DROPPED_SHARE: Final = 0.01
"""Maximum share of invalid rows of a dataset that an evaluation accepts without being asked to. Project default."""

_MAX_REASON_CHARS: Final = 300
_SHOWN_REASONS: Final = 5
_OPENING = r"[(\[（]"
_CLOSING = r"[)\]）]"
_MARKED_CHOICE: Final = re.compile(rf"\s*(?:{_OPENING}\s*([A-Z])\s*{_CLOSING}|([A-Z])\s*(?:{_CLOSING}|[.:．：、]))\s*")
_LETTER: Final = re.compile(rf"\s*{_OPENING}?\s*([A-Z])\s*{_CLOSING}?\s*[.．]?\s*")


@dataclass(frozen=True)
class InvalidRow:
    """A row that could not be converted to a sample."""

    row: str
    """Location of the row, such as ``line 3`` or ``row 12``."""
    reason: str
    """Reason why the row is invalid."""

    def __post_init__(self) -> None:
        # Both may quote a file name that is not UTF-8, which databases and terminals do not accept.
        object.__setattr__(self, "row", to_printable(self.row))
        object.__setattr__(self, "reason", to_printable(self.reason))


@dataclass(frozen=True)
class LoadedSamples(Generic[SampleT]):
    """Samples and invalid rows of a source."""

    source: str
    """Name of the dataset."""
    samples: tuple[SampleT, ...]
    """The valid rows in file order, with unique ids. ``gold_boxes`` is empty if the source has none."""
    invalid_rows: tuple[InvalidRow, ...] = ()
    """The invalid rows, in file order."""

    @property
    def row_count(self) -> int:
        """Number of rows read: valid and invalid ones."""
        return len(self.samples) + len(self.invalid_rows)

    @property
    def dropped_share(self) -> float:
        """Share of the rows that are invalid, in [0, 1]."""
        return len(self.invalid_rows) / self.row_count if self.invalid_rows else 0.0

    @property
    def reasons(self) -> Counter[str]:
        """Number of invalid rows per reason."""
        return Counter(bad.reason for bad in self.invalid_rows)

    def describe_dropped(self) -> str:
        """Return text such as ``9 of 12 rows of TreeBench (75.0 %) are dropped: 9 x no answer``; empty if none."""
        if not self.invalid_rows:
            return ""
        reasons = list_reasons(self.reasons, _SHOWN_REASONS, lambda reason, count: f"{count:,} x {reason}")
        return (
            f"{len(self.invalid_rows):,} of {self.row_count:,} rows of {self.source} "
            f"({format_percent(self.dropped_share)}) are dropped: {'; '.join(reasons)}"
        )

    def check_dropped(self, remedy: str) -> None:
        """Check that few rows are invalid.

        Args:
            remedy: Sentence that says how to continue anyway.

        Raises:
            DataError: If more than ``MAX_DROPPED_SHARE`` of the rows are invalid.
        """
        if self.dropped_share > MAX_DROPPED_SHARE:
            raise DataError(
                f"{self.describe_dropped()}. Without them, results are not comparable with published ones. "
                f"Repair the file. {remedy}"
            )

    def describe_reasons(self, most: int) -> list[str]:
        """Describe the most frequent reasons, and the number of other reasons."""

        def show(reason: str, count: int) -> str:
            return f"{count} invalid rows of {self.source} are skipped: {reason}"

        return list_reasons(self.reasons, most, show)


def collect_samples(
    source: str, rows: Iterable[tuple[str, RowT]], read: Callable[[RowT], SampleT], *, needs_answer: bool
) -> LoadedSamples[SampleT]:
    """Convert all rows, and count the invalid ones.

    Args:
        source: Name of the dataset, for messages.
        rows: Location and content of each row.
        read: Converts a row to a sample, or raises ``ValueError`` or a ``HartError`` with the reason.
        needs_answer: Whether a row without a known answer is invalid.

    Raises:
        DataError: If no row is valid.
    """
    source = to_printable(source)
    samples: dict[str, SampleT] = {}
    invalid_rows = []
    for location, row in rows:
        try:
            sample = read(row)
            if needs_answer and sample.answer is None:
                raise ValueError("no answer")
            if sample.id in samples:
                raise ValueError("duplicate id")
        except (ValueError, RecursionError, HartError) as error:  # deeply nested JSON raises RecursionError
            invalid_rows.append(InvalidRow(location, _describe_error(error)))
        else:
            samples[sample.id] = sample
    loaded = LoadedSamples(source, tuple(samples.values()), tuple(invalid_rows))
    if not samples:
        shown = list_reasons(loaded.reasons, 3, lambda reason, count: f"{count} rows: {reason}")
        found = "; ".join(shown) or "no rows"
        raise DataError(f"No valid rows in {source}: {found}. Check the path and the format of the rows.")
    return loaded


def get_field(row: Any, name: str) -> Any:
    """Return a required field of a row.

    Raises:
        ValueError: If the row is not an object, or lacks the field.
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {type(row).__name__}")
    if name not in row:
        raise ValueError(f"missing field {name!r}")
    return row[name]


def to_text(value: Any, name: str) -> str:
    """Convert text or a finite number to text.

    Raises:
        ValueError: If the value is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(value)
    raise ValueError(f"expected text in {name!r}, got {type(value).__name__}")


def to_texts(value: Any, name: str) -> tuple[str, ...]:
    """Convert a list of texts; None is an empty list.

    Raises:
        ValueError: If the value is not a list, or contains other values.
    """
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list in {name!r}, got {type(value).__name__}")
    return tuple(to_text(each, name) for each in value)


def to_boxes(value: Any, name: str) -> tuple[Box, ...]:
    """Convert a list of ``[x_min, y_min, x_max, y_max]`` in original pixels; None is an empty list.

    Raises:
        ValueError: If the value is not a list of boxes.
    """
    boxes = [] if value is None else value
    if not isinstance(boxes, (list, tuple)) or not all(isinstance(xyxy, (list, tuple)) for xyxy in boxes):
        raise ValueError(f"expected a list of boxes in {name!r}")
    if any(len(xyxy) != 4 for xyxy in boxes):
        raise ValueError(f"expected four numbers for each box in {name!r}")
    return tuple(Box.from_xyxy(tuple(xyxy)) for xyxy in boxes)


def to_label_boxes(value: Any, name: str) -> tuple[Box, ...]:
    """Convert boxes with labels: objects with ``box``, four numbers in original pixels, and ``label``.

    Raises:
        ValueError: If the value is not a list of such objects; None is an empty list.
    """
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, dict) for each in value):
        raise ValueError(f"expected a list of objects with box and label in {name!r}")
    boxes = to_boxes([each.get("box") for each in value], name)
    labels = [to_text(each.get("label", ""), name) for each in value]
    return tuple(box.model_copy(update={"label": label}) for box, label in zip(boxes, labels, strict=True))


def strip_letters(choices: Sequence[str]) -> tuple[str, ...]:
    """Remove the letters of option texts: ``(A) red``, ``A. red`` and ``（A）red`` are ``red``.

    Letters are removed only if every option has one and they run from A, so that an option
    such as ``A. Smith`` is kept.
    """
    marks = [_MARKED_CHOICE.match(choice) for choice in choices]
    letters = "".join(mark[1] or mark[2] for mark in marks if mark)
    if letters != OPTION_LETTERS[: len(choices)]:
        return tuple(choices)
    return tuple(choice[mark.end() :].rstrip() for choice, mark in zip(choices, marks, strict=True) if mark)


def to_letter(answer: str, choices: Sequence[str]) -> str:
    """Parse the letter in ``B``, ``(B)`` or ``B.``.

    Raises:
        ValueError: If there is none, or no such option.
    """
    found = _LETTER.fullmatch(answer)
    if found is None or found[1] not in OPTION_LETTERS[: len(choices)]:
        raise ValueError(f"expected the letter of one of {len(choices)} options as the answer, got {answer[:40]!r}")
    return found[1]


def resolve_image_path(root: Path, name: Any) -> str:
    """Resolve the path of an existing image below ``root``, in the form of ``files.to_stored_path``.

    Args:
        root: The folder.
        name: A relative path, as in the file system or in that form.

    Raises:
        ValueError: If the name is not text, or the file does not exist.
        InputError: If the path is outside the folder.
    """
    text = to_text(name, "image")
    for each in dict.fromkeys((text, str(from_stored_path(text)))):
        path = resolve_inside(root, each)
        with suppress(OSError):  # such as a name that is too long for the file system
            if path.is_file():
                return to_stored_path(path)
    raise ValueError(f"image not found in {root.resolve()}")


def _describe_error(error: Exception) -> str:
    """Describe the error of a row in one line; messages of pydantic are long."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        return f"{where}: {reason}" if where else reason
    reason = str(error).split("\n", 1)[0] or type(error).__name__
    return reason if len(reason) <= _MAX_REASON_CHARS else reason[:_MAX_REASON_CHARS] + "..."
