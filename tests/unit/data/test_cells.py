from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from hart_studio.data.cells import (
    MAX_LITERAL_CHARS,
    extract_options,
    read_lettered,
    read_literal,
    read_options,
    repair_boxes,
    split_options,
)
from hart_studio.errors import ImageError
from hart_studio.records import MAX_QUESTION_CHARS


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


# (text, question, options)
INLINED = [
    ("What?\nOptions: A: cat, B: dog, C: a, b, D: none.", "What?", ("cat", "dog", "a, b", "none.")),
    ("Which one? Options: A: A, B: B, C: C, D: D", "Which one?", ("A", "B", "C", "D")),  # letters as options
    ("What?\n(A) red\n(B) blue", "What?", ("red", "blue")),
    ("What?\n(A) like (B)\n(B) blue", "What?", ("like (B)", "blue")),  # an option that names another one
    ("What is in (A) and (B)?\n(A) red\n(B) blue\nand green", "What is in (A) and (B)?", ("red", "blue\nand green")),
    ("Is vitamin A. good? Choices: A. yes B. no", "Is vitamin A. good?", ("yes", "no")),
    ("图中是什么？（A）红（B）蓝（C）绿", "图中是什么？", ("红", "蓝", "绿")),
    ("What? The choices are listed below:\n(A) 1\n(B) 2\n", "What?", ("1", "2")),
    ("A) one\nB) two", "", ("one", "two")),
    ("Points A: 3, B: 4.\nOptions: A: 1, B: 2, C: 3", "Points A: 3, B: 4.", ("1", "2", "3")),
    ("What?\n" + "\n".join(f"{letter}. {letter}x" for letter in "ABCDEFG"), "What?", tuple(f"{a}x" for a in "ABCDEFG")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "question", "options"), INLINED, ids=[text[:20] for text, _, _ in INLINED])
def test_options_are_taken_out_of_a_question(text: str, question: str, options: tuple[str, ...]) -> None:
    assert split_options(text) == (question, options)
    assert extract_options(text) == (question, options)


@pytest.mark.parametrize(
    "text",
    [
        "What is it?",
        "Is it (A)?",
        "A. Smith painted it. Who is B?",
        "(A) x B. y",
        "(B) x (C) y",
        "the U.S.A. or not",
        "",
    ],
)
def test_a_question_without_options_stays_whole(text: str) -> None:
    assert split_options(f" {text} ") == (text, ())


def test_known_options_are_taken_out_only_where_they_are_repeated() -> None:
    text = "Which way from A: here to B: there?"
    assert extract_options(text, ("left", "right")) == (text, ("left", "right"))
    assert extract_options(f"{text}\nA. Left\nB. right.", ("left", "right")) == (text, ("left", "right"))


def test_a_text_too_long_is_not_searched() -> None:
    text = "What?\nA. x\nB. " + "y" * MAX_QUESTION_CHARS
    assert split_options(text) == (text, ())


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (None, ()),
        ("", ()),
        (["(A) red", "(B) blue"], ("red", "blue")),
        (("（A）红", "（B）蓝"), ("红", "蓝")),
        ("['(A) red', '(B) it is \"B\"']", ("red", 'it is "B"')),
        ("A. red\nB. blue, C. green\nC. x", ("red", "blue, C. green", "x")),
        ("The choices are listed below:\n(A) red\n(B) blue\n", ("red", "blue")),
        ("red\n\n blue ", ("red", "blue")),
        ([3, 4.5], ("3", "4.5")),
    ],
)
def test_every_form_of_a_cell(value: Any, options: tuple[str, ...]) -> None:
    assert read_options(value, "choices") == options


@pytest.mark.parametrize("value", [7, {"A": "red"}, [None], "[1, 2", "[[]]"])
def test_what_is_no_list_of_options(value: Any) -> None:
    with pytest.raises(ValueError, match="'choices'"):
        read_options(value, "choices")


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"A": "x", "B": 7, "C": "", "D": None}, ("x", "7")),
        ({"A": "x", "B": "y", "C": float("nan"), "D": float("nan")}, ("x", "y")),
        ({letter: letter.lower() for letter in "ABCDEFGH"}, tuple("abcdefgh")),
        ({"B": "x"}, ()),
        ({"A": "", "B": ""}, ()),
        ({"A": "x", "B": "", "C": "y"}, ("x", "", "y")),  # a sample of it is refused
    ],
)
def test_a_column_for_each_letter(row: dict[str, Any], options: tuple[str, ...]) -> None:
    assert read_lettered(row) == options


