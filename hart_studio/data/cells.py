"""Parse cells of tables: images, Python literals, options of questions, gold boxes.

Images are bytes, base64 text or paths, and become files named by content. Options are lists, one option per line, a
column per letter, or inside the question. In a sample, option texts have no letters and the question contains no
options, so every benchmark uses the same prompt.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from hart_studio.data.rows import resolve_image_path, strip_letters, to_text, to_texts
from hart_studio.files import from_stored_path, to_stored_path, write_atomically
from hart_studio.geometry import clip
from hart_studio.image_formats import HEADER_BYTES, SUPPORTED_FORMATS, detect_format
from hart_studio.imaging import SourceImage
from hart_studio.prompts import OPTION_LETTERS
from hart_studio.records import MAX_QUESTION_CHARS, Box
from hart_studio.spelling import normalize_text

_MAX_NAME_CHARS: Final = 1024
"""Maximum length of a path."""

MAX_LITERAL_CHARS: Final = 20_000
"""Maximum length of a literal; published cells are much shorter, and parsing stays fast."""

_MAX_MARKS: Final = 64
_MARK: Final = re.compile(r"(?:[(\[（]\s?([A-Z])\s?[)\]）]|(?<![^\s,;，；])([A-Z])\s?([.:)．：、）]))")

_LINE_START: Final = re.compile(r"(?:\A|\n)\s*\Z")

_HEADING: Final = re.compile(
    r"\s*\b(?:(?:the )?(?:answer )?(?:options|choices)(?: are(?: listed)?(?: below)?)?|choose from)\s*[:：]\s*\Z",
    re.IGNORECASE,
)

_SEPARATORS: Final = ",;，； \n\t"
_STYLES: Final = {"．": ".", "：": ":", "）": ")"}


def resolve_image(value: Any, root: Path, cache: Path) -> str:
    """Return the path of the image in a cell; bytes are written to the cache.

    Args:
        value: Bytes, base64 text, a path, or an image feature with one of these.
        root: Folder that must contain the paths.
        cache: Folder for images given as bytes.

    Raises:
        ValueError: If it is not an image, or is missing.
        InputError: If a path is outside the folder.
    """
    if isinstance(value, dict):  # an image feature: bytes, or the path of a file
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return store_image(value, cache)
    if not isinstance(value, str):
        raise ValueError(f"expected an image, got {type(value).__name__}")
    decoded = _decode_base64(value)
    if detect_format(decoded[:HEADER_BYTES]) in SUPPORTED_FORMATS:  # a path can be valid base64, but not an image
        return store_image(decoded, cache)
    if len(value) > _MAX_NAME_CHARS:
        raise ValueError("expected an image, got text that is neither a base64 image nor a path")
    path = from_stored_path(value)
    if not path.is_absolute():
        return resolve_image_path(root, value)
    try:
        return resolve_image_path(root, str(path.resolve().relative_to(root.resolve())))
    except ValueError as error:
        raise ValueError(f"image not found in {root}, or outside of it") from error


def _decode_base64(text: str) -> bytes:
    """Decode base64 text; empty if it is invalid."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return b""


def store_image(data: bytes, cache: Path) -> str:
    """Write an image into a folder, named by its content, once; return its absolute path.

    Raises:
        ValueError: If the format is not supported.
    """
    kind = detect_format(data[:HEADER_BYTES])
    if kind not in SUPPORTED_FORMATS:
        raise ValueError(f"expected one of {', '.join(SUPPORTED_FORMATS)}, got {kind or 'data that is not an image'}")
    path = cache / f"{hashlib.sha256(data).hexdigest()[:32]}.{kind.lower()}"
    if not path.is_file():
        write_atomically(path, data)
    return to_stored_path(path.resolve())


def read_literal(text: str, name: str) -> Any:
    """Parse a literal; never executes code.

    Args:
        text: Text of the cell.
        name: Name of the column, for messages.

    Raises:
        ValueError: If it is too long, or not a literal.
    """
    if len(text) > MAX_LITERAL_CHARS:
        raise ValueError(f"expected at most {MAX_LITERAL_CHARS} characters in {name!r}, got {len(text)}")
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"expected a list in {name!r}, got other text") from error


class _Mark(NamedTuple):
    """A letter that may introduce an option."""

    letter: str
    style: str
    start: int
    end: int


def read_options(value: Any, name: str) -> tuple[str, ...]:
    r"""Parse the options of a cell, without letters.

    Args:
        value: A list of texts, the literal of one, or text with one option per line. None and blank text are no
            options.
        name: Name of the column, for messages.

    Raises:
        ValueError: If the value has another form.
    """
    if not isinstance(value, str):
        return strip_letters(to_texts(value, name))
    text = value.strip()
    if text.startswith("["):
        return strip_letters(to_texts(read_literal(text, name), name))
    _, marked = split_options(text)
    return marked or strip_letters([line.strip() for line in text.splitlines() if line.strip()])


