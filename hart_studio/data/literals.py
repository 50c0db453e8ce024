"""Python literals that published tables keep in their cells: ``[[12, 30, 80, 95]]``, ``['(A) red', '(B) blue']``."""

from __future__ import annotations

import ast
from typing import Any, Final

MAX_LITERAL_CHARS: Final = 20_000
"""A longer text is refused: no published cell comes near it, and parsing stays cheap."""


def read_literal(text: str, name: str) -> Any:
    """The value of a literal; nothing is ever run.

    Args:
        text: Text of the cell.
        name: Of the column, for messages.

    Raises:
        ValueError: If it is too long, or no literal.
    """
    if len(text) > MAX_LITERAL_CHARS:
        raise ValueError(f"expected at most {MAX_LITERAL_CHARS} characters in {name!r}, got {len(text)}")
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"expected a list in {name!r}, got text that is none") from error
