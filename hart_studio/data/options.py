"""Parse options of published questions: lists, one option per line, a column per letter, or inside the question.

In a sample, option texts have no letters and the question contains no options, so every
benchmark uses the same prompt.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from hart_studio.data.literals import read_literal
from hart_studio.data.rows import strip_letters, to_text, to_texts
from hart_studio.prompts import OPTION_LETTERS
from hart_studio.records import MAX_QUESTION_CHARS
from hart_studio.scoring import normalize_text

_MAX_MARKS: Final = 64
_MARK: Final = re.compile(r"(?:[(\[（]\s?([A-Z])\s?[)\]）]|(?<![^\s,;，；])([A-Z])\s?([.:)．：、）]))")
_LINE_START: Final = re.compile(r"(?:\A|\n)\s*\Z")
_HEADING: Final = re.compile(
    r"\s*\b(?:(?:the )?(?:answer )?(?:options|choices)(?: are(?: listed)?(?: below)?)?|choose from)\s*[:：]\s*\Z",
    re.IGNORECASE,
)
_SEPARATORS: Final = ",;，； \n\t"
_STYLES: Final = {"．": ".", "：": ":", "）": ")"}


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
