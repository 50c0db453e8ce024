"""Template of the reports: one self-contained HTML file, for light and dark themes and all screen widths."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

STYLE: Final = (
    ":root{--paper:#fff;--ink:#1b2230;--quiet:#677285;--rule:#e1e5ea;--shade:#f5f7fa;--accent:#2f5fd0}"
    "@media(prefers-color-scheme:dark){"
    ":root{--paper:#171d28;--ink:#e1e5ea;--quiet:#98a2b1;--rule:#353e4e;--shade:#1f2735;--accent:#8fb0ff}}"
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;padding:0 1rem;color:var(--ink);background:var(--paper)}"
    "h1,h2,h3{line-height:1.25}h2{margin-top:2.5rem}a{color:var(--accent)}.quiet{color:var(--quiet)}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.25rem .9rem .25rem 0;text-align:left}"
    "th{font-weight:600}td{font-variant-numeric:tabular-nums}tr{border-bottom:1px solid var(--rule)}"
    "figure{margin:0 0 1.5rem;max-width:640px}svg{width:100%;height:auto}"
    ".scroll{overflow-x:auto;margin:.5rem 0 1.5rem;border:1px solid var(--rule);border-radius:6px}"
    ".scroll table{margin:0;min-width:100%}.scroll tr:last-child{border-bottom:0}"
    ".scroll th,.scroll td{padding:.3rem .7rem;vertical-align:top}.scroll td{white-space:nowrap}"
    ".scroll thead th{background:var(--shade);min-width:4.5rem;vertical-align:bottom}"
    ".scroll tr>:first-child{position:sticky;left:0;background:var(--paper);min-width:12rem;overflow-wrap:break-word}"
    ".scroll thead tr>:first-child{background:var(--shade)}.scroll tbody th{font-weight:500}"
    ".scroll tr.published>*{color:var(--quiet);font-style:italic}"
    ".caption{max-width:72rem;margin:.25rem 0}"
)
"""Style sheet. Wide tables scroll in a container of class ``scroll``."""


GENERATOR: Final = '<meta name="generator" content="HART Studio">'
"""Element of every page; identifies an earlier report."""


def write_page(title: str, body: Iterable[str], width_px: int = 1000, style: str = "") -> str:
    """Write a page as an HTML document.

    Args:
        title: Window title; any text.
        body: HTML with escaped texts.
        width_px: Maximum width of the page.
        style: Additional style rules.
    """
    inside = "\n".join(body)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">{GENERATOR}<title>{html.escape(title)}</title>'
        f"<style>{STYLE}body{{max-width:{width_px}px}}{style}</style></head><body>\n{inside}\n</body></html>\n"
    )


def write_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str = "",
    kinds: Sequence[str] = (),
    has_row_heads: bool = False,
) -> str:
    """Write a table of texts as HTML.

    Args:
        heads: Column heads.
        rows: Cells; texts are escaped here.
        caption: Caption above the table; empty = none.
        kinds: Class of each row; rows of class ``published`` are marked.
        has_row_heads: Whether the first cell is a row head. Such tables scroll in a container.
    """
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    lines = []
    for index, row in enumerate(rows):
        kind = kinds[index] if kinds else ""
        cells = [f"<td>{html.escape(cell)}</td>" for cell in row]
        if has_row_heads and row:
            text = " (published)" if kind == "published" else ""
            cells[0] = f'<th scope="row">{html.escape(row[0])}{text}</th>'
        lines.append((f'<tr class="{html.escape(kind)}">' if kind else "<tr>") + "".join(cells) + "</tr>")
    body = "\n".join(lines)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    text = f'<p class="caption quiet">{html.escape(caption)}</p>\n' if caption else ""
    return f'{text}<div class="scroll" tabindex="0">{table}</div>' if has_row_heads else f"{text}{table}"
