"""Find the documents of the repository, and their code blocks, links, code words, anchors and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(\s*<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_TAG = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=\"([^\"]+)\"")
_WORDS = re.compile(r"<[A-Za-z][^<>|]*>")
"""A placeholder, such as ``<run id>``."""
_REDIRECTION = re.compile(r"(?<!\S)[0-2]?>{1,2}\s*&?[^\s;&|]+")
_RUNS_MODULE = re.compile(r"(?<![\w-])(?:python3?\s+(?:-m\s+[\w.]+|app\.py)|-m\s+(?:hart_studio|benchmarks)[\w.]*)")
_SHELL = ("", "bash", "sh", "console", "text", "makefile")


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


@dataclass(frozen=True)
class Command:
    """A command of a document that starts ``app.py`` or a Python module.

    Attributes:
        place: Document and line, for error messages.
        module: The module; empty for ``app.py``.
        arguments: Command-line arguments.
    """

    place: str
    module: str
    arguments: tuple[str, ...]


def documents() -> list[Path]:
    """All Markdown documents, sorted by path."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "assets").glob("*/README.md")]
    return sorted(found)


def name_of(path: Path) -> str:
    """Path of a document relative to the repository, for error messages."""
    return path.relative_to(ROOT).as_posix()


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


def links(path: Path) -> list[str]:
    """Targets of links and images outside code."""
    text = _CODE.sub(" ", "\n".join(prose(path)))
    return [*_LINK.findall(text), *_TAG.findall(text)]


def code_words(path: Path) -> list[str]:
    """Inline code of the text."""
    return [" ".join(found[1].split()) for found in _CODE.findall("\n".join(prose(path)))]


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a document, as GitHub generates them."""
    found: set[str] = set()
    for line in prose(path):
        heading = _HEADING.match(line)
        if heading is None:
            continue
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[2])
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        number, unique = 0, slug
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return found


def commands(path: Path) -> Iterator[Command]:
    """Commands in the blocks of a document that start ``app.py`` or a module."""
    for block in blocks(path):
        if block.language not in _SHELL:
            continue
        for line, text in _joined(block.code, block.line + 1):
            started = _RUNS_MODULE.search(text)
            if started and "  " not in text[: started.start()].strip() + text[started.start() - 2 : started.start()]:
                yield from _read(f"{name_of(path)}:{line}", text)


def _joined(code: str, first: int) -> Iterator[tuple[int, str]]:
    """Join continued lines; yield each with the number of its first line."""
    begun, text = first, ""
    for number, line in enumerate(code.splitlines(), start=first):
        begun = begun if text else number
        line = line.lstrip() if text else line
        if line.endswith("\\"):
            text += line[:-1].rstrip() + " "
            continue
        yield begun, text + line
        text = ""
    if text:
        yield begun, text


def _read(place: str, text: str) -> Iterator[Command]:
    lexer = shlex.shlex(_REDIRECTION.sub("", _WORDS.sub("X", text)), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    part: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set("();<>|&"):
            yield from _find(place, part)
            part = []
        else:
            part.append(word)


def _find(place: str, words: list[str]) -> Iterator[Command]:
    if "app.py" in words:
        yield Command(place, "", tuple(words[words.index("app.py") + 1 :]))
    for index, word in enumerate(words[:-1]):
        if word == "-m" and (index == 0 or words[index - 1] != "pytest"):
            yield Command(place, words[index + 1], tuple(words[index + 2 :]))
