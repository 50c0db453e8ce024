r"""Extract and score answers from model text. ONE strict extractor for every dataset and for the reward.

A model would learn to exploit a lenient extractor, so nothing is read from prose: the first letter of
"Based on the sign" is not an answer, and neither is an article. Rules; the first match applies:

1. ``boxed``: the last ``\boxed{...}`` that is not empty;
2. ``answer_tag``: the last ``<answer>...</answer>`` that is not empty;
3. ``statement``: the last "the (final, correct, best) answer is X", also of "option" and "choice";
4. ``letter``: the whole text is a letter, as ``C``, ``(c).`` or ``Option C``;
5. ``option``: the whole text is one option, as ``red`` or ``C. red``.

Rules 1 and 2 are explicit: if their content cannot be read, no weaker rule is tried. Of two different
answers under one rule the last counts.

Published results of a benchmark may use its own, more lenient extractor. Such an ``official`` extractor is part of
``evaluation``, for comparison only; it is never used as a reward.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hart_studio.errors import InputError
from hart_studio.records import Score

MAX_TEXT_CHARS = 20_000
"""Longer text is cut at the start: answers come last, and the time stays bounded."""
MAX_OPEN_WORDS = 10
"""Longer text without an explicit answer is prose, not an answer."""


class Extraction(NamedTuple):
    """Extracted answer."""

    value: str | None
    """A letter, or normalized text for an open question; None if extraction failed."""
    rule: str
    """The rule that matched; ``none`` if and only if ``value`` is None."""


NOT_FOUND = Extraction(None, "none")
"""Result of a failed extraction."""

_THINKING_END = "</think>"
_LATEX_STYLE = re.compile(r"\\(?:text|math)(?:bf|it|rm|sf|tt)?\s?\{([^{}]{0,200})\}")
_LATEX_ESCAPE = re.compile(r"\\([()\[\]%$&#_])")
_BOXED = re.compile(r"\bboxed ?\{((?:(?!\bboxed)[^{}]|\{[^{}]*\})*)\}")
_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.IGNORECASE | re.DOTALL)

_QUALITY = r"(?:final|correct|best|right)"
_STATEMENT = re.compile(
    rf"""
    \b (?: answer (?:\s(?:option|choice))? ["']? (?:\s(?:to|for)(?:\s\w{{1,30}}){{1,6}}?)?
         | (?:{_QUALITY}|my|the) \s (?:option|choice)
         | (?<![^\n]) (?:option|choice) )
    \s? (?: \b(?:is|(?:would|should|must)\sbe)\b | [:=] ) [\s:=]{{0,3}}
    (?: (?:the\s)? (?:{_QUALITY}\s)? (?:option|choice|letter)\b [\s:]{{0,3}} )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_DENIAL = re.compile(
    r"(?:\b(?:not|never|cannot|no|wrong|incorrect|false|worst|bad|another|other|alternative|possible|if|whether|suppose"
    r"|supposing|assume|assuming|unless|doubt|unlikely)|n['’]t)"
    rf"(?: (?:think|believe|say|said|sure|certain|that|the|my|a|your|{_QUALITY}))* ?\Z",
    re.IGNORECASE,
)
"""Text right before a statement that makes it a denial or a supposition."""
_REST_OF_STATEMENT = re.compile(r"(.{0,200}?)(?=[!;\n]|\Z|\.[\"')\]}]{0,3}(?: [A-Z(]| ?\Z|\n)|,? (?i:because|since)\b)")

_OPENING = r"[\"'“‘(\[{<$]"
_CLOSING = r"[\"'”’)\]}>$]"
_STATED_LETTER = re.compile(rf"(?:{_OPENING}\s?){{0,3}}([A-Za-z])")
_LETTER_END = re.compile(
    rf"""
    \s?\Z | \s?\n | \s?{_CLOSING}(?!\w|\s?\?) | \s?[,;:!](?!\d) | \.(?!\d|[^\W\d_](?!\w)) | \s[-–—]\s
    | \s(?:because|since|as|for|due|based|which|where|given|so|in|from|with|according)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Text that may follow a stated letter. Any other word would make an article of "a": "The answer is a dog"."""
_COMPETING_LETTER = re.compile(
    rf"""
    {_CLOSING}{{0,3}} (?: \s?[,/&](?:\s?(?:or|and)\b)? | \s(?:or|and)\b | (?=\s?[(\[]) ) \s?
    {_OPENING}? ([A-Z](?![\w'’]) | [a-z](?=[.,;:!)\]/\n]|\Z))
    """,
    re.VERBOSE,
)
_SOLE_LETTER = re.compile(
    rf"(?:(?:option|choice|answer|letter)\b)?[\s:]*(?:{_OPENING}\s*)*([A-Z])(?:[\s.,:;!]|{_CLOSING})*", re.IGNORECASE
)
_MARKED_OPTION = re.compile(rf"(?:{_OPENING}\s?)*([A-Z])\s?[.:)\]}}]+\s?(\S.*)", re.IGNORECASE | re.DOTALL)
_OPTION_MARK = re.compile(r"\b[A-Z][.:)\]]")

# fmt: off
_NUMBER_WORDS = {word: str(number) for number, word in enumerate((
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
))}
# fmt: on
_ARTICLES = {"a", "an", "the"}
_UNIT_MARKS = "%#&@/"
_THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MARK = re.compile(
    r"(?P<in_number>(?<=\d)\.(?=\d)|(?<![\w.])\.(?=\d)|(?<!\w)-(?=\.?\d))|(?P<in_word>['’]|(?<=[^\W\d_])\.)|[^\w\s]|_"
)


def extract_choice(text: str, letters: str, choices: Sequence[str] = ()) -> Extraction:
    """Extract the chosen letter.

    Args:
        text: Raw model text; only the last ``MAX_TEXT_CHARS`` characters are read, without the text before a
            closing ``</think>``.
        letters: Option letters of the question, such as ``"ABCD"``; no other letter is an answer.
        choices: Option texts in the order of ``letters``. Without them, rule ``option`` accepts ``C. some words`` by
            form only.

    Returns:
        A letter of ``letters`` and the rule, or ``NOT_FOUND``. Never raises on any ``text``.

    Raises:
        InputError: If ``letters`` is empty or not in capitals.
    """
    if not (letters.isascii() and letters.isalpha() and letters.isupper()):
        raise InputError(f"expected option letters such as 'ABCD', got {letters!r}; give one capital letter per option")
    text = _cleaned(text)
    contents, rule = _explicit_contents(text)
    if contents:
        letter = _read_explicit(contents[-1], letters, choices)
        return Extraction(letter, rule) if letter else NOT_FOUND
    stated = list(_stated_options(text, letters, choices))
    if stated:
        return Extraction(stated[-1], "statement") if stated[-1] else NOT_FOUND
    if letter := _sole_letter(text, letters):
        return Extraction(letter, "letter")
    letter = _named_option(text, letters, choices, may_differ=not choices)
    return Extraction(letter, "option") if letter else NOT_FOUND


def extract_open(text: str) -> Extraction:
    """Extract the answer to an open question.

    Args:
        text: Raw model text, read within the same limits as in ``extract_choice``.

    Returns:
        Normalized text under rule ``boxed``, ``answer_tag``, ``statement`` or ``whole`` (a text of at most
        ``MAX_OPEN_WORDS`` words), or ``NOT_FOUND``.
    """
    text = _cleaned(text)
    contents, rule = _explicit_contents(text)
    if contents:
        stated = list(_stated_texts(contents[-1]))
        return _open_extraction(stated[-1] if stated else contents[-1], rule)
    stated = list(_stated_texts(text))
    if stated:
        return _open_extraction(stated[-1], "statement")
    return _open_extraction(text, "whole") if len(text.split()) <= MAX_OPEN_WORDS else NOT_FOUND


def score_answer(text: str, choices: Sequence[str], answer: str | None) -> Score:
    """Score the answer of a model: reward r in {0, 1} of the closed loop (docs/concept.md, Closed loop).

    Args:
        text: Raw model text.
        choices: Option texts; empty for an open question, which is scored by equality of normalized texts.
        answer: The letter of the option, or the expected text; None when unknown.

    Returns:
        The score: value 1.0 or 0.0, or None when ``answer`` is unknown. Text without an extracted answer is wrong.

    Raises:
        InputError: If ``answer`` cannot be matched: not a letter of the choices, or empty.
    """
    letters = string.ascii_uppercase[: len(choices)]
    value, rule = extract_choice(text, letters, choices) if choices else extract_open(text)
    if answer is None:
        return Score(value=None, extracted=value, expected=None, rule=rule)
    if choices and (len(answer) != 1 or answer not in letters):
        raise InputError(f"expected the answer to be one of the letters {letters}, got {answer!r}")
    expected = answer if choices else normalize_text(answer)
    if not expected:
        raise InputError("expected a non-empty answer; use None if it is unknown")
    return Score(value=float(value == expected), extracted=value, expected=answer, rule=rule)


def answers_agree(first: Score, second: Score) -> bool:
    """Whether two extracted answers are equal; a failed extraction agrees with nothing."""
    return first.extracted is not None and first.extracted == second.extracted


def normalize_text(text: str) -> str:
    """Normalize the spelling of an answer.

    Lower case and NFKC; punctuation and articles are removed, number words up to twenty become digits. Decimal points,
    signs, and units are kept: ``3.5``, ``-2``, ``40%`` and ``km/h`` do not become ``35``, ``2``, ``40`` and ``kmh``. If
    nothing else is left, articles and punctuation are kept, so that the answers "A" and "?" keep a text.

    Args:
        text: Any text.

    Returns:
        Words separated by single spaces; empty only for a text without visible characters.
    """
    words = _spelled(text)
    return " ".join(word for word in words if word not in _ARTICLES) or " ".join(words)


def _spelled(text: str) -> list[str]:
    """Words of a normalized text, articles kept: "A. dog" is not yet "dog"."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("−", "-")
    words = _MARK.sub(_separate, _THOUSANDS_COMMA.sub("", plain)).split() or plain.split()
    return [_NUMBER_WORDS.get(word, word) for word in words]


def _separate(mark: re.Match[str]) -> str:
    sign = mark[0]
    if mark["in_number"]:
        return sign
    if mark["in_word"]:
        return ""
    return " " if unicodedata.category(sign)[0] == "P" and sign not in _UNIT_MARKS else sign


def _cleaned(text: str) -> str:
    """End of the text after the reasoning, without Markdown and LaTeX markup; single spaces and newlines."""
    end = unicodedata.normalize("NFKC", text[-MAX_TEXT_CHARS:])[-MAX_TEXT_CHARS:].rpartition(_THINKING_END)[2]
    end = end.encode(errors="ignore").decode()  # a lone surrogate cannot be stored
    plain = _LATEX_STYLE.sub(r"\1", _LATEX_STYLE.sub(r"\1", end.replace("*", "").replace("`", "")))  # two levels
    plain = _LATEX_ESCAPE.sub(r"\1", plain)
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", plain)).strip()


def _explicit_contents(text: str) -> tuple[list[str], str]:
    """Contents of the strongest explicit rule that matches, in order, and the name of the rule."""
    for pattern, rule in ((_BOXED, "boxed"), (_ANSWER_TAG, "answer_tag")):
        contents = [content.strip() for content in pattern.findall(text) if content.strip()]
        if contents:
            return contents, rule
    return [], "none"


def _read_explicit(content: str, letters: str, choices: Sequence[str]) -> str | None:
    read = _sole_letter(content, letters) or _named_option(content, letters, choices, may_differ=True)
    return read or next(reversed(list(_stated_options(content, letters, choices))), None)


def _statement_ends(text: str) -> Iterator[int]:
    """Positions right after each "the answer is" that is neither denied nor supposed."""
    for statement in _STATEMENT.finditer(text):
        if not _DENIAL.search(text[max(0, statement.start() - 60) : statement.start()]):
            yield statement.end()


def _stated_options(text: str, letters: str, choices: Sequence[str]) -> Iterator[str | None]:
    """Letter of each statement, None for a statement with two letters; other statements are skipped."""
    for end in _statement_ends(text):
        stated = _STATED_LETTER.match(text, end)
        letter = stated[1].upper() if stated else ""
        if stated and letter in letters:
            competing = _COMPETING_LETTER.match(text, stated.end())
            if competing and competing[1].upper() in letters.replace(letter, ""):
                yield None
                continue
            if _LETTER_END.match(text, stated.end()):
                yield letter
                continue
        if option := _named_option(_rest_of_statement(text, end), letters, choices):
            yield option


def _stated_texts(text: str) -> Iterator[str]:
    """Text of each statement up to the end of its sentence; empty ones are skipped."""
    return (rest for end in _statement_ends(text) if (rest := _rest_of_statement(text, end)).strip())


def _rest_of_statement(text: str, start: int) -> str:
    rest = _REST_OF_STATEMENT.match(text, start)
    return rest[1] if rest else ""


def _sole_letter(text: str, letters: str) -> str | None:
    """The letter, if the text contains nothing else."""
    sole = _SOLE_LETTER.fullmatch(text)
    return sole[1].upper() if sole and sole[1].upper() in letters else None


def _named_option(text: str, letters: str, choices: Sequence[str], *, may_differ: bool = False) -> str | None:
    """Letter of the only option that a text spells out: ``red``, ``C. red`` or ``C red``.

    Args:
        text: A complete answer.
        letters: The option letters.
        choices: Their texts.
        may_differ: Whether ``C. a few words`` is C if the words match no option. Words of another option never match.
    """
    spelled = _spelled(text)
    exact = [
        letter
        for letter, choice in zip(letters, choices, strict=False)
        if spelled in (_spelled(choice), _spelled(f"{letter}. {choice}"))
    ]
    if len(exact) == 1:
        return exact[0]
    marked = _MARKED_OPTION.fullmatch(text)
    if not marked or marked[1].upper() not in letters:
        return _option_with_words(text, letters, choices)
    letter, words = marked[1].upper(), marked[2]
    matched = _option_with_words(words, letters, choices)
    if matched is None and may_differ and len(words.split()) <= MAX_OPEN_WORDS and not _OPTION_MARK.search(words):
        return letter
    return letter if matched == letter else None


def _option_with_words(text: str, letters: str, choices: Sequence[str]) -> str | None:
    """The letter of the only option whose normalized text equals that of ``text``."""
    wanted = normalize_text(text)
    hits = [letter for letter, choice in zip(letters, choices, strict=False) if normalize_text(choice) == wanted]
    return hits[0] if len(hits) == 1 else None


def _open_extraction(text: str, rule: str) -> Extraction:
    value = normalize_text(text)
    return Extraction(value, rule) if value else NOT_FOUND
