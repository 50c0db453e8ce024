from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.labeling.__main__ import BAD_INPUT, main
from hart_studio.labeling.project import Project


def test_a_project_from_its_name_to_the_trash_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, copy = str(tmp_path / "signs"), str(tmp_path / "copy")
    assert main(["create", folder]) == 0
    assert main(["rename", folder, "Street signs"]) == 0
    assert Project(tmp_path / "signs").name == "Street signs"
    assert main(["duplicate", folder, copy, "--name", "Second"]) == 0
    assert main(["duplicate", folder, copy]) == BAD_INPUT
    assert main(["archive", copy]) == 0
    assert Project(tmp_path / "copy").archived_at is not None
    assert main(["archive", copy, "--undo"]) == 0
    assert Project(tmp_path / "copy").archived_at is None
    capsys.readouterr()
    assert main(["delete", copy, "--confirm", "copy"]) == BAD_INPUT
    assert "Type 'Second'" in capsys.readouterr().err
    assert main(["delete", copy, "--confirm", "Second"]) == 0
    entry = capsys.readouterr().out.split()[-1]
    assert main(["trash", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{entry}  Second  7 days left\n"
    assert main(["restore", str(tmp_path), entry]) == 0
    assert Project(tmp_path / "copy").name == "Second"
    assert main(["trash", str(tmp_path)]) == 0
    assert "the trash is empty" in capsys.readouterr().out
    assert main(["restore", str(tmp_path), entry]) == BAD_INPUT


def test_a_trash_without_a_folder_and_names_that_are_not_utf8_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "signs")
    assert main(["create", folder]) == 0
    for words in (
        ["trash", str(tmp_path / "nope")],
        ["rename", folder, "x\udcff"],
        ["duplicate", folder, str(tmp_path / "x\udcff")],
        ["create", str(tmp_path / "other"), "--name", "x\udcff"],
    ):
        capsys.readouterr()
        assert main(words) == BAD_INPUT
        assert capsys.readouterr().err.startswith("error: The" if words[0] != "trash" else "error: There is no folder")
    assert [path.name for path in tmp_path.iterdir()] == ["signs"]
