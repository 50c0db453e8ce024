"""Display names of runs: letters of any language, without characters that files, pages or shells interpret."""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_NAME_CHARS: Final = 60
"""Maximum number of characters of a name."""

_PUNCTUATION: Final = frozenset(" ._-")
_ALLOWED: Final = (
    f"up to {MAX_NAME_CHARS} letters, digits, spaces, dots, hyphens and underscores, a letter or digit first"
)


def read_name(text: str) -> str:
    """Validate and normalize a name (Unicode NFC); empty = none.

    Raises:
        ValueError: If it contains other characters than letters, digits and a few signs; suggests a valid name.
    """
    name = unicodedata.normalize("NFC", text)
    if not name or (len(name) <= MAX_NAME_CHARS and _begins_well(name) and all(map(_is_allowed, name))):
        return name
    shown = text if len(text) <= MAX_NAME_CHARS + 20 else f"{text[:MAX_NAME_CHARS]}..."
    found = suggest_name(text)
    advice = f"for example {found!r}" if found else "choose another name, or leave it empty"
    raise ValueError(f"expected {_ALLOWED}, got {shown!r}; {advice}")


def suggest_name(text: str) -> str:
    """Suggest a similar valid name; empty if there is none."""
    plain = "".join(character if _is_allowed(character) else " " for character in unicodedata.normalize("NFKC", text))
    words = " ".join(plain.split())
    start = next((position for position in range(len(words)) if _begins_well(words[position:])), len(words))
    return words[start:][:MAX_NAME_CHARS].rstrip(" -_.")


def _begins_well(name: str) -> bool:
    return unicodedata.category(name[0])[0] in "LN"


def _is_allowed(character: str) -> bool:
    """Whether a character is a letter, a combining mark, a digit, or an allowed sign."""
    return character in _PUNCTUATION or unicodedata.category(character)[0] in "LMN"
