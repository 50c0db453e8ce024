import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hart_studio.errors import ImageError
from hart_studio.image_formats import SUPPORTED_FORMATS
from hart_studio.imaging import ImageLimits, SourceImage
from hart_studio.records import Box
from tests.images import encoded, landmark, png

JPEG = encoded(landmark(64, 48), "JPEG")
PNG = encoded(landmark(64, 48), "PNG")

BAD_BYTES = {
    "empty": (b"", "the file is empty; save"),
    "text": (b"Dear diary, today I saw a sign.", "not an image; choose"),
    "random": (bytes(range(256)) * 9, "not an image; choose"),
    "text like a bitmap": (b"BMW has built a car with a very long name indeed.", "not an image; choose"),
    "html": (b"<!DOCTYPE html><html><svg></svg></html>", "not an image; choose"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "SVG is a vector format"),
    "svg in xml": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- made by hand -->\n<svg width="9"/>', "SVG is a vector"),
    "pdf": (b"%PDF-1.7\n%...", "the format PDF is not supported; convert it"),
    "photoshop": (b"8BPS\0\1" + bytes(40), "format Photoshop is not"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "format HEIC is not"),
    "avif": (b"\0\0\0\x18ftypavif" + bytes(40), "format AVIF is not"),
    "video": (b"\0\0\0\x18ftypisom" + bytes(40), "format MP4 video is not"),
    "ico": (encoded(landmark(32, 32), "ICO"), "format ICO is not"),
    "ppm": (encoded(landmark(8, 8), "PPM"), "format PNM is not"),
    "jpeg 2000": (encoded(landmark(32, 32), "JPEG2000"), "format JPEG 2000 is not"),
    "dds": (encoded(landmark(8, 8), "DDS"), "format DDS is not"),
    "jpeg, first bytes only": (JPEG[:12], "the JPEG is truncated, damaged or"),
    "png, header cut": (PNG[:20], "the PNG is truncated, damaged or"),
    "webp, header cut": (encoded(landmark(64, 48), "WEBP")[:20], "the WEBP is truncated, damaged or"),
    "gif, header cut": (encoded(landmark(64, 48), "GIF")[:9], "the GIF is truncated, damaged or"),
    "tiff, header cut": (encoded(landmark(64, 48), "TIFF")[:9], "the TIFF is truncated, damaged or"),
    "png, width 0": (png(0, 5, b""), "the width or height of the PNG is 0"),
    "gif, height 0": (b"GIF89a" + struct.pack("<HHBBB", 5, 0, 0, 0, 0) + b";", "the width or height of the GIF is 0"),
    "bmp, width 0": (
        b"BM" + bytes(12) + struct.pack("<Iii", 40, 0, 5) + bytes(28),
        "the width or height of the BMP is 0",
    ),
    "bomb": (png(100_000, 100_000, b""), "expected at most 300,000,000 pixels, got"),
    "bomb just over the cap": (png(300_000_001, 1, b""), "got 300,000,001 x 1; scale"),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", BAD_BYTES)
def test_bad_content_gets_one_clear_error(case: str, tmp_path: Path, decodes: list[tuple[int, int]]) -> None:
    data, message = BAD_BYTES[case]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for source, name in ((path, "photo.jpg"), (data, "image")):
        with pytest.raises(ImageError) as caught:
            SourceImage(source)
        assert message in str(caught.value)
        assert str(caught.value).startswith(f"Cannot read image {name!r}: ")
        assert str(tmp_path) not in str(caught.value)
    assert decodes == []


@pytest.mark.parametrize("format_", SUPPORTED_FORMATS)
def test_truncated_body_shows_at_the_first_use_of_pixels(format_: str) -> None:
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 256, (96, 128, 3), np.uint8))
    data = encoded(noise, format_)
    truncated = data[: len(data) * 2 // 3]
    if format_ == "WEBP":  # its decoder checks the length before it reads the size
        with pytest.raises(ImageError, match="the WEBP is truncated, damaged or"):
            SourceImage(truncated)
        return
    source = SourceImage(truncated)
    assert source.wh == (128, 96)
    for use in (source.full, lambda: source.overview(max_side=10), lambda: source.crop(Box.from_xyxy((0, 0, 1, 1)))):
        with pytest.raises(ImageError, match=f"the {format_} is truncated, damaged or"):
            use()


def make_missing(folder: Path) -> Path:
    return folder / "nowhere.png"


def make_folder(folder: Path) -> Path:
    (folder / "album").mkdir()
    return folder / "album"


def make_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def make_dangling_link(folder: Path) -> Path:
    (folder / "link.png").symlink_to(folder / "gone.png")
    return folder / "link.png"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_missing, "no file of that name"),
        (make_dangling_link, "no file of that name"),
        (make_folder, "it is a folder; choose a file in it"),
        (make_pipe, "it is a device or a pipe"),
        (lambda folder: folder / ("x" * 300 + ".png"), "File name too long"),
        (lambda folder: folder / "a\0b.png", "invalid file name"),
        (lambda folder: folder / "photo.png" / "inner.png", "Not a directory; check the path and its permissions"),
    ],
)
def test_bad_paths_get_one_clear_error(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(PNG)
    with pytest.raises(ImageError) as caught:
        SourceImage(make(tmp_path))
    assert message in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_file_over_the_byte_limit() -> None:
    SourceImage(PNG, ImageLimits(max_bytes=len(PNG)))
    with pytest.raises(ImageError, match=f"at most {len(PNG) - 1:,} bytes, got {len(PNG):,} bytes; save a "):
        SourceImage(PNG, ImageLimits(max_bytes=len(PNG) - 1))


def test_pixel_cap_is_exact() -> None:
    assert SourceImage(PNG, ImageLimits(max_pixels=64 * 48)).wh == (64, 48)
    with pytest.raises(ImageError, match="at most 3,071 pixels, got 64 x 48; scale the image down or "):
        SourceImage(PNG, ImageLimits(max_pixels=64 * 48 - 1))


def test_pillows_own_guard_neither_warns_nor_stops_an_image_within_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow alone would refuse 64 x 48
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = SourceImage(PNG, ImageLimits(max_pixels=64 * 48))
        assert source.crop(Box.from_xyxy((0, 0, 63, 48))).size == (63, 48)
        assert SourceImage(png(17_000, 17_000, b"")).wh == (17_000, 17_000)  # 289 MP: header only, no decode


def test_pillows_own_guard_is_never_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in ((10**9, 10**9), (None, None), (10, 5000)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", before)
        SourceImage(PNG, ImageLimits(max_pixels=5000))
        assert after == Image.MAX_IMAGE_PIXELS


def test_file_that_changes_after_opening(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    source = SourceImage(path)
    path.write_bytes(encoded(landmark(10, 10), "PNG"))
    with pytest.raises(ImageError, match="the file has changed since it was opened"):
        source.full()
    path.unlink()
    with pytest.raises(ImageError, match="no file of that name"):
        source.full()


SEEDS = [encoded(landmark(24, 16), format_) for format_ in SUPPORTED_FORMATS]
SEEDS += [
    encoded(landmark(24, 16), "TIFF", compression="tiff_lzw"),
    encoded(landmark(24, 16), "PNG", exif=b"Exif\0\0II*\0"),
]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@given(seed=st.sampled_from(SEEDS), data=st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_damaged_bytes_give_an_image_or_an_image_error(seed: bytes, data: st.DataObject) -> None:
    damaged = bytearray(seed)
    # Headers are where decoders break, so half of the edits go there.
    places = st.integers(0, len(seed) - 1) | st.integers(0, 63)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        damaged[place] = value
    end = data.draw(st.integers(0, len(seed)) | st.just(len(seed)))
    try:
        source = SourceImage(bytes(damaged[:end]), ImageLimits(max_pixels=10**6))
        assert source.full().size == source.wh
        assert source.full().mode == source.overview(max_pixels=50).mode == "RGB"
    except ImageError as error:
        assert str(error).startswith("Cannot read image 'image': ")
