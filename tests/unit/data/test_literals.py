from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.data.literals import MAX_LITERAL_CHARS, read_literal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[[1, 2, 3.5, 4]]", [[1, 2, 3.5, 4]]),
        (" [(1, 2, 3, 4)]\n", [(1, 2, 3, 4)]),
        ("""['(A) it''s', "(B) 'no'"]""", ["(A) its", "(B) 'no'"]),
    ],
)
def test_a_literal_is_read(text: str, value: object) -> None:
    assert read_literal(text, "x") == value


@pytest.mark.parametrize(
    "text", ["", "[1, 2", "__import__('os')", "[x for x in ()]", "(" * 5000, "-" * 5000 + "1", "9" * 5000, "a\0b"]
)
def test_anything_else_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="expected a list in 'boxes'"):
        read_literal(text, "boxes")


def test_a_longer_text_is_not_even_parsed() -> None:
    with pytest.raises(ValueError, match="at most 20000 characters"):
        read_literal("[" + "1," * MAX_LITERAL_CHARS + "]", "boxes")


@given(text=st.text(max_size=60) | st.text(alphabet="[](){},'\"1-. \\", max_size=60))
def test_no_text_raises_anything_else(text: str) -> None:
    with suppress(ValueError):
        read_literal(text, "x")
