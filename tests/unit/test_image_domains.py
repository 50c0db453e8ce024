"""Image domain of a file: valid and invalid evidence."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.image_domains import (
    NEEDLE,
    NEEDLE_CUSTOM,
    embed_domain,
    read_image_domain,
    read_stream_domain,
    supported_domains,
)
from hart_studio.imaging import SourceImage
from hart_studio.models.catalog import PROJECT_ROOT


def to_jpeg(color: str = "white", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(buffer, "JPEG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_marked_image_has_its_domain_and_its_pixels(tmp_path: Path) -> None:
    plain = to_jpeg()
    path = write(tmp_path / "a.jpg", embed_domain(plain, NEEDLE))
    assert read_image_domain(path) == NEEDLE
    assert SourceImage(path).read_domain() == SourceImage(path.read_bytes()).read_domain() == NEEDLE
    assert read_image_domain(write(tmp_path / "renamed.png", path.read_bytes())) == NEEDLE
    with Image.open(path) as marked, Image.open(io.BytesIO(plain)) as before:
        assert marked.tobytes() == before.tobytes()


def test_the_mark_follows_a_jfif_segment_or_the_start(tmp_path: Path) -> None:
    jfif = to_jpeg()
    assert jfif[2:4] == b"\xff\xe0"
    bare = jfif[:2] + jfif[4 + int.from_bytes(jfif[4:6], "big") :]
    for number, data in enumerate((jfif, bare)):
        assert read_image_domain(write(tmp_path / f"{number}.jpg", embed_domain(data, NEEDLE))) == NEEDLE


def test_a_photograph_is_of_no_domain_whatever_it_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "needle" / "images"
    folder.mkdir(parents=True)
    assert read_image_domain(write(folder / "needle-test-0-00001.jpg", to_jpeg())) == ""
    text = b"HART Studio image; domain=needle; sha256=" + b"0" * 64
    assert read_image_domain(write(folder / "typed.jpg", to_jpeg(comment=text))) == ""


def test_a_comment_that_was_copied_to_another_image_is_no_evidence(tmp_path: Path) -> None:
    marked = embed_domain(to_jpeg("white"), NEEDLE)
    with Image.open(io.BytesIO(marked)) as image:
        comment = image.info["comment"]
        image.save(tmp_path / "again.jpg", quality=60)  # Pillow keeps the comment
    copied = write(tmp_path / "copied.jpg", to_jpeg("navy", comment=comment))
    for path in (copied, tmp_path / "again.jpg"):
        assert b"domain=needle" in path.read_bytes()
        assert read_image_domain(path) == ""


@pytest.mark.parametrize("place", [3, 60, -3])
def test_a_changed_byte_is_another_image(tmp_path: Path, place: int) -> None:
    data = bytearray(embed_domain(to_jpeg(), NEEDLE))
    data[place] ^= 1
    assert read_image_domain(write(tmp_path / "a.jpg", bytes(data))) == ""


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xfe", b"\xff\xd8\xff\xe0\xff\xff", b"text" * 999])
def test_what_is_no_image_is_of_no_domain(tmp_path: Path, data: bytes) -> None:
    assert read_image_domain(write(tmp_path / "a.jpg", data)) == ""
    assert read_stream_domain(io.BytesIO(data)) == ""


def test_what_cannot_be_read_is_of_no_domain_and_nothing_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path, tmp_path / "gone.jpg", tmp_path / "pipe.jpg", "a\0b"):
        assert read_image_domain(path) == ""


def test_only_a_jpeg_and_a_known_domain_can_be_marked() -> None:
    for data, domain in ((b"PNG", NEEDLE), (to_jpeg(), "photographs")):
        with pytest.raises(ValueError, match="expected a JPEG and a domain"):
            embed_domain(data, domain)


def test_the_examples_of_the_ask_page_are_drawn_scenes() -> None:
    examples = sorted((PROJECT_ROOT / "assets" / "examples").glob("*.jpg"))
    assert len(examples) == 6
    found = {path.name: read_image_domain(path) for path in examples}
    assert found.pop("4-character.jpg") == NEEDLE_CUSTOM, "it has 8192 x 5460 pixels and smaller objects"
    assert set(found.values()) == {NEEDLE}


def test_a_model_reads_the_variants_of_what_it_was_made_for() -> None:
    assert supported_domains(NEEDLE) == (NEEDLE, NEEDLE_CUSTOM)
    assert supported_domains("") == ()
