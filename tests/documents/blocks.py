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
        language: First word behind the fence, such as ``bash``; empty where there is none.
        code: The lines between the fences, with a line break at the end of each.
        line: Number of the opening fence's line, from 1.
        tags: The other words behind the fence, such as ``no-run``. A page does not show them.
    """

    language: str
    code: str
    line: int
    tags: tuple[str, ...] = ()


def blocks(path: Path) -> list[Block]:
    """The blocks of a document in their order.

    Raises:
        ValueError: If a fence is never closed: everything behind it would be code.
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
        raise ValueError(f"expected the fence of line {start} to be closed, {path} ends inside of it; close it")
    return found


def prose(path: Path) -> list[str]:
    """The lines of a document; those of its blocks are empty, so that numbers of lines stay."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for block in blocks(path):
        for number in range(block.line - 1, block.line + block.code.count("\n") + 1):
            lines[number] = ""
    return lines
