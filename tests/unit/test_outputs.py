from __future__ import annotations

import os
from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.outputs import check_output, check_output_folder


def check(path: Path) -> None:
    check_output(path, "a list", lambda head: head.startswith(b"list"))


def test_a_new_path_an_empty_file_and_an_earlier_output(tmp_path: Path) -> None:
    path = tmp_path / "out"
    check(path)
    for content in (b"", b"list of things"):
        path.write_bytes(content)
        check(path)


def test_anything_else_is_refused_and_stays(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "link").symlink_to(other)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("other", "link", "folder", "pipe", "other/below", "x\0"):
        with pytest.raises(InputError, match=r"Cannot write a list to .* Choose another path"):
            check(tmp_path / name)
    with pytest.raises(InputError, match="a pipe or a device"):
        check(Path("/dev/null"))
    assert other.read_text() == "mine"


def test_folders_are_new_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "new/below", "empty"):
        check_output_folder(tmp_path / name, "a dataset")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("full", "full/mine", "full/mine/below", "link", "x\0"):
        with pytest.raises(InputError, match=r"Cannot write a dataset to .*Choose a new or empty folder"):
            check_output_folder(tmp_path / name, "a dataset")
    assert (tmp_path / "full" / "mine").read_text() == "mine"
