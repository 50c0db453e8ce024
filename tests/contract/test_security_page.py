"""All tests named in docs/security.md exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(set(re.findall(r"`(tests/[\w/.]+\.py(?:::\w+)?)`", (ROOT / "docs" / "security.md").read_text())))


def test_the_page_names_tests_in_every_line() -> None:
    lines = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")]
    rows = [line for line in lines if not line.startswith(("| Threat", "| ---"))]
    assert len(rows) >= 20
    assert all("`tests/" in line for line in rows)


@pytest.mark.parametrize("name", NAMES)
def test_it_exists(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    assert not function or function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
