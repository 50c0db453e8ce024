"""Installed packages match the requirements, have a license, and no known vulnerability."""

import json
from datetime import date
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests import audit_dependencies as audited


def test_nothing_is_wrong_with_what_is_installed() -> None:
    installed = audited.list_installed(audited.read_requirements())
    assert {"gradio", "torch", "starlette", "pillow", "fastapi", "h11"} <= set(installed), "with all that they need"
    assert audited.audit() == []


def test_each_kind_of_problem_is_found(tmp_path: Path) -> None:
    pillow = {"pillow": distribution("pillow")}
    assert audited.find_unbounded([Requirement("pillow>=12"), Requirement("a"), Requirement("b>=1,<2")]) == [
        "pillow",
        "a",
    ]
    assert list(audited.find_outside([Requirement("pillow<2")], pillow))
    known = {"package": "Pillow", "below": "9999", "id": "X-1", "about": "made up"}
    (tmp_path / "known.json").write_text(json.dumps({"advisories": [known]}))
    assert "X-1" in next(audited.find_vulnerable(pillow, tmp_path / "known.json"))
    evil = tmp_path / "evil-1.dist-info"
    evil.mkdir()
    (evil / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (evil / "RECORD").write_text("evil.pth,,\n")
    (tmp_path / "evil.pth").write_text("import os; os.system('true')\n")
    found = Distribution.at(evil)
    assert list(audited.find_startup_code({"evil": found})) == ["evil: evil.pth"]
    assert audited.find_licence(found) == ""


@pytest.mark.parametrize(
    "name",
    [
        "requirements.txt",
        "requirements-dev.txt",
        "requirements-mcp.txt",
        "requirements-quantization.txt",
        "requirements-readers.txt",
    ],
)
def test_every_range_has_an_end(name: str) -> None:
    path = audited.ROOT / name
    if path.exists():
        assert audited.find_unbounded(audited.read_requirements(path)) == []


def test_the_list_says_when_it_was_made_and_how_to_renew_it() -> None:
    known = json.loads(audited.KNOWN.read_text("utf-8"))
    assert date.fromisoformat(known["as_of"]) and audited.AUDIT_VARIABLE in known["refresh"]
    assert all(set(each) == {"package", "below", "id", "about"} for each in known["advisories"])
