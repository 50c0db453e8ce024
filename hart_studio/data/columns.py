"""Column mapping of a table, and conversion of its rows to samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from hart_studio.data.cells import read_options, resolve_image
from hart_studio.data.rows import strip_letters, to_boxes, to_letter, to_text, to_texts
from hart_studio.errors import DataError
from hart_studio.prompts import OPTION_LETTERS
from hart_studio.records import GoldSample

_COLUMN_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "image": ("image", "image_path", "img", "picture", "file_name", "filename", "path", "image_file", "file", "photo"),
    "question": ("question", "text", "query", "prompt", "instruction"),
    "answer": ("answer", "ground_truth", "ground truth", "label", "answers", "target", "gt"),
    "choices": ("choices", "options", "answer options", "multi-choice options", "candidates"),
    "id": ("id", "question_id", "qid", "index", "uid"),
    "category": ("category", "kind", "type", "task", "l2-category"),
    "gold_boxes": ("gold_boxes", "bboxes", "gt_boxes"),
}


@dataclass(frozen=True)
class ColumnMapping:
    """Names of the columns. Every named column must exist."""

    image: str = "image"
    """Images: an image feature, bytes, base64 text, or paths."""
    question: str = "question"
    """Questions without choices."""
    answer: str | None = "answer"
    """Letter or text of the option; for an open question, the expected text. None: unknown."""
    choices: str | tuple[str, ...] | None = None
    """Options: a column of lists, a column of text with one option per line, or one column per option. None: open
    questions. Letters before the options are removed."""
    id: str | None = None
    """Ids; None: the row number."""
    category: str | None = None
    """Categories of the questions."""
    gold_boxes: str | None = None
    """Lists of ``[x_min, y_min, x_max, y_max]`` in original pixels, for evaluation only."""

    @property
    def named(self) -> tuple[str, ...]:
        """All columns that are read."""
        values = (getattr(self, each.name) for each in fields(self))
        return tuple(name for value in values if value for name in ((value,) if isinstance(value, str) else value))

    def check(self, names: Sequence[str], location: str) -> None:
        """Check that all columns exist.

        Raises:
            DataError: If a column is missing.
        """
        missing = sorted(set(self.named) - set(names))
        if missing:
            raise DataError(
                f"Missing columns in {location}: {', '.join(missing)}. It has {', '.join(names)}. "
                "Map the columns; for a training run, set data.columns in a settings file or with --set."
            )


def infer_columns(names: Sequence[str]) -> ColumnMapping:
    """Infer the column mapping of a table from column names, ignoring case.

    One column per option (``A``, ``B``, ...) is detected too. A required column that is not found keeps its default
    name; an optional one is None.
    """
    by_name = {name.casefold(): name for name in reversed(names)}
    found = {
        field: next((by_name[guess] for guess in guesses if guess in by_name), None)
        for field, guesses in _COLUMN_NAMES.items()
    }
    lettered = [by_name[letter.casefold()] for letter in _run_of_letters(by_name)]
    choices = found["choices"] or (tuple(lettered) if len(lettered) > 1 else None)
    return ColumnMapping(
        image=found["image"] or "image",
        question=found["question"] or "question",
        answer=found["answer"],
        choices=choices,
        id=found["id"],
        category=found["category"],
        gold_boxes=found["gold_boxes"],
    )


def read_row(
    row: Mapping[str, Any], columns: ColumnMapping, *, number: int, source: str, root: Path, cache: Path
) -> GoldSample:
    """Convert a row to a sample.

    Args:
        row: Column -> value.
        columns: The column mapping.
        number: Row number from 1; the id if there is no id column.
        source: Name of the dataset.
        root: Folder that must contain images given as paths.
        cache: Folder for images given as bytes; must exist.

    Raises:
        ValueError: If the row is invalid.
        InputError: If the path of the image is outside the root.
    """
    choices = _read_choices(row, columns)
    answer = None if columns.answer is None else row[columns.answer]
    return GoldSample(
        id=to_text(row[columns.id], columns.id) if columns.id else f"{number:06d}",
        image=resolve_image(row[columns.image], root, cache),
        question=to_text(row[columns.question], columns.question),
        choices=choices,
        answer=None if answer in (None, "") else _read_answer(to_text(answer, str(columns.answer)), choices),
        category=to_text(row[columns.category], columns.category) if columns.category else "",
        source=source,
        gold_boxes=to_boxes(row[columns.gold_boxes], columns.gold_boxes) if columns.gold_boxes else (),
    )


def _run_of_letters(names: Mapping[str, str]) -> str:
    """Letters A, B, C, ... for which columns exist."""
    count = next((index for index, letter in enumerate(OPTION_LETTERS) if letter.casefold() not in names), 0)
    return OPTION_LETTERS[:count]


def _read_choices(row: Mapping[str, Any], columns: ColumnMapping) -> tuple[str, ...]:
    if columns.choices is None:
        return ()
    if isinstance(columns.choices, tuple):
        texts = ["" if row[name] is None else to_text(row[name], name) for name in columns.choices]
        while texts and not texts[-1]:  # a question with fewer options leaves the last columns empty
            texts.pop()
        return tuple(texts)
    value = row[columns.choices]
    if not isinstance(value, str):
        return strip_letters(to_texts(value, columns.choices))
    choices = read_options(value, columns.choices)
    if len(choices) == 1 and "|" in value:
        choices = strip_letters([part.strip() for part in value.split("|") if part.strip()])
    if len(choices) == 1:
        raise ValueError(
            f"expected at least two options in the column {columns.choices!r}, got one: {value.strip()[:60]!r}; write "
            "one per line, a JSON list, or | between them"
        )
    return choices


def _read_answer(answer: str, choices: tuple[str, ...]) -> str:
    """Convert the answer: a letter if there are choices."""
    if not choices:
        return answer
    same = [index for index, choice in enumerate(choices) if choice.strip() == answer.strip()]
    if len(same) != 1:
        return to_letter(answer, choices)
    letter = OPTION_LETTERS[same[0]]
    try:
        read = to_letter(answer, choices)
    except ValueError:
        return letter
    if read != letter:
        raise ValueError(f"the answer {answer!r} is the letter of one option and the text of another")
    return letter
