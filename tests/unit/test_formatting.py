"""Formatting of percentages."""

from __future__ import annotations

from collections import Counter

import pytest

from hart_studio.formatting import format_percent, list_reasons, shorten


@pytest.mark.parametrize(
    ("share", "digits", "shown"),
    [(0.835, 1, "83.5 %"), (1.0, 0, "100 %"), (0.0004, 2, "0.04 %"), (0.0, 1, "0.0 %"), (None, 1, "–")],
)
def test_a_share_is_percent_with_a_space(share: float | None, digits: int, shown: str) -> None:
    assert format_percent(share, digits) == shown


def test_reasons_that_are_not_shown_are_counted() -> None:
    counts = Counter({"a": 3, "b": 2, "c": 1, "d": 1})

    def list_them(most: int) -> list[str]:
        return list_reasons(counts, most, lambda reason, count: f"{count} x {reason}")

    assert list_them(2) == ["3 x a", "2 x b", "and 2 other reasons"]
    assert list_them(3)[-1] == "and 1 other reason"
    assert list_them(4)[-1] == "1 x d"


def test_a_long_text_keeps_its_ends() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcd…ghijk"
    assert len(shorten("a" * 200, 28)) == 28