def read_lettered(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the options of the columns ``A``, ``B``, ``C``, ...; trailing empty columns are ignored.

    Raises:
        ValueError: If a cell contains neither text nor a number.
    """
    texts: list[str] = []
    for letter in OPTION_LETTERS:
        if letter not in row:
            break
        cell = row[letter]
        is_empty = cell is None or cell != cell  # NaN, the empty cell of some tables
        texts.append("" if is_empty else to_text(cell, letter).strip())
    while texts and not texts[-1]:
        texts.pop()
    return tuple(texts)


def extract_options(question: str, choices: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Separate the options inside a question from the question.

    Args:
        question: The published text.
        choices: The options, if known. The question is then split only if it repeats them; without them, wherever
            it contains lettered options.

    Returns:
        The question and the option texts, empty if there are none.
    """
    bare, inlined = split_options(question)
    if not choices:
        return bare, inlined
    is_repeated = [normalize_text(text) for text in inlined] == [normalize_text(text) for text in choices]
    return (bare if is_repeated else question.strip()), tuple(choices)


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Split a question from the lettered options at its end.

    Marks such as ``(A)``, ``（A）``, ``A.``, ``A:`` and ``A)`` count if they run from A in one style. Marks that
    begin a line are preferred, so that an option may name another letter. A heading such as ``Options:`` is removed
    too.

    Args:
        text: The whole text; nothing may follow the options.

    Returns:
        The question and at least two option texts; or the stripped text and no options.
    """
    marks = [] if len(text) > MAX_QUESTION_CHARS else [_to_mark(found) for found in _MARK.finditer(text)]
    first_of_line = [mark for mark in marks if _LINE_START.search(text, max(0, mark.start - 8), mark.start)]
    run = _longest_run(first_of_line) or _longest_run(marks)
    if not run:
        return text.strip(), ()
    ends = [mark.start for mark in run[1:]] + [len(text)]
    choices = [text[mark.end : end].strip() for mark, end in zip(run, ends, strict=True)]
    choices = [choice.rstrip(_SEPARATORS) for choice in choices[:-1]] + choices[-1:]
    return _HEADING.sub("", text[: run[0].start]).strip(), tuple(choices)


def _to_mark(found: re.Match[str]) -> _Mark:
    style = found[3] or "()"
    return _Mark(found[1] or found[2], _STYLES.get(style, style), found.start(), found.end())


def _longest_run(marks: Sequence[_Mark]) -> list[_Mark]:
    """Longest run of marks A, B, C, ... of one style; the last one on a tie. Empty for fewer than two."""
    best: list[_Mark] = []
    for style in dict.fromkeys(mark.style for mark in marks):
        by_letter: dict[str, list[_Mark]] = {}
        for mark in marks:
            if mark.style == style:
                by_letter.setdefault(mark.letter, []).append(mark)
        for start in by_letter.get("A", [])[-_MAX_MARKS:]:
            run = [start]
            for letter in OPTION_LETTERS[1:]:
                candidates = by_letter.get(letter, [])
                index = bisect_right(candidates, run[-1].end - 1, key=lambda mark: mark.start)
                if index == len(candidates):
                    break
                run.append(candidates[index])
            if len(run) > 1 and len(run) >= len(best):
                best = run
    return best


def repair_boxes(values: Any, image: str, labels: Sequence[str] = (), *, is_xywh: bool = False) -> tuple[Box, ...]:
    """Convert lists of four numbers to boxes in original pixels.

    Some published boxes have corners in the wrong order or exceed the image. Corners are sorted and edges
    clipped. A box without area inside the image is an error, because no prediction could match it.

    Args:
        values: List of ``[x_min, y_min, x_max, y_max]`` in pixels of the upright image.
        image: Path of the image; only its header is read.
        labels: Labels of the boxes, in order; missing ones are empty.
        is_xywh: Whether the numbers are ``[x_min, y_min, width, height]`` instead.

    Raises:
        ValueError: If the value is not a list of boxes, or a box has no area inside the image.
        ImageError: If the image cannot be read.
    """
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"expected a list of gold boxes, got {type(values).__name__}")
    named = labels if len(labels) == len(values) else [""] * len(values)
    with SourceImage(image) as source_image:
        wh = source_image.wh
    return tuple(_repair(value, wh, label, is_xywh) for value, label in zip(values, named, strict=True))


def _repair(value: Any, wh: tuple[int, int], label: str, is_xywh: bool) -> Box:
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise ValueError("expected four numbers for each gold box")
    first_x, first_y, second_x, second_y = (_to_number(each) for each in value)
    if is_xywh:
        second_x, second_y = first_x + second_x, first_y + second_y
    x_min, x_max = sorted((first_x, second_x))
    y_min, y_max = sorted((first_y, second_y))
    inside = clip(Box.from_xyxy((x_min, y_min, x_max, y_max), label), wh) if x_min < x_max and y_min < y_max else None
    if inside is None:
        raise ValueError("a gold box without area inside the image")
    return inside


def _to_number(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("expected finite numbers in each gold box")
    return number
