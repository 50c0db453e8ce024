"""Limits of the Label tab; those of visitors are tested with their sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.ui.api.label_limits import LabelLimits


def test_users_of_their_own_machine_have_no_limits(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1000)
    limits = LabelLimits()
    limits.check_projects(10**6)
    limits.check_storage(tmp_path)
    limits.check_copy(tmp_path, tmp_path)
    limits.check_rollouts(64)
    limits.check_imports()
    with limits.reserve_run():
        pass
    assert limits.check_source(" owner/data ") == "owner/data", "also what is no uploaded file"
    assert limits.check_import(tmp_path, "owner/data", "auto") == "auto"
    with pytest.raises(InputError, match="No source"):
        limits.check_source(" ")


def test_stored_bytes_have_two_limits(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "a").write_bytes(b"x" * 600)
    table = tmp_path.parent / "t.csv"
    table.write_bytes(b"x" * 500)
    size = sum(path.lstat().st_size for path in tmp_path.rglob("*"))
    LabelLimits(max_kept_bytes=size).check_storage(tmp_path)
    with pytest.raises(InputError, match="Storage full"):
        LabelLimits(max_kept_bytes=size - 1).check_storage(tmp_path)
    LabelLimits(max_bytes=size + 500).check_import(tmp_path, str(table), "table")
    with pytest.raises(InputError, match="Import less"):
        LabelLimits(max_bytes=size + 499).check_import(tmp_path, str(table), "table")
    LabelLimits(max_bytes=size + 600).check_copy(tmp_path, tmp_path / "project")
    with pytest.raises(InputError, match="A copy would exceed"):
        LabelLimits(max_bytes=size + 599).check_copy(tmp_path, tmp_path / "project")
