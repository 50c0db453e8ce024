from __future__ import annotations

import os
from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.symlinks import open_append_nofollow, reject_external_symlinks, unlink_symlink


def test_a_file_is_made_and_grows(tmp_path: Path) -> None:
    for text in (b"one", b"two"):
        with open_append_nofollow(tmp_path / "log") as file:
            file.write(text)
    with open_append_nofollow(tmp_path / "log", is_buffered=False) as file:
        file.write(b"!")
        file.seek(0)
        assert file.read() == b"onetwo!"


@pytest.mark.parametrize("is_there", [True, False], ids=["file", "dangling"])
def test_a_link_is_not_opened(tmp_path: Path, is_there: bool) -> None:
    target = tmp_path / "target"
    if is_there:
        target.write_text("kept")
    (tmp_path / "log").symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"):
        open_append_nofollow(tmp_path / "log")
    assert target.exists() == is_there and (not is_there or target.read_text() == "kept")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError, match="not a regular file"):
        open_append_nofollow(tmp_path / "log")


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "../missing", "loop", ".", ".."])
@pytest.mark.parametrize("place", ["link", "a/b/c/link"])
def test_links_that_lead_out_are_named(tmp_path: Path, place: str, target: str) -> None:
    root = tmp_path / "run"
    link = root / place
    link.parent.mkdir(parents=True)
    link.symlink_to(link if target == "loop" else root / target)
    with pytest.raises(InputError, match=rf"run contains a symbolic link out of its folder: {place}\. Nothing"):
        reject_external_symlinks(root)


def test_links_that_stay_inside_and_the_folder_itself_are_allowed(tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / "a").mkdir(parents=True)
    (root / "a" / "link").symlink_to(root / "b")
    (root / "relative").symlink_to("a")
    (tmp_path / "other").symlink_to(root)
    reject_external_symlinks(root)
    reject_external_symlinks(tmp_path / "other")


def test_only_what_is_named_is_read(tmp_path: Path) -> None:
    (tmp_path / "run" / "a").mkdir(parents=True)
    (tmp_path / "run" / "a" / "link").symlink_to(tmp_path)
    reject_external_symlinks(tmp_path / "run", ["b", "c"])
    with pytest.raises(InputError, match="a/link"):
        reject_external_symlinks(tmp_path / "run", ["b", "a"])


def test_removing_a_link_keeps_files_and_targets(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link", "missing"):
        unlink_symlink(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
