"""Spelling of answers: one form for the ways to write the same answer."""

from __future__ import annotations

import re
import unicodedata

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
    words = split_spelled(text)
    return " ".join(word for word in words if word not in _ARTICLES) or " ".join(words)


def split_spelled(text: str) -> list[str]:
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
