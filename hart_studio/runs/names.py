"""Names that people give to runs: letters of any language, and nothing that a file, a page or a shell could misread."""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_LENGTH: Final = 60
"""Characters of a name."""

_PUNCTUATION: Final = frozenset(" ._-")
_ALLOWED: Final = f"up to {MAX_LENGTH} letters, digits, spaces, dots, hyphens and underscores, a letter or digit first"


def read_name(text: str) -> str:
    """A name as it is kept, with every letter in one piece (Unicode's NFC); empty = none.

    Raises:
        ValueError: If it holds anything else than letters, digits and a few signs; names one that could be used.
    """
    name = unicodedata.normalize("NFC", text)
    if not name or (len(name) <= MAX_LENGTH and _begins_well(name) and all(map(_is_allowed, name))):
        return name
    shown = text if len(text) <= MAX_LENGTH + 20 else f"{text[:MAX_LENGTH]}..."
    found = suggest_name(text)
    advice = f"take {found!r}, for example" if found else "choose another one, or leave it empty"
    raise ValueError(f"expected {_ALLOWED}, got {shown!r}; {advice}")


def suggest_name(text: str) -> str:
    """The nearest name that can be used; empty when nothing of the text is left."""
    plain = "".join(character if _is_allowed(character) else " " for character in unicodedata.normalize("NFKC", text))
    words = " ".join(plain.split())
    start = next((position for position in range(len(words)) if _begins_well(words[position:])), len(words))
    return words[start:][:MAX_LENGTH].rstrip(" -_.")


def _begins_well(name: str) -> bool:
    return unicodedata.category(name[0])[0] in "LN"


def _is_allowed(character: str) -> bool:
    """Whether a character is a letter, a mark on one, a digit, or one of the few signs."""
    return character in _PUNCTUATION or unicodedata.category(character)[0] in "LMN"
