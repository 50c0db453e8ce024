"""Formatting of shares and counts for display."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

LIST_TEXT_CHARS: Final = 300
"""Characters of a question in a list; opened alone it is shown in full. Project default."""


def format_percent(share: float | None, digits: int = 1) -> str:
    """Format a share in [0, 1] as percent: 0.835 is ``83.5 %``; None is a dash.

    Args:
        share: The share; None = unknown.
        digits: Decimals.
    """
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def list_reasons(counts: Counter[str], most: int, show: Callable[[str, int], str]) -> list[str]:
    """List the most frequent reasons and the number of others.

    Args:
        counts: Reason -> count.
        most: Maximum number of reasons to list.
        show: Formats a reason and its count.
    """
    shown = [show(reason, count) for reason, count in counts.most_common(most)]
    left = len(counts) - len(shown)
    return [*shown, f"and {left:,} other {'reason' if left == 1 else 'reasons'}"] if left else shown


def shorten(text: str, max_chars: int) -> str:
    """Replace the middle of a text by an ellipsis where it is longer than ``max_chars``."""
    if len(text) <= max_chars:
        return text
    front = (max_chars - 1) // 2
    return f"{text[:front]}…{text[len(text) - (max_chars - 1 - front) :]}"


def format_bytes(count: float) -> str:
    """Format a number of bytes in decimal units, as the Hub and disks do: 7,513,000,000 is ``7.51 GB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
