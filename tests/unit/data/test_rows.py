import json
from pathlib import Path
from typing import Any

import pytest

from hart_studio.data.rows import (
    InvalidRow,
    LoadedSamples,
    collect_samples,
    get_field,
    resolve_image_path,
    strip_letters,
    to_boxes,
    to_letter,
    to_text,
    to_texts,
)
from hart_studio.errors import DataError, InputError
from hart_studio.records import Box, GoldSample


def sample(name: str, answer: str | None = "A") -> GoldSample:
    return GoldSample(id=name, image="a.png", question="?", choices=("x", "y"), answer=answer, gold_boxes=())


@pytest.mark.parametrize(
    ("choices", "texts"),
    [
        (["(A) red", "(B) blue"], ("red", "blue")),
        (["A. red", "B. blue "], ("red", "blue")),
        (["（A）红", "（B）蓝"], ("红", "蓝")),
        (["A: 1", "B) 2", " [C] 3"], ("1", "2", "3")),
        (["(A) A. Smith", "(B) B. Jones"], ("A. Smith", "B. Jones")),
        (["(A)", "(B) blue"], ("", "blue")),
        (["A. Smith", "J. Jones"], ("A. Smith", "J. Jones")),
        (["(B) blue", "(A) red"], ("(B) blue", "(A) red")),
        (["(A) red", "blue"], ("(A) red", "blue")),
        (["A red one", "B flat"], ("A red one", "B flat")),
        ([], ()),
    ],
)
def test_letters_are_taken_off_when_they_are_letters_of_options(choices: list[str], texts: tuple[str, ...]) -> None:
    assert strip_letters(choices) == texts


@pytest.mark.parametrize("answer", ["B", " B ", "(B)", "B.", "（B）", "[B]"])
def test_letter_of_an_answer(answer: str) -> None:
    assert to_letter(answer, ["x", "y"]) == "B"


@pytest.mark.parametrize("answer", ["C", "", "b", "AB", "the answer is B", "x"])
def test_what_is_no_letter_of_an_option(answer: str) -> None:
    with pytest.raises(ValueError, match="expected the letter of one of 2 options"):
        to_letter(answer, ["x", "y"])


def test_values() -> None:
    assert [to_text(value, "f") for value in ("7", 7, 3.5)] == ["7", "7", "3.5"]
    assert to_texts(["a", 1], "f") == ("a", "1") and to_texts(None, "f") == ()
    assert to_boxes([[0, 1, 2, 3.5]], "f") == (Box.from_xyxy((0, 1, 2, 3.5)),) and to_boxes(None, "f") == ()
    assert get_field({"f": None}, "f") is None


@pytest.mark.parametrize("value", [None, True, ["7"], {"a": 1}, float("nan"), float("inf"), b"7"])
def test_what_is_no_text(value: Any) -> None:
    with pytest.raises(ValueError, match="expected text in 'f'"):
        to_text(value, "f")


@pytest.mark.parametrize("value", ["ab", {"a": 1}, [None]])
def test_what_is_no_list_of_texts(value: Any) -> None:
    with pytest.raises(ValueError, match="'f'"):
        to_texts(value, "f")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 2, 3, 4], "expected a list of boxes in 'f'"),
        ("ab", "expected a list of boxes in 'f'"),
        ([[1, 2, 3]], "expected four numbers for each box in 'f'"),
        ([[2, 0, 1, 1]], "expected x_min < x_max"),
        ([["a", 0, 1, 1]], "x_min"),
    ],
)
def test_what_is_no_list_of_boxes(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        to_boxes(value, "f")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="missing field 'image'"):
        get_field({}, "image")
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        get_field([], "image")


def test_an_image_must_exist_below_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.png").touch()
    (tmp_path / "in" / "a.png").touch()
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "out.png")
    assert resolve_image_path(tmp_path / "in", "a.png") == str((tmp_path / "in" / "a.png").resolve())
    for name in ("b.png", "x" * 5000):
        with pytest.raises(ValueError, match="image not found"):
            resolve_image_path(tmp_path / "in", name)
    for name in ("../out.png", str(tmp_path / "out.png"), "link.png", ""):
        with pytest.raises(InputError, match="Invalid file name"):
            resolve_image_path(tmp_path / "in", name)


