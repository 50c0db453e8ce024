"""Zip archives: files are unpacked below one folder under their names; zip bombs and path traversal are rejected."""

from __future__ import annotations

import errno
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hart_studio.errors import DataError
from hart_studio.labeling import zip_archives
from hart_studio.labeling.zip_archives import UnpackedArchive, ZipArchive
from tests.examples import example_count
from tests.images import encoded

PNG = encoded(Image.new("RGB", (8, 6)), "PNG")


def make_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def unpack(path: Path, cache: Path) -> UnpackedArchive:
    with ZipArchive(path) as archive:
        return archive.unpack(cache)


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_names_and_folders_stay(tmp_path: Path) -> None:
    archive = make_zip(
        tmp_path / "My signs.zip", {"street/Bild 1.png": PNG, "b.PNG": PNG, "q.csv": b"image,question\n"}
    )
    folder, invalid_rows, _ = unpack(archive, tmp_path / "cache")
    assert folder.name == "My_signs"
    assert files_below(folder) == ["b.PNG", "q.csv", "street/Bild 1.png"]
    assert invalid_rows == ()
    assert (folder / "street/Bild 1.png").read_bytes() == PNG


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    climbers = ["../../evil.png", "/etc/x.png", "a/../../../y.png", "..\\evil.png", "C:\\..\\..\\..\\z.png"]
    archive = make_zip(tmp_path / "z.zip", {**dict.fromkeys(climbers, PNG), "a/b.png": PNG})
    before = set(files_below(tmp_path))
    folder, invalid_rows, _ = unpack(archive, tmp_path / "cache" / "deep")
    assert files_below(folder) == ["a/b.png"]
    assert {bad.row for bad in invalid_rows} == {name.replace("\\", "/") for name in climbers}
    new = set(files_below(tmp_path)) - before
    assert new == {(folder / "a/b.png").relative_to(tmp_path).as_posix()}


@settings(max_examples=example_count(cost=6))
@given(names=st.lists(st.text(st.sampled_from("ab./\\: ~é"), min_size=1, max_size=12), min_size=1, max_size=4))
def test_any_name(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "work").mkdir()
    make_zip(folder / "z.zip", {f"{name}x.png": PNG for name in names})
    unpacked, invalid_rows, _ = unpack(folder / "z.zip", folder / "work" / "cache")
    written = [path for path in folder.rglob("*") if path.is_file() and path.name != "z.zip"]
    assert all(unpacked in path.parents and not path.is_symlink() for path in written)
    with zipfile.ZipFile(folder / "z.zip") as archive:
        assert len(written) + len(invalid_rows) == len(archive.namelist()), "no image is lost without a word"


def test_a_bomb_is_an_invalid_row(tmp_path: Path) -> None:
    entries = {"bomb.png": PNG + b"\0" * 50_000_000, "good.png": PNG, "no.png": b"text", "bomb.csv": b"\n" * 50_000_000}
    folder, invalid_rows, _ = unpack(make_zip(tmp_path / "z.zip", entries), tmp_path / "cache")
    assert files_below(folder) == ["good.png"]
    assert sorted(bad.row for bad in invalid_rows) == ["bomb.csv", "bomb.png", "no.png"]
    assert sum("more than an image or table of that packed size" in bad.reason for bad in invalid_rows) == 2


def test_too_much_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "z.zip", {f"{number}.png": PNG for number in range(4)})
    monkeypatch.setattr(zip_archives, "MAX_FILES", 3)
    with pytest.raises(DataError, match="Split the archive"):
        unpack(archive, tmp_path / "cache")
    monkeypatch.setattr(zip_archives, "MAX_FILES", 4)
    monkeypatch.setattr(zip_archives, "MAX_BYTES", 4 * len(PNG) - 1)
    with pytest.raises(DataError, match="Split the archive"):
        unpack(archive, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_what_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "z.zip").write_bytes(b"PK no")
    for path in (tmp_path / "z.zip", tmp_path / "gone.zip"):
        with pytest.raises(DataError, match=r"valid zip|Cannot read the zip"):
            ZipArchive(path)


def test_a_damaged_entry_is_an_invalid_row(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "z.zip", {"a.png": PNG, "b.png": PNG[:-1] + b"x"})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        data[archive.getinfo("a.png").header_offset + 40] ^= 0xFF
    path.write_bytes(bytes(data))
    folder, invalid_rows, _ = unpack(path, tmp_path / "cache")
    assert files_below(folder) == ["b.png"]
    assert [bad.row for bad in invalid_rows] == ["a.png"]


