from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.runs.names import MAX_NAME_CHARS, read_name, suggest_name


@pytest.mark.parametrize(
    "name", ["", "a", "A run 2.5_x-y", "x" * MAX_NAME_CHARS, "Müller Versuch", "第2次実験", "पहला"]
)
def test_names_of_any_language_are_kept(name: str) -> None:
    assert read_name(name) == name


def test_a_letter_that_comes_in_parts_is_one_letter() -> None:
    assert read_name("Mu\u0308ller") == "Müller"


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("Versuch #3 (neu)", "Versuch 3 neu"),
        ("lr=1e-5, k=0.6", "lr 1e-5 k 0.6"),
        ("../up", "up"),
        ("-x", "x"),
        ("a/b\n", "a b"),
        ("<script>alert(1)</script>", "script alert 1 script"),
        ("x" * 61, "x" * 60),
        ("ﬁrst try!", "first try"),
        ("a\u202egnp.exe", "a gnp.exe"),
    ],
)
def test_another_text_is_refused_in_words_with_a_name_that_could_be_used(text: str, near: str) -> None:
    assert suggest_name(text) == near
    with pytest.raises(ValueError, match="letters, digits, spaces, dots, hyphens and underscores") as caught:
        read_name(text)
    assert repr(near) in str(caught.value) and "[A-Z" not in str(caught.value)


def test_a_text_without_a_letter_leaves_nothing_to_propose() -> None:
    with pytest.raises(ValueError, match="leave it empty"):
        read_name("??? --")


@given(st.text(max_size=90))
def test_what_is_proposed_can_be_used(text: str) -> None:
    assert read_name(suggest_name(text)) is not None
    assert len(suggest_name(text)) <= MAX_NAME_CHARS