OPTION_TEXT = st.text(alphabet="xyz 12,", min_size=1, max_size=8).filter(lambda text: text.strip(" ,"))


@given(
    question=st.sampled_from(["What?", "Is it A. or B?", "See (A), (B): which"]),
    options=st.lists(OPTION_TEXT, min_size=3, max_size=26),
    style=st.sampled_from(["({}) ", "{}. ", "{}: ", "{}) ", "（{}）"]),
)
def test_lines_of_options_come_back(question: str, options: list[str], style: str) -> None:
    wanted = tuple(option.strip().rstrip(" ,") for option in options)
    lines = [
        style.format(letter) + option for letter, option in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", wanted, strict=False)
    ]
    assert split_options("\n".join([question, *lines])) == (question, wanted)


@given(text=st.text(max_size=80) | st.text(alphabet="ABC()（）:. ,\n", max_size=80))
def test_no_text_raises(text: str) -> None:
    question, options = split_options(text)
    assert len(options) != 1 and len(options) <= 26
    assert options or question == text.strip()


@pytest.mark.parametrize("unit", ["(A)", "A. ", "A. B. ", "(A)(B)", "A: B: C: ", "A.\n", "\n", "Options: ", "options "])
def test_time_is_bounded(unit: str) -> None:
    started = time.process_time()
    split_options(unit * (MAX_QUESTION_CHARS // len(unit)))
    assert time.process_time() - started < 1.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("gold") / "a.png"
    Image.new("RGB", (100, 60)).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("box", "repaired"),
    [
        ([10, 20, 30, 40], (10, 20, 30, 40)),
        ([30, 40, 10, 20], (10, 20, 30, 40)),  # both corners
        ([30, 20, 10, 40], (10, 20, 30, 40)),  # the other two
        ([-5, -5, 200, 90], (0, 0, 100, 60)),
        ([90.5, 10, 101, 20], (90.5, 10, 100, 20)),
        ((1, 2, 3, 4), (1, 2, 3, 4)),
    ],
)
def test_corners_are_sorted_and_edges_clipped(image: str, box: Any, repaired: tuple[float, ...]) -> None:
    assert [found.xyxy for found in repair_boxes([box], image)] == [repaired]


def test_width_and_height_instead_of_a_corner(image: str) -> None:
    (box,) = repair_boxes([[90, 10, 20, 30]], image, ["glove"], is_xywh=True)
    assert (box.xyxy, box.label) == ((90, 10, 100, 40), "glove")


def test_names_that_do_not_fit_are_left_out(image: str) -> None:
    assert [box.label for box in repair_boxes([[0, 0, 1, 1]] * 2, image, ["one"])] == ["", ""]


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [5, 5, 9, 5], [100, 0, 120, 10], [0, -20, 10, 0], [7, 7, 7, 7]])
def test_a_box_of_which_nothing_is_left(image: str, box: list[int]) -> None:
    with pytest.raises(ValueError, match="without area inside the image"):
        repair_boxes([[0, 0, 1, 1], box], image)


@pytest.mark.parametrize(
    "boxes",
    [None, "x", 5, [5], [[1, 2, 3]], [["1"] * 4], [[True, 0, 1, 1]], [[0, 0, 10**400, 1]], [[0, 0, float("nan"), 1]]],
)
def test_what_is_no_list_of_boxes(image: str, boxes: Any) -> None:
    with pytest.raises(ValueError, match="gold box"):
        repair_boxes(boxes, image)


def test_the_image_is_seen_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (100, 60)).save(tmp_path / "a.jpg", exif=exif)
    assert repair_boxes([[0, 0, 500, 500]], str(tmp_path / "a.jpg"))[0].xyxy == (0, 0, 60, 100)


def test_an_image_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(ImageError):
        repair_boxes([[0, 0, 1, 1]], str(tmp_path / "a.png"))


@given(box=st.lists(st.integers(-300, 300) | st.floats(), min_size=4, max_size=4), is_xywh=st.booleans())
def test_a_repaired_box_is_inside(image: str, box: list[float], is_xywh: bool) -> None:
    try:
        (found,) = repair_boxes([box], image, is_xywh=is_xywh)
    except ValueError:
        return
    assert 0 <= found.x_min < found.x_max <= 100 and 0 <= found.y_min < found.y_max <= 60
