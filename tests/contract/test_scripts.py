"""Scripts and styles of the page are formatted (``make check`` runs the formatter itself), and one calls the server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ASSETS = Path(__file__).resolve().parents[2] / "assets"
FILES = sorted([*ASSETS.glob("js/*.js"), *ASSETS.glob("css/*.css")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_line_is_longer_than_120_characters(path: Path) -> None:
    long = [number for number, line in enumerate(path.read_text("utf-8").split("\n"), 1) if len(line) > 120]
    assert not long


def test_one_script_calls_the_server() -> None:
    calls = re.compile(r"\bserver\s*(?:\.\w+\(|\[)|\bfetch\(|\bXMLHttpRequest\b")
    found = {path.name for path in FILES if path.suffix == ".js" and calls.search(path.read_text("utf-8"))}
    assert found == {"server_calls.js"}
