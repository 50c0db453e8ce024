from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.errors import DataError
from hart_studio.labeling import picture_sets
from hart_studio.labeling.picture_sets import load_picture_folder, load_picture_zip
from tests.pictures import encoded

PNG = encoded(Image.new("RGB", (8, 6)), "PNG")


def make_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def test_every_picture_below_a_folder_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "set" / "cats").mkdir(parents=True)
    for name in ("b.png", "cats/tom.PNG"):
        (tmp_path / "set" / name).write_bytes(PNG)
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    loaded = load_picture_folder(tmp_path / "set", "Where is {name} of {folder}?", ("left", "right"))
    assert [(sample.id, sample.question) for sample in loaded.samples] == [
        ("b.png", "Where is b of ?"),
        ("cats/tom.PNG", "Where is tom of cats?"),
    ]
    assert loaded.samples[0].choices == ("left", "right")
    assert loaded.samples[0].answer is None


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "own.png").write_bytes(PNG)
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    assert [sample.id for sample in load_picture_folder(tmp_path / "set", "?").samples] == ["own.png"]


def test_a_template_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    question = load_picture_folder(tmp_path, "{name.__class__} {0} {name!r} {name}").samples[0].question
    assert question == "{name.__class__} {0} {name!r} a"


@pytest.mark.parametrize("folder", ["gone", "empty"])
def test_a_folder_without_pictures(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        load_picture_folder(tmp_path / folder, "?")


def test_nothing_is_unpacked_by_its_name(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "z.zip", {"../../evil.png": PNG, "/etc/x.png": PNG, "a/b.png": PNG + b"1"})
    loaded = load_picture_zip(archive, tmp_path / "cache", "What is {name}?")
    assert [sample.question for sample in loaded.samples] == ["What is evil?", "What is x?", "What is b?"]
    assert {Path(sample.image).parent for sample in loaded.samples} == {tmp_path / "cache"}
    assert not (tmp_path.parent.parent / "evil.png").exists()
    assert len(list((tmp_path / "cache").iterdir())) == 2, "pictures are named by their content"


def test_a_bomb_is_a_bad_row(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "z.zip", {"bomb.png": PNG + b"\0" * 50_000_000, "good.png": PNG, "no.png": b"text"})
    loaded = load_picture_zip(archive, tmp_path / "cache", "?")
    assert [sample.id for sample in loaded.samples] == ["good.png"]
    assert "which no such picture has" in loaded.bad_rows[0].reason
    assert len(loaded.bad_rows) == 2


def test_too_much_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "z.zip", {f"{number}.png": PNG for number in range(4)})
    monkeypatch.setattr(picture_sets, "MOST_FILES", 3)
    with pytest.raises(DataError, match="split the archive"):
        load_picture_zip(archive, tmp_path / "cache", "?")


def test_what_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "z.zip").write_bytes(b"PK no")
    with pytest.raises(DataError, match="expected a zip"):
        load_picture_zip(tmp_path / "z.zip", tmp_path / "cache", "?")


def test_a_damaged_entry_is_a_bad_row(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "z.zip", {"a.png": PNG, "b.png": PNG[:-1] + b"x"})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        data[archive.getinfo("a.png").header_offset + 40] ^= 0xFF
    path.write_bytes(bytes(data))
    loaded = load_picture_zip(path, tmp_path / "cache", "?")
    assert [sample.id for sample in loaded.samples] == ["b.png"]
