"""The fenced code blocks of a Markdown document."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: First word after the fence, such as ``bash``; empty if there is none.
        code: The lines between the fences; each ends with a line break.
        line: Line number of the opening fence, from 1.
        tags: Further words after the language, such as ``no-run``. Markdown renderers do not show them.
    """

    language: str
    code: str
    line: int
    tags: tuple[str, ...] = ()


def blocks(path: Path) -> list[Block]:
    """List the blocks of a document in order.

    Raises:
        ValueError: If a fence is not closed; the rest of the document would be code.
    """
    found: list[Block] = []
    opening, start, info, lines = "", 0, "", list[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if not opening:
            if fence is not None:
                opening, start, info, lines = fence["fence"], number, fence["info"], []
        elif fence is not None and fence["fence"].startswith(opening) and not fence["info"].strip():
            language, *tags = info.split() or [""]
            found.append(Block(language, "".join(f"{each}\n" for each in lines), start, tuple(tags)))
            opening = ""
        else:
            lines.append(line)
    if opening:
        raise ValueError(f"Fence in line {start} of {path} is not closed. Close it.")
    return found


def prose(path: Path) -> list[str]:
    """Lines of a document with its blocks blanked, so that line numbers stay the same."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for block in blocks(path):
        for number in range(block.line - 1, block.line + block.code.count("\n") + 1):
            lines[number] = ""
    return lines
