"""Rows to samples: what every source shares. A bad row is counted with its reason and never stops the load."""

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
from hart_studio.formatting import list_reasons
from hart_studio.prompts import OPTION_LETTERS
from hart_studio.records import Box, Sample

RowT = TypeVar("RowT")
SampleT = TypeVar("SampleT", bound=Sample)

_MAX_REASON_CHARS: Final = 300
_OPENING = r"[(\[（]"
_CLOSING = r"[)\]）]"
_MARKED_CHOICE: Final = re.compile(rf"\s*(?:{_OPENING}\s*([A-Z])\s*{_CLOSING}|([A-Z])\s*(?:{_CLOSING}|[.:．：、]))\s*")
_LETTER: Final = re.compile(rf"\s*{_OPENING}?\s*([A-Z])\s*{_CLOSING}?\s*[.．]?\s*")


@dataclass(frozen=True)
class InvalidRow:
    """A row that is no sample."""

    row: str
    """Where it is, for people: ``line 3``, ``row 12``."""
    reason: str
    """What is wrong with it."""

    def __post_init__(self) -> None:
        # Both may quote a file name that is not UTF-8, which neither a database nor a terminal takes.
        object.__setattr__(self, "row", to_printable(self.row))
        object.__setattr__(self, "reason", to_printable(self.reason))


@dataclass(frozen=True)
class LoadedSamples(Generic[SampleT]):
    """What a source gave."""

    source: str
    """Name of the data set."""
    samples: tuple[SampleT, ...]
    """The good rows in file order, ids unique. Of gold samples, ``gold_boxes`` is empty where the source has none."""
    invalid_rows: tuple[InvalidRow, ...] = ()
    """The others, in file order."""

    @property
    def reasons(self) -> Counter[str]:
        """How many rows were left out for each reason."""
        return Counter(bad.reason for bad in self.invalid_rows)

    def describe_reasons(self, most: int) -> list[str]:
        """Sentences on the most frequent reasons, and how many other reasons there are."""

        def show(reason: str, count: int) -> str:
            return f"{count} rows of {self.source} are left out: {reason}"

        return list_reasons(self.reasons, most, show)


def collect_samples(
    source: str, rows: Iterable[tuple[str, RowT]], read: Callable[[RowT], SampleT], *, needs_answer: bool
) -> LoadedSamples[SampleT]:
    """Read every row, and count the ones that cannot be read.

    Args:
        source: Name of the data set, for messages.
        rows: Where each row is, for people, and the row.
        read: Makes a sample of a row, or raises ``ValueError`` or a ``HartError`` that says why not.
        needs_answer: Whether a row without a known answer is a bad one.

    Raises:
        DataError: If no row is good.
    """
    source = to_printable(source)
    samples: dict[str, SampleT] = {}
    invalid_rows = []
    for place, row in rows:
        try:
            sample = read(row)
            if needs_answer and sample.answer is None:
                raise ValueError("no answer")
            if sample.id in samples:
                raise ValueError("an id that an earlier row has")
        except (ValueError, RecursionError, HartError) as error:  # JSON nested without end is a RecursionError
            invalid_rows.append(InvalidRow(place, _describe_error(error)))
        else:
            samples[sample.id] = sample
    loaded = LoadedSamples(source, tuple(samples.values()), tuple(invalid_rows))
    if not samples:
        shown = list_reasons(loaded.reasons, 3, lambda reason, count: f"{count} rows: {reason}")
        found = "; ".join(shown) or "no rows"
        raise DataError(
            f"expected at least one sample in {source}, got {found}; check the path and the form of the rows"
        )
    return loaded


def get_field(row: Any, name: str) -> Any:
    """A field that a row must have.

    Raises:
        ValueError: If the row is no object, or has no such field.
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {type(row).__name__}")
    if name not in row:
        raise ValueError(f"no field {name!r}")
    return row[name]


def to_text(value: Any, name: str) -> str:
    """A text, or a finite number written as one.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(value)
    raise ValueError(f"expected text in {name!r}, got {type(value).__name__}")


