"""Formatting of shares and counts for display."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable


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