def test_invalid_rows_are_counted_and_the_others_kept() -> None:
    rows = [("a", "one"), ("b", "bad"), ("c", "one"), ("d", "none"), ("e", "two"), ("f", "bad")]

    def read(row: str) -> GoldSample:
        if row == "bad":
            raise InputError("no good\nat all")
        return sample(row, answer=None if row == "none" else "A")

    loaded = collect_samples("here", rows, read, needs_answer=True)
    assert [each.id for each in loaded.samples] == ["one", "two"]
    assert loaded.invalid_rows == (
        InvalidRow("b", "no good"),
        InvalidRow("c", "duplicate id"),
        InvalidRow("d", "no answer"),
        InvalidRow("f", "no good"),
    )
    assert loaded.reasons == {"no good": 2, "duplicate id": 1, "no answer": 1}
    assert [each.id for each in collect_samples("here", rows, read, needs_answer=False).samples] == [
        "one",
        "none",
        "two",
    ]


def test_reasons_are_one_short_line() -> None:
    def read(row: str) -> GoldSample:
        if row == "long":
            raise ValueError("x" * 10_000)
        if row == "deep":
            json.loads("[" * 100_000)
        return GoldSample(id=row, image="a", question=" ", answer="yes", gold_boxes=())

    with pytest.raises(DataError):
        collect_samples("s", [("1", "q")], read, needs_answer=True)
    rows = [(row, row) for row in ("long", "deep", "q")]
    good = [("good", "good")]
    loaded = collect_samples(
        "s", good + rows, lambda row: sample(row) if row == "good" else read(row), needs_answer=True
    )
    reasons = [bad.reason for bad in loaded.invalid_rows]
    assert reasons[0] == "x" * 300 + "..."
    assert "recursion" in reasons[1]
    assert reasons[2] == "question: expected a question, got empty text"


def test_no_good_row_is_an_error_that_says_why() -> None:
    def refuse(row: int) -> GoldSample:
        raise ValueError("even" if row % 2 == 0 else "odd")

    rows = [(f"row {index}", index) for index in range(5)]
    with pytest.raises(DataError, match=r"No valid rows in here: 3 rows: even; 2 rows: odd. Check"):
        collect_samples("here", rows, refuse, needs_answer=True)
    with pytest.raises(DataError, match=r"No valid rows in .*: no rows"):
        collect_samples("here", [], refuse, needs_answer=True)


def test_reasons_that_are_not_shown_are_counted() -> None:
    invalid_rows = tuple(InvalidRow(f"row {number}", f"reason {number % 7}") for number in range(8))
    lines = LoadedSamples("here", (), invalid_rows).describe_reasons(5)
    assert lines[0] == "2 invalid rows of here are skipped: reason 0"
    assert lines[5:] == ["and 2 other reasons"]
    assert LoadedSamples("here", (), invalid_rows[:5]).describe_reasons(5)[-1].endswith("reason 4")


def test_dropped_rows_are_counted_by_reason_and_refused_above_one_percent() -> None:
    samples = tuple(sample(str(number)) for number in range(99))
    broken = InvalidRow("row 7", "no answer")
    assert LoadedSamples("here", samples).describe_dropped() == ""
    LoadedSamples("here", samples).check_dropped("")
    one = LoadedSamples("here", samples, (broken,))
    assert (one.row_count, one.dropped_share) == (100, 0.01)
    one.check_dropped("")
    two = LoadedSamples("here", samples[:98], (broken, InvalidRow("row 8", "duplicate id")))
    assert two.describe_dropped() == "2 of 100 rows of here (2.0 %) are dropped: 1 x no answer; 1 x duplicate id"
    with pytest.raises(DataError, match=r"2 of 100 rows .* Repair the file\. Use another file\."):
        two.check_dropped("Use another file.")
