"""Names that people give to runs: letters of any language, and nothing that a file, a page or a shell could misread."""

from __future__ import annotations

import unicodedata
from typing import Final

LONGEST: Final = 60
"""Characters of a name."""

_SIGNS: Final = frozenset(" ._-")
_ALLOWED: Final = f"up to {LONGEST} letters, digits, spaces, dots, hyphens and underscores, a letter or digit first"


def read_name(text: str) -> str:
    """A name as it is kept, with every letter in one piece (Unicode's NFC); empty = none.

    Raises:
        ValueError: If it holds anything else than letters, digits and a few signs; names one that could be used.
    """
    name = unicodedata.normalize("NFC", text)
    if not name or (len(name) <= LONGEST and _begins_well(name) and all(map(_is_allowed, name))):
        return name
    shown = text if len(text) <= LONGEST + 20 else f"{text[:LONGEST]}..."
    found = suggest_name(text)
    advice = f"take {found!r}, for example" if found else "choose another one, or leave it empty"
    raise ValueError(f"expected {_ALLOWED}, got {shown!r}; {advice}")


def suggest_name(text: str) -> str:
    """The nearest name that can be used; empty when nothing of the text is left."""
    plain = "".join(sign if _is_allowed(sign) else " " for sign in unicodedata.normalize("NFKC", text))
    words = " ".join(plain.split())
    start = next((place for place in range(len(words)) if _begins_well(words[place:])), len(words))
    return words[start:][:LONGEST].rstrip(" -_.")


def _begins_well(name: str) -> bool:
    return unicodedata.category(name[0])[0] in "LN"


def _is_allowed(sign: str) -> bool:
    """Whether a character is a letter, a mark on one, a digit, or one of the few signs."""
    return sign in _SIGNS or unicodedata.category(sign)[0] in "LMN"