def to_texts(value: Any, name: str) -> tuple[str, ...]:
    """A list of texts; None is an empty one.

    Raises:
        ValueError: If it is no list, or holds something else.
    """
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list in {name!r}, got {type(value).__name__}")
    return tuple(to_text(each, name) for each in value)


def to_boxes(value: Any, name: str) -> tuple[Box, ...]:
    """A list of ``[x_min, y_min, x_max, y_max]`` in original pixels; None is an empty one.

    Raises:
        ValueError: If it is no list of boxes.
    """
    boxes = [] if value is None else value
    if not isinstance(boxes, (list, tuple)) or not all(isinstance(xyxy, (list, tuple)) for xyxy in boxes):
        raise ValueError(f"expected a list of boxes in {name!r}")
    if any(len(xyxy) != 4 for xyxy in boxes):
        raise ValueError(f"expected four numbers for each box in {name!r}")
    return tuple(Box.from_xyxy(tuple(xyxy)) for xyxy in boxes)


def to_label_boxes(value: Any, name: str) -> tuple[Box, ...]:
    """Boxes with what they are called: objects with ``box``, four numbers in original pixels, and ``label``.

    Raises:
        ValueError: If it is no list of such objects; None is an empty one.
    """
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, dict) for each in value):
        raise ValueError(f"expected a list of objects with box and label in {name!r}")
    boxes = to_boxes([each.get("box") for each in value], name)
    labels = [to_text(each.get("label", ""), name) for each in value]
    return tuple(box.model_copy(update={"label": label}) for box, label in zip(boxes, labels, strict=True))


def strip_letters(choices: Sequence[str]) -> tuple[str, ...]:
    """Option texts without their letters: ``(A) red``, ``A. red`` and ``（A）red`` are ``red``.

    Letters are removed when every option has its own and they run from A; else nothing is changed, so that an option
    such as ``A. Smith`` stays whole.
    """
    marks = [_MARKED_CHOICE.match(choice) for choice in choices]
    letters = "".join(mark[1] or mark[2] for mark in marks if mark)
    if letters != OPTION_LETTERS[: len(choices)]:
        return tuple(choices)
    return tuple(choice[mark.end() :].rstrip() for choice, mark in zip(choices, marks, strict=True) if mark)


def to_letter(answer: str, choices: Sequence[str]) -> str:
    """The letter in ``B``, ``(B)`` or ``B.``.

    Raises:
        ValueError: If there is none, or no such option.
    """
    found = _LETTER.fullmatch(answer)
    if found is None or found[1] not in OPTION_LETTERS[: len(choices)]:
        raise ValueError(f"expected the letter of one of {len(choices)} options as the answer, got {answer[:40]!r}")
    return found[1]


def resolve_image_path(root: Path, name: Any) -> str:
    """The path of an existing image below ``root``, in the form of ``files.to_stored_path``.

    Args:
        root: The folder.
        name: A relative path as the file system has it, or in that form.

    Raises:
        ValueError: If the name is no text, or no such file exists.
        InputError: If the name leads out of the folder.
    """
    text = to_text(name, "image")
    for each in dict.fromkeys((text, str(from_stored_path(text)))):
        path = resolve_inside(root, each)
        with suppress(OSError):  # as a name that the file system finds too long
            if path.is_file():
                return to_stored_path(path)
    raise ValueError(f"the image is missing in {root.resolve()}")


def _describe_error(error: Exception) -> str:
    """One line for a row's error; pydantic's own texts are pages."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        return f"{where}: {reason}" if where else reason
    reason = str(error).split("\n", 1)[0] or type(error).__name__
    return reason if len(reason) <= _MAX_REASON_CHARS else reason[:_MAX_REASON_CHARS] + "..."
