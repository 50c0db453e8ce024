from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.evaluation.statistics import Estimate
from hart_studio.evaluation.tables.table import Number, Table, TableRow, percent, percent_between
from hart_studio.evaluation.tables.writers import escape_markdown, format_rows, to_csv, to_html, to_latex, to_markdown

HOSTILE = "=1+1 <script>|*a*_b_ & 50 % {x} \\end{table}"


def table(name: str = "tiny") -> Table:
    rows = (
        TableRow("measured", (name, 1234, percent(0.5, 0.125), percent_between(Estimate(0.1, -0.05, 0.2), True))),
        TableRow("published", ("the paper's", None, Number(42.3), None)),
    )
    return Table("table_9", "Table 9", "What it is.", ("model", "n", "right, %", "gain"), rows)


def test_figures_as_people_read_them() -> None:
    text = to_markdown(table())
    assert "| tiny | 1,234 | 50.0 ± 12.5 | +10.0 [-5.0, 20.0] |" in text
    assert "| *the paper's (published)* | – | 42.3 | – |" in text
    assert text.startswith("## Table 9\n\nWhat it is.\n\n| model | n |")
    assert format_rows(["a|b"], [["c"]]) == "| a\\|b |\n| --- |\n| c |"


def test_csv_has_one_number_in_a_cell() -> None:
    head, first, second = csv.reader(io.StringIO(to_csv(table())))
    assert head == [
        *("figures", "model", "n", "right, %", "right, %: standard error"),
        *("gain", "gain: lower end", "gain: upper end"),
    ]
    assert first == ["measured", "tiny", "1234", "50", "12.5", "10", "-5", "20"]
    assert second == ["published", "the paper's", "", "42.3", "", "", "", ""]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r\n-"])
def test_no_text_is_a_formula(start: str) -> None:
    rows = list(csv.reader(io.StringIO(to_csv(table(f"{start}cmd")))))
    assert rows[1][1] == f"'{start.strip()}cmd"
    assert len(rows) == 3


def test_no_text_is_markup() -> None:
    page = to_html(table(HOSTILE))
    assert "<script>" not in page
    ET.fromstring(page.replace("\n<div", "<div").partition("</p>")[2])  # noqa: S314 - made a line above
    assert '<th scope="col">model</th>' in page and '<th scope="row">' in page
    assert '<tr class="published"><th scope="row">the paper&#x27;s (published)</th>' in page
    latex = to_latex(table(HOSTILE))
    assert latex.count(r"\end{table}") == 1
    assert r"\textless{}script\textgreater{}\textbar{}*a*\_b\_ \& 50 \% \{x\} \textbackslash{}end\{table\}" in latex
    assert r"50.0 $\pm$ 12.5 & +10.0 [-5.0, 20.0] \\" in latex
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}"), "every group is closed"
    assert r"\textit{42.3}" in latex and r"\toprule" in latex
    markdown = to_markdown(table(HOSTILE))
    assert "<script>" not in markdown
    assert "\\|\\*a\\*\\_b\\_" in markdown


def test_words_with_underscores_stay_readable() -> None:
    assert escape_markdown("crops_only") == "crops_only"
    assert escape_markdown("_a_\nb") == "\\_a\\_ b"


@given(st.text())
def test_any_text_stays_in_its_cell(text: str) -> None:
    markdown = to_markdown(table(text)).splitlines()
    assert len(markdown) == 8
    latex = to_latex(table(text))
    body = latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")]
    assert body.count(r"\\") == 2


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 cells in every row of t, got 1"):
        Table("t", "", "", ("a", "b"), (TableRow("measured", ("x",)),))