def test_system_files_are_no_images(tmp_path: Path) -> None:
    entries = {
        "a.png": PNG,
        "__MACOSX/._a.png": b"attributes",
        "._b.png": b"attributes",
        ".DS_Store": b"",
        "x.exe": b"",
    }
    folder, invalid_rows, _ = unpack(make_zip(tmp_path / "z.zip", entries), tmp_path / "cache")
    assert (files_below(folder), invalid_rows) == (["a.png"], ())


def test_the_same_zip_again_writes_nothing(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "z.zip", {"a.png": PNG, "b.png": PNG + b"1"})
    first = unpack(archive, tmp_path / "cache").folder
    (first / "b.png").unlink()  # a program that ended meanwhile
    times = (first / "a.png").stat().st_mtime_ns
    reported: list[tuple[int, int]] = []
    with ZipArchive(archive) as opened:
        assert opened.unpack(tmp_path / "cache", lambda done, total: reported.append((done, total))).folder == first
    assert files_below(first) == ["a.png", "b.png"]
    assert (first / "a.png").stat().st_mtime_ns == times
    assert reported == [(1, 2), (2, 2)]


def test_the_common_folder(tmp_path: Path) -> None:
    cases = {
        "": {"a.png": b"", "set/b.png": b""},
        "set/": {"set/a.png": b""},
        "a/b/": {"a/b/c.png": b"", "a/b/d/e.png": b""},
    }
    for number, (root, entries) in enumerate(cases.items()):
        with ZipArchive(make_zip(tmp_path / f"{number}.zip", entries)) as archive:
            assert archive.root == root
    odd = {"/a/b.png": "", "../b.png": "", "a/../b.png": "", "./b.png": "", "a//b.png": "a/", "./a/./b.png": "a/"}
    for name, root in odd.items():
        with ZipArchive(make_zip(tmp_path / "odd.zip", {name: PNG})) as archive:
            assert archive.root == root, name


def test_two_names_of_one_file_are_reported(tmp_path: Path) -> None:
    entries = {"x.png": PNG, "./x.png": PNG + b"1", "a/y.png": PNG, "a//y.png": PNG + b"1"}
    folder, invalid_rows, _ = unpack(make_zip(tmp_path / "z.zip", entries), tmp_path / "cache")
    assert files_below(folder) == ["a/y.png", "x.png"]
    assert (folder / "x.png").read_bytes() == PNG
    assert [bad.row for bad in invalid_rows] == ["x.png", "a/y.png"]


@pytest.mark.parametrize("deep", ["a/" * 33, "a/" * 900, "a/" * 20_000, "a" * 1000], ids=["33", "900", "20000", "long"])
def test_folders_without_end_are_not_made(tmp_path: Path, deep: str) -> None:
    archive = make_zip(tmp_path / "z.zip", {f"{deep}b.png": PNG, "a/" * 32 + "c.png": PNG})
    folder, invalid_rows, _ = unpack(archive, tmp_path / "cache")
    assert files_below(folder) == ["a/" * 32 + "c.png"]
    assert len(invalid_rows) == 1 and len(invalid_rows[0].row) <= 1000
    assert "in more than 32 folders" in invalid_rows[0].reason


def test_a_full_disk_leaves_nothing_of_a_new_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "z.zip", {"a.png": PNG, "b.png": PNG + b"1"})
    written: list[Path] = []

    def write(path: Path, data: bytes) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        path.write_bytes(data)

    monkeypatch.setattr(zip_archives, "write_atomically", write)
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, tmp_path / "cache")
    assert files_below(tmp_path / "cache") == []


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many entries of the central directory may refer to the same packed bytes."""
    monkeypatch.setattr(zip_archives, "MAX_UNCHECKED_BYTES", 10_000)
    monkeypatch.setattr(zip_archives, "MAX_RATIO", 2)
    path = make_zip(tmp_path / "a.zip", {f"{number}.csv": b"a,b\n" * 3000 for number in range(5)})
    with pytest.raises(DataError, match="more than 2 times its size"):
        ZipArchive(path)


def test_a_table_of_contents_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "a.zip", {f"{number}.csv": b"a" for number in range(100)})
    monkeypatch.setattr(zip_archives, "MAX_CONTENTS_BYTES", 1000)
    with pytest.raises(DataError, match="central directory"):
        ZipArchive(path)


def test_an_offset_in_the_form_of_an_end_record_does_not_hide_the_size_of_the_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``zipfile`` finds the record at the end of the file, not the bytes in its offset."""
    monkeypatch.setattr(zip_archives, "MAX_CONTENTS_BYTES", 70_000)
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, *[0] * 8, 1, *[0] * 6) + b"a"
    contents = entry * 3000
    forged = int.from_bytes(b"PK\5\6", "little")
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3000, 3000, len(contents), forged, 0)
    (tmp_path / "a.zip").write_bytes(contents + end)
    with pytest.raises(DataError, match="central directory larger"):
        ZipArchive(tmp_path / "a.zip")
