"""Write tables as Markdown, CSV, LaTeX and HTML. All texts are escaped, because model names are untrusted."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence
from typing import Final

from hart_studio.evaluation.html_page import write_table
from hart_studio.evaluation.tables.table import Cell, Number, Table, TableRow

NONE: Final = "–"
"""Written for an empty cell."""

PUBLISHED: Final = "published"
"""Marks a published row."""

_MARKDOWN: Final = re.compile(r"[\\`*\[\]<>&~]|(?<!\w)_|_(?!\w)")
_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "†": r"\textdagger{}",
    "…": r"\dots{}",
    "“": "``",
    "”": "''",
    ">": r"\textgreater{}",
    "<": r"\textless{}",
    "|": r"\textbar{}",
    '"': "''",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
_FORMULA: Final = ("=", "+", "-", "@")
"""Characters that start a formula in spreadsheets; tabs and line ends become spaces."""


def format_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; only the bar in cells is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def to_markdown(table: Table) -> str:
    """Write title, caption and table; published rows are in italics and marked."""
    rows = []
    for row in table.rows:
        shown = [escape_markdown(cell) if isinstance(cell, str) else show_cell(cell) for cell in row.cells]
        if row.kind == "published":
            shown = [f"*{shown[0]} ({PUBLISHED})*", *shown[1:]]
        rows.append(shown)
    heads = [escape_markdown(column) for column in table.columns]
    return f"## {escape_markdown(table.title)}\n\n{escape_markdown(table.caption)}\n\n{format_rows(heads, rows)}\n"


def to_csv(table: Table) -> str:
    """Write one line per row; errors and intervals have their own columns, so each cell is one number or text."""
    parts = [_parts_of(table.rows, index) for index in range(len(table.columns))]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads = [f"{column}{part}" for column, found in zip(table.columns, parts, strict=True) for part in found]
    writer.writerow(["figures", *(_neutral(head) for head in heads)])
    for row in table.rows:
        cells = [value for cell, found in zip(row.cells, parts, strict=True) for value in _split(cell, found)]
        writer.writerow([row.kind, *cells])
    return stream.getvalue()


def to_latex(table: Table) -> str:
    """Write a ``table`` environment of text width, for the packages ``booktabs`` and ``graphicx``.

    Published rows are in italics, below a rule.
    """
    lines = [" & ".join(_latex(column) for column in table.columns) + r" \\", r"\midrule"]
    last = None
    for row in table.rows:
        if last is not None and row.kind != last:
            lines.append(r"\midrule")
        last = row.kind
        cells = [_latex(show_cell(cell)) for cell in row.cells]
        if row.kind == "published":
            cells = [rf"\textit{{{cell}}}" for cell in cells]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.title)}. {_latex(table.caption)} Italics: {PUBLISHED}.}}",
            rf"\label{{tab:{re.sub('[^a-z0-9]+', '-', table.name.lower())}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def to_html(table: Table) -> str:
    """Write a ``table`` element in a container that scrolls horizontally; the first column is fixed."""
    rows = [[show_cell(cell) for cell in row.cells] for row in table.rows]
    kinds = [row.kind for row in table.rows]
    return write_table(table.columns, rows, caption=table.caption, kinds=kinds, has_row_heads=True)


def escape_markdown(text: str) -> str:
    """Escape a text for Markdown, on one line."""
    return _MARKDOWN.sub(lambda found: _escape_sign(found[0]), " ".join(text.split()))


def _escape_sign(sign: str) -> str:
    return html.escape(sign) if sign in "<>&" else f"\\{sign}"


def show_cell(cell: Cell) -> str:
    """Format a cell as text."""
    if cell is None:
        return NONE
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _neutral(text: str) -> str:
    line = " ".join(text.split())
    return f"'{line}" if line.startswith(_FORMULA) else line


def _parts_of(rows: Sequence[TableRow], index: int) -> list[str]:
    """Suffixes of the column heads of a column's parts: value, error and interval, where any row has them."""
    numbers = [cell for row in rows if isinstance(cell := row.cells[index], Number)]
    parts = [""]
    if any(number.error is not None for number in numbers):
        parts.append(": standard error")
    if any(number.interval is not None for number in numbers):
        parts += [": lower end", ": upper end"]
    return parts


def _split(cell: Cell, parts: Sequence[str]) -> list[str]:
    if not isinstance(cell, Number):
        # Only a text could be taken for a formula, not a count.
        shown = "" if cell is None else str(cell) if isinstance(cell, int) else _neutral(cell)
        return [shown, *[""] * (len(parts) - 1)]
    low, high = cell.interval or (None, None)
    values = {"": cell.value, ": standard error": cell.error, ": lower end": low, ": upper end": high}
    return ["" if (value := values[part]) is None else f"{value:.6g}" for part in parts]
