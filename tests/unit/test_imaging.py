import hashlib
import io
import struct
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from hart_studio.errors import BoxError, ImageError
from hart_studio.image_formats import SUPPORTED_FORMATS
from hart_studio.imaging import SourceImage, mask_boxes
from hart_studio.records import Box
from tests.images import encoded, landmark, pixels, png, png_chunk


def orientation_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# --- the point of it all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format_", "options"), [("PNG", {}), ("JPEG", {"quality": 97, "subsampling": 0}), ("WEBP", {"lossless": True})]
)
def test_detail_at_full_resolution_survives_in_the_crop_only(format_: str, options: dict[str, object]) -> None:
    # A letter H of 1-px checks on flat gray of the same mean: any down-sampling wipes it out.
    scene = np.full((1536, 2048), 128, np.uint8)
    rows, columns = np.mgrid[0:70, 0:50]
    letter = (columns // 10 % 4 == 0) | (rows // 10 == 3)
    checks = np.where((rows + columns) % 2 == 0, 48, 208)
    scene[800:870, 1200:1250] = np.where(letter, checks, 128)
    source = SourceImage(encoded(Image.fromarray(scene).convert("RGB"), format_, **options))

    crop = pixels(source.crop(Box.from_xyxy((1200, 800, 1250, 870))))[..., 0].astype(int)
    assert crop.shape == (70, 50)
    assert (abs(crop - 128) > 40).tolist() == letter.tolist()

    overview = pixels(source.overview(max_side=512)).astype(int)
    assert overview.shape == (384, 512, 3)
    assert abs(overview - 128).max() <= 6

    enlarged = source.overview(max_side=512).resize((2048, 1536)).crop((1200, 800, 1250, 870))
    assert abs(pixels(enlarged).astype(int) - 128).max() <= 6  # cutting the small image does not restore it


# --- orientation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_upright_once(format_: str, orientation: int) -> None:
    data = encoded(landmark(640, 400), format_, exif=orientation_exif(orientation))
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    source = SourceImage(data)
    assert source.wh == reference.size == ((640, 400) if orientation < 5 else (400, 640))
    full = source.full()
    np.testing.assert_array_equal(pixels(full), pixels(reference))

    edges = (30, 50, 333, 377)
    crop = source.crop(Box.from_xyxy(edges))
    np.testing.assert_array_equal(pixels(crop), pixels(reference.crop(edges)))

    small = source.overview(max_side=80)  # JPEG: through the reduced decode
    assert small.size == ((80, 50) if orientation < 5 else (50, 80))
    expected = reference.resize(small.size, Image.Resampling.LANCZOS)
    assert abs(pixels(small).astype(int) - pixels(expected).astype(int)).max() <= 4

    for image in (full, crop, small):  # applying EXIF again downstream changes nothing
        assert image.info == {}
        np.testing.assert_array_equal(pixels(ImageOps.exif_transpose(image)), pixels(image))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_impossible_orientations_are_ignored(value: int) -> None:
    assert SourceImage(encoded(landmark(40, 30), "JPEG", exif=orientation_exif(value))).wh == (40, 30)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_broken_exif_does_not_cost_the_image() -> None:
    data = encoded(landmark(40, 30), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    source = SourceImage(data)
    assert source.wh == source.full().size == (40, 30)


def test_exif_behind_the_pixels_of_a_png_does_not_count(decodes: list[tuple[int, int]]) -> None:
    exif = orientation_exif(6).tobytes().removeprefix(b"Exif\0\0")
    data = png(3, 1, b"\0" + bytes(range(9)), tail=png_chunk(b"eXIf", exif))
    source = SourceImage(data)
    assert source.wh == (3, 1)
    assert decodes == []  # reading EXIF did not decode it
    assert ImageOps.exif_transpose(source.full()).size == (3, 1)


# --- color modes ---------------------------------------------------------------------------------------------------


def gray_png16(*samples: int) -> bytes:
    return png(len(samples), 1, b"\0" + struct.pack(f">{len(samples)}H", *samples), depth=16, color=0)


def palette_image(colors: list[int], indices: list[int]) -> Image.Image:
    image = Image.new("P", (len(indices), 1))
    image.putpalette(colors)
    image.putdata(indices)
    return image


def tiff(values: npt.ArrayLike, dtype: str) -> bytes:
    return encoded(Image.fromarray(np.array([values], dtype=dtype)), "TIFF")


def grays(*values: int) -> list[list[int]]:
    return [[value] * 3 for value in values]


TWO_COLORS = [255, 0, 0, 0, 0, 255]
RED, BLUE, WHITE = [255, 0, 0], [0, 0, 255], [255, 255, 255]

MODES = {
    "RGB": (encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), [[1, 2, 3]]),
    "L": (encoded(Image.new("L", (1, 1), 77), "PNG"), grays(77)),
    "1": (encoded(Image.frombytes("1", (2, 1), b"\x40"), "PNG"), grays(0, 255)),
    "P": (encoded(palette_image(TWO_COLORS, [1, 0]), "PNG"), [BLUE, RED]),
    "P with a clear entry": (encoded(palette_image(TWO_COLORS, [1, 0]), "PNG", transparency=0), [BLUE, WHITE]),
    # 128 of 255 of blue over white: 255 * (1 - 128 / 255) = 127.
    "P with half-clear entries": (
        encoded(palette_image(TWO_COLORS, [1, 0]), "PNG", transparency=b"\x00\x80"),
        [[127, 127, 255], WHITE],
    ),
    "GIF with a clear entry": (encoded(palette_image(TWO_COLORS, [1, 0]), "GIF", transparency=0), [BLUE, WHITE]),
    "RGBA": (encoded(Image.new("RGBA", (1, 1), (0, 0, 255, 128)), "PNG"), [[127, 127, 255]]),
    "RGBA, clear": (encoded(Image.new("RGBA", (1, 1), (9, 9, 9, 0)), "WEBP", lossless=True, exact=True), [WHITE]),
    "LA": (encoded(Image.new("LA", (1, 1), (0, 51)), "PNG"), grays(204)),
    "RGB with a clear color": (encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG", transparency=(9, 8, 7)), [WHITE]),
    "BMP": (encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "BMP"), [[1, 2, 3]]),
    "CMYK TIFF": (encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [RED]),
    # 16 bit keep their high byte: 255 -> 0, 256 -> 1, 32767 -> 127, 32768 -> 128, 65535 -> 255.
    "16-bit gray PNG": (gray_png16(0, 255, 256, 32767, 32768, 65535), grays(0, 0, 1, 127, 128, 255)),
    "16-bit gray TIFF": (tiff([0, 255, 256, 32768, 65535], "<u2"), grays(0, 0, 1, 128, 255)),
    "16-bit gray TIFF, big-endian": (tiff([0, 255, 256, 32768, 65535], ">u2"), grays(0, 0, 1, 128, 255)),
    "16-bit RGB PNG": (png(1, 1, b"\0" + struct.pack(">3H", 255, 32768, 65535), depth=16), [[0, 128, 255]]),
    "16-bit RGBA PNG": (png(1, 1, b"\0" + struct.pack(">4H", 0, 0, 65535, 0), depth=16, color=6), [WHITE]),
    # Stretched from the least to the greatest: (v - low) / (high - low) * 255, rounded.
    "I": (tiff([-1000, 0, 1000, 500], "<i4"), grays(0, 128, 255, 191)),
    "I, constant": (tiff([7, 7], "<i4"), grays(0, 0)),
    "F": (tiff([0.5, 1.0, 0.75, 0.6], "<f4"), grays(0, 255, 128, 51)),
    "F with holes": (tiff([np.nan, 2.0, np.inf, 4.0, -np.inf], "<f4"), grays(0, 0, 0, 255, 0)),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_become_rgb_by_the_documented_rule(mode: str) -> None:
    data, expected = MODES[mode]
    full = SourceImage(data).full()
    assert pixels(full).reshape(-1, 3).tolist() == expected


def test_cmyk_jpeg_with_inverted_adobe_inks_is_not_a_negative() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert b"Adobe" in data
    assert abs(pixels(SourceImage(data).full()).astype(int) - RED).max() <= 3


def test_lab_tiff_is_read() -> None:
    gray = SourceImage(encoded(Image.new("LAB", (4, 4), (128, 128, 128)), "TIFF")).full()
    assert np.ptp(pixels(gray)[0, 0]) < 12


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_several(format_: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as animation:
        animation.seek(1)  # there is a second frame
    assert pixels(SourceImage(data).full())[4, 4].tolist() == RED


def test_mpo_of_a_camera_is_a_jpeg() -> None:
    first, second = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")
    source = SourceImage(encoded(first, "MPO", save_all=True, append_images=[second]))
    assert source.format == "JPEG"
    assert abs(pixels(source.full()).astype(int) - RED).max() <= 3
    assert source.overview(max_side=8).size == (8, 6)


@pytest.mark.parametrize("format_", SUPPORTED_FORMATS)
def test_format_is_distinguished_from_content_not_from_name(format_: str, tmp_path: Path) -> None:
    path = tmp_path / "holiday.svg.txt"
    path.write_bytes(encoded(landmark(20, 10), format_))
    source = SourceImage(path)
    assert (source.format, source.wh, source.path) == (format_, (20, 10), path)
    assert SourceImage(str(path)).wh == (20, 10)


# --- cost -----------------------------------------------------------------------------------------------------------


def test_overview_of_a_large_jpeg_uses_the_reduced_decode(decodes: list[tuple[int, int]]) -> None:
    source = SourceImage(encoded(landmark(1999, 1001), "JPEG"))
    small = source.overview(max_pixels=200 * 100)
    assert decodes == [(500, 251)]  # a quarter, rounded up: the least scale at or above twice the result
    reference = source.full().resize(small.size, Image.Resampling.LANCZOS)
    assert abs(pixels(small).astype(int) - pixels(reference).astype(int)).max() <= 2
    assert decodes[1:] == [(1999, 1001)]


def test_overview_does_not_depend_on_what_was_decoded_before() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", quality=90)
    fresh, used = SourceImage(data), SourceImage(data)
    used.full()
    np.testing.assert_array_equal(pixels(fresh.overview(max_side=50)), pixels(used.overview(max_side=50)))


def test_several_crops_cost_one_decode_and_close_lets_go(decodes: list[tuple[int, int]]) -> None:
    with SourceImage(encoded(landmark(300, 200), "PNG")) as source:
        first, second = source.crops([Box.from_xyxy((0, 0, 10, 10)), Box.from_xyxy((100, 50, 300, 200))])
        source.overview(max_side=50)
        source.crop(Box.from_xyxy((5, 5, 6, 6)))
        assert (first.size, second.size) == ((10, 10), (200, 150))
        assert decodes == [(300, 200)]
    source.crop(Box.from_xyxy((5, 5, 6, 6)))
    assert decodes == [(300, 200)] * 2


def test_threads_share_one_decode(decodes: list[tuple[int, int]]) -> None:
    source = SourceImage(encoded(landmark(600, 400), "PNG"))
    threads = [threading.Thread(target=source.full) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decodes == [(600, 400)]


def test_opening_decodes_nothing(decodes: list[tuple[int, int]]) -> None:
    for format_ in SUPPORTED_FORMATS:
        SourceImage(encoded(landmark(30, 20), format_))
    assert decodes == []


def test_overview_is_never_enlarged() -> None:
    source = SourceImage(encoded(landmark(30, 20), "JPEG"))
    assert source.overview(max_pixels=10**6) is source.full()
    assert source.overview(max_pixels=10**6, max_side=15).size == (15, 10)


# --- crops ----------------------------------------------------------------------------------------------------------


def test_crop_edges_move_outward_and_stay_inside() -> None:
    source = SourceImage(encoded(landmark(30, 20), "PNG"))
    reference = landmark(30, 20)
    for xyxy, edges in [
        ((3.5, 4.2, 9.1, 9.9), (3, 4, 10, 10)),
        ((-7, -7, 5, 5), (0, 0, 5, 5)),
        ((25, 15, 99, 99), (25, 15, 30, 20)),
        ((29.2, 19.2, 29.3, 19.3), (29, 19, 30, 20)),
    ]:
        np.testing.assert_array_equal(pixels(source.crop(Box.from_xyxy(xyxy))), pixels(reference.crop(edges)))


def test_crop_outside_the_image_is_refused() -> None:
    source = SourceImage(encoded(landmark(30, 20), "PNG"))
    with pytest.raises(BoxError, match=r"inside 30 x 20 pixels, got \[30, 0, 40, 10\]"):
        source.crop(Box.from_xyxy((30, 0, 40, 10)))


def test_drawing_on_a_crop_leaves_the_original_alone() -> None:
    source = SourceImage(encoded(landmark(30, 20), "PNG"))
    source.crop(Box.from_xyxy((0, 0, 30, 20))).paste((9, 9, 9), (0, 0, 30, 20))
    np.testing.assert_array_equal(pixels(source.full()), pixels(landmark(30, 20)))


# --- masking --------------------------------------------------------------------------------------------------------


def test_mask_paints_the_mean_color_and_nothing_else() -> None:
    image = Image.new("RGB", (10, 10), (0, 0, 0))
    image.paste((200, 100, 50), (0, 0, 5, 10))
    masked = mask_boxes(image, [Box.from_xyxy((1.5, 1.5, 2.5, 3)), Box.from_xyxy((90, 90, 95, 95))])
    expected = pixels(image).copy()
    expected[1:3, 1:3] = (100, 50, 25)
    np.testing.assert_array_equal(pixels(masked), expected)
    assert pixels(image)[1, 1].tolist() == [200, 100, 50]  # the given image is untouched


def test_mask_with_a_given_color() -> None:
    masked = mask_boxes(Image.new("RGB", (4, 4), "white"), [Box.from_xyxy((-5, -5, 50, 50))], fill=(0, 0, 0))
    assert not pixels(masked).any()


def test_mask_on_a_small_copy_takes_original_pixels() -> None:
    small = Image.new("RGB", (100, 50), "white")
    masked = mask_boxes(small, [Box.from_xyxy((400, 200, 805, 400))], fill=(1, 2, 3), original_wh=(4000, 2000))
    painted = np.argwhere(pixels(masked)[..., 0] == 1)
    assert painted.min(axis=0).tolist() == [5, 10]
    assert painted.max(axis=0).tolist() == [9, 20]  # 805 / 40 = 20.1: column 20 is partly covered, so it goes


def test_decoding_ahead_gives_the_same_pixels_and_close_lets_go_of_them(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (700, 900, 3), dtype=np.uint8)).save(path)
    expected = np.asarray(SourceImage(path).full())
    image = SourceImage(path)
    image.start_decoding()
    image.start_decoding()  # a second call has nothing to add
    assert np.array_equal(np.asarray(image.full()), expected)
    image.start_decoding()
    image.close()
    assert image._pixels is None
    image.start_decoding()  # works again after close
    assert np.array_equal(np.asarray(image.full()), expected)


def test_damage_shows_when_pixels_are_used_not_when_they_are_decoded_ahead(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    image = SourceImage(path)
    image.start_decoding()
    with pytest.raises(ImageError, match=r"cut\.png"):
        image.full()


# --- one file, from the digest to the pixels ------------------------------------------------------------------------


def test_after_its_digest_was_computed_no_other_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    data, other = (encoded(Image.new("RGB", (60, 40), color), "PNG") for color in ("red", "blue"))
    path.write_bytes(data)
    source = SourceImage(path)
    assert source.compute_sha256() == SourceImage(data).compute_sha256() == hashlib.sha256(data).hexdigest()
    assert source.full().getpixel((0, 0)) == (255, 0, 0)
    assert not source.has_changed
    source.close()
    (tmp_path / "b.png").write_bytes(other)
    (tmp_path / "b.png").replace(path)
    assert source.has_changed
    with pytest.raises(ImageError, match="the file has changed since it was opened"):
        source.full()
    path.unlink()
    assert source.has_changed
