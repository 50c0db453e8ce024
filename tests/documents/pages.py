"""The documents of the tree, and what stands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.documents.blocks import blocks, prose

ROOT = Path(__file__).resolve().parents[2]
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")
_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(\s*<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_TAG = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=\"([^\"]+)\"")
_WORDS = re.compile(r"<[A-Za-z][^<>|]*>")
"""Something that a reader fills in, such as ``<run id>``."""
_REDIRECTION = re.compile(r"(?<!\S)[0-2]?>{1,2}\s*&?[^\s;&|]+")
_RUNS_MODULE = re.compile(r"(?<![\w-])(?:python3?\s+(?:-m\s+[\w.]+|app\.py)|-m\s+(?:hart_studio|benchmarks)[\w.]*)")
_SHELL = ("", "bash", "sh", "console", "text", "makefile")


@dataclass(frozen=True)
class Command:
    """A command line of a document that starts a program of ours, or a module.

    Attributes:
        place: Document and line, for messages.
        module: The module; empty for ``app.py``.
        arguments: What it is started with.
    """

    place: str
    module: str
    arguments: tuple[str, ...]


def documents() -> list[Path]:
    """Every Markdown file that is for people, in order of its path."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "assets").glob("*/README.md")]
    return sorted(found)


def name_of(path: Path) -> str:
    """How messages call a document."""
    return path.relative_to(ROOT).as_posix()


def links(path: Path) -> list[str]:
    """Targets of links and images, without those in code."""
    text = _CODE.sub(" ", "\n".join(prose(path)))
    return [*_LINK.findall(text), *_TAG.findall(text)]


def code_words(path: Path) -> list[str]:
    """What stands in backticks within the text."""
    return [" ".join(found[1].split()) for found in _CODE.findall("\n".join(prose(path)))]


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
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
    """The commands of a document's blocks that start ``app.py`` or a module."""
    for block in blocks(path):
        if block.language not in _SHELL:
            continue
        for line, text in _joined(block.code, block.line + 1):
            started = _RUNS_MODULE.search(text)
            if started and "  " not in text[: started.start()].strip() + text[started.start() - 2 : started.start()]:
                yield from _read(f"{name_of(path)}:{line}", text)


def _joined(code: str, first: int) -> Iterator[tuple[int, str]]:
    """Lines with those that they continue in; with the number of the first."""
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
