"""Every name in docs/paper_map.md exists."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"\| `(hart_studio\.[\w.]+)` \| `(tests/[\w/.]+)` \|", (ROOT / "docs" / "paper_map.md").read_text())


def resolve(name: str) -> object:
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def test_the_map_has_rows() -> None:
    assert len(ROWS) >= 8


@pytest.mark.parametrize(("function", "test"), ROWS)
def test_the_named_function_and_test_exist(function: str, test: str) -> None:
    assert callable(resolve(function))
    assert (ROOT / test).is_file()
