"""The generated reference pages are up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.runs.overrides import SETTINGS
from tests.documents import reference, sources

pytestmark = pytest.mark.core

PAGES = reference.pages()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_up_to_date(name: str) -> None:
    written = (reference.FOLDER / name).read_text(encoding="utf-8")
    assert written == PAGES[name], f"docs/reference/{name} is outdated; run: make reference"


def test_every_setting_has_a_description() -> None:
    rows = [line for line in PAGES["configuration.md"].splitlines() if line.startswith("| `")]
    names = {row.split("`")[1] for row in rows}
    assert set(SETTINGS) <= names
    assert [row for row in rows if row.endswith("|  |")] == []  # a row without a meaning
    assert "≥ 2, ≤ 256" in next(row for row in rows if "`rollout.group_size`" in row)
    assert "`'auto' \\| 'on' \\| 'off'`" in next(row for row in rows if "`model.lora`" in row)


def test_every_library_entry_has_a_docstring() -> None:
    text = PAGES["api.md"]
    assert "0x" not in text and "``" not in text.replace("```", "")
    for _, modules in reference.MODULES:
        for module in modules:
            found = sources.entries(f"hart_studio.{module}")
            assert found and all(entry.doc for entry in found), module


def test_entries_of_a_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.py").write_text(
        '"""Toys."""\n\nMOST = 3\n"""Toys at once."""\n_LEAST = 1\n\n\n'
        'class Toy(Record):\n    """One.\n\n    Attributes:\n'
        '        size: In metres,\n            up to one.\n    """\n\n    size: int = 1\n    name: str\n'
        '    """Its ``name``."""\n\n'
        '    @property\n    def area(self) -> int:\n        """All."""\n\n    def _hidden(self): ...\n\n\n'
        'def play(toy: Toy, *, times: int = 2) -> bool:\n    """Play.\n\n    Args:\n        toy: Any.\n\n    Raises:\n'
        '        InputError: If it is broken.\n    """\n'
    )
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    most, toy, play = sources.entries("toy")
    assert (most.title, most.signature, most.doc) == ("MOST", "", "Toys at once.")
    assert toy.fields == (("size", "int", "1", "In metres, up to one."), ("name", "str", "", "Its ``name``."))
    assert (toy.doc, [method.signature for method in toy.methods]) == ("One.", ["area: int"])
    assert play.signature == "play(toy: Toy, *, times: int=2) -> bool"
    assert list(sources.to_markdown("As::\n\n    a  b\n\n      c\n\nEnd.")) == [
        "As:", "", "```text", "a  b\n\n  c", "```", "", "End.", "",
    ]  # fmt: skip
    assert list(sources.to_markdown(play.doc)) == [
        "Play.", "", "Args:", "", "- `toy`: Any.", "", "Raises:", "", "- `InputError`: If it is broken.", "",
    ]  # fmt: skip
