"""CSV and TSV from people and spreadsheets: an invalid row does not affect other rows, and is counted."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.data import separated_rows
from hart_studio.data.separated_rows import read_separated
from hart_studio.errors import DataError

HEADER = "image,question,choices,answer"


def rows_of(path: Path, content: bytes | str) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = list(read_separated(path, ",;"))
    good = [row for _, row in found if isinstance(row, dict)]
    return good, [(place, str(row)) for place, row in found if isinstance(row, ValueError)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def make_rows(count: int) -> list[str]:
    return [HEADER, *(f"x.jpg,Question {number}?,,answer {number}" for number in range(count))]


def test_a_quotation_mark_that_is_never_closed_costs_one_row(table: Path) -> None:
    lines = make_rows(10)
    lines[3] = 'x.jpg,"Question 2?,,answer 2'
    good, bad = rows_of(table, "\n".join(lines) + "\n")
    assert [row["answer"] for row in good] == [f"answer {number}" for number in range(10) if number != 2]
    assert bad == [("line 4", "unclosed quotation mark")]


@pytest.mark.parametrize("later", ['x.jpg,"Question 7?",,answer 7', 'x.jpg,Question 7?",,answer 7'])
def test_another_quotation_mark_further_down_changes_nothing(table: Path, later: str) -> None:
    lines = make_rows(10)
    lines[3], lines[8] = 'x.jpg,"Question 2?,,answer 2', later
    good, bad = rows_of(table, "\n".join(lines) + "\n")
    assert len(good) == 9
    assert [place for place, _ in bad] == ["line 4"]


def test_cells_with_line_breaks_and_quotation_marks_are_whole(table: Path) -> None:
    question = 'He said "here, there"\n\nand:\r\na, b\u2028c'
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(
            [["image", "question", "choices", "answer"], ["x.jpg", question, "", "5"], ["y.jpg", 'a 5" disk', "", ""]]
        )
    good, bad = rows_of(table, table.read_bytes())
    assert [row["question"] for row in good] == [question, 'a 5" disk']
    assert not bad


def test_one_byte_that_is_no_utf_8_costs_its_row_and_no_other(table: Path) -> None:
    text = "\n".join([HEADER, "x.jpg,Où est le café à Zürich?,,café", "x.jpg,どこ?,,東京"]).encode()
    good, bad = rows_of(table, text + b"\nx.jpg,broken \xff byte?,,a\n")
    assert [row["answer"] for row in good] == ["café", "東京"]
    assert bad == [("line 4", "invalid bytes in the encoding of the file; save it as UTF-8")]


def test_the_encoding_is_found_however_late_the_first_accent_comes(table: Path) -> None:
    lines = [HEADER, *(f"x.jpg,{'x' * 2000}?,,a" for _ in range(1200)), "x.jpg,Où est le café?,,café"]
    good, bad = rows_of(table, "\n".join(lines).encode("cp1252"))
    assert (good[-1]["question"], good[-1]["answer"]) == ("Où est le café?", "café")
    assert (len(good), bad) == (1201, [])


def test_a_byte_that_windows_1252_does_not_have_is_counted(table: Path) -> None:
    good, bad = rows_of(table, f"{HEADER}\nx.jpg,é?,,é\n".encode("cp1252") + b"x.jpg,\x81?,,a\n")
    assert [row["answer"] for row in good] == ["é"]
    assert [place for place, _ in bad] == ["line 3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,question,answer,answer\nx.jpg,dup?,right,other\n", "Two columns of 't.csv' are named 'answer'"),
        (f"{HEADER}\nx.jpg,a?,,b\n".encode("utf-16"), "UTF-16"),
        (b'"image,question\nx.jpg,a?\n', "the column names"),
    ],
)
def test_what_cannot_be_read_right_is_refused(table: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows_of(table, content)


def test_columns_without_a_name_may_be_many(table: Path) -> None:
    good, bad = rows_of(table, "image,question,,\nx.jpg,a?,,\n")
    assert (good, bad) == ([{"image": "x.jpg", "question": "a?", "": ""}], [])


def test_lines_that_open_a_cell_again_and_again_take_linear_time(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is open to the end of the file, so each would be read as often as there are lines before it."""
    monkeypatch.setattr(separated_rows, "MAX_LINES_READ_AGAIN", 100_000)
    began = time.process_time()
    with pytest.raises(DataError, match="unclosed quotation marks"):
        rows_of(table, "a,b,c\n" + 'x",",\n' * 50_000)
    assert time.process_time() - began < 5


@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=3, max_size=3), max_size=5
    )
)
def test_what_the_csv_module_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *cells])
    found = [list(row.values()) if isinstance(row, dict) else str(row) for _, row in read_separated(path, ",")]
    # A cell whose inner lines are rows themselves is taken for an accident; any other comes back.
    assert found == cells or "unclosed quotation mark" in found
