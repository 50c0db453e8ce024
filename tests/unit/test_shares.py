"""Percent as people read them."""

from __future__ import annotations

import pytest

from hart_studio.shares import show_share


@pytest.mark.parametrize(
    ("share", "digits", "shown"),
    [(0.835, 1, "83.5 %"), (1.0, 0, "100 %"), (0.0004, 2, "0.04 %"), (0.0, 1, "0.0 %"), (None, 1, "–")],
)
def test_a_share_is_percent_with_a_space(share: float | None, digits: int, shown: str) -> None:
    assert show_share(share, digits) == shown
