"""Parse Python literals in cells of published tables: ``[[12, 30, 80, 95]]``, ``['(A) red', '(B) blue']``."""

from __future__ import annotations

import ast
from typing import Any, Final

MAX_LITERAL_CHARS: Final = 20_000
"""Maximum length of a literal; published cells are much shorter, and parsing stays fast."""


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
