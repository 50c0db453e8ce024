"""Shares of a whole as people read them: percent, with a space in front of the sign."""

from __future__ import annotations


def show_share(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as percent: 0.835 is ``83.5 %``; a dash when it is not known.

    Args:
        share: The share; None = not known.
        digits: Decimals.
    """
    return "–" if share is None else f"{100 * share:.{digits}f} %"
