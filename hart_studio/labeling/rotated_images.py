"""Images with an EXIF rotation in an export: written so that every reader sees image and boxes in one frame.

Some readers apply EXIF (Ultralytics, CVAT, browsers), others do not (torchvision, most uses of Pillow; Pillow itself
turns a TIFF from a stream, but not every one from a path). A copy of the original would therefore put the boxes of some
readers in the wrong place. No file of an export has an EXIF rotation:

- ``upright``: the pixels are turned. PNG, WebP and TIFF are lossless, and keep their mode and bit depth. A JPEG is
  encoded with its own quantization tables, transposed for a quarter turn, and its own chroma subsampling. If its sides
  are multiples of a block (8 or 16 pixels, as from most cameras), the new blocks are the old ones, and little more than
  rounding is added; otherwise blocks shift, and it loses as much as by any encoding of that quality. (Pillow cannot
  write the transpose of 4:2:2, so such a file gets 4:4:4 in a quarter turn.)
- ``stored``: the pixels stay as they are, and the boxes are turned. In a JPEG only the value of the orientation
  changes, so that nothing is encoded again.

Color profiles are kept; a file that is encoded again loses other metadata.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from PIL import Image, JpegImagePlugin

from hart_studio.errors import ImageError
from hart_studio.files import read_regular_file, write_atomically
from hart_studio.geometry import WH, XYXY
from hart_studio.imaging import DEFAULT_LIMITS, ROTATIONS, SourceImage
from hart_studio.labeling.export_plan import ExportPlan, PlannedImage, PlannedItem
from hart_studio.records import Box

_BACK: Final = {
    **ROTATIONS,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
"""Transpose operation from the upright image to the stored one."""

_QUARTER_TURNS: Final = frozenset({5, 6, 7, 8})
_ORIENTATION_TAG: Final = 0x0112
_SHORT: Final = 3
_EXIF: Final = b"Exif\0\0"
_FULL_CHROMA: Final = 0
_HALF_WIDTH_CHROMA: Final = 1
_METADATA: Final = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp", "photoshop", "comment")
_WRITTEN_TIFF: Final = frozenset({"raw", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "lzma", "zstd"})


def rewrite_rotated(plan: ExportPlan, folder: Path) -> ExportPlan:
    """Write a copy of every image with an EXIF rotation, as ``ExportOptions.exif`` says.

    Args:
        plan: Plan of an export that copies its images.
        folder: Existing folder for the copies.

    Returns:
        The plan with the copies. An image that cannot be decoded is excluded with its items and counted.

    Raises:
        OSError: If the folder cannot be written.
    """
    excluded = Counter(plan.excluded)
    images = []
    for number, image in enumerate(plan.images):
        try:
            images.append(_rewrite(image, plan, folder / str(number)) if image.is_rotated else image)
        except ImageError as error:
            excluded[str(error)] += len(image.items)
    return replace(plan, images=tuple(images), excluded=dict(sorted(excluded.items())))


def _rewrite(image: PlannedImage, plan: ExportPlan, target: Path) -> PlannedImage:
    is_upright = plan.options.exif == "upright"
    with SourceImage(image.file.path) as source:
        if is_upright:
            write_upright(source, target)
        else:
            write_as_stored(source, target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    image = replace(image, rewritten=target, rewritten_sha256=digest)
    return image if is_upright else _turn_boxes(image)


def write_upright(source: SourceImage, target: Path) -> None:
    """Write the first frame of an image upright and without an orientation, in its own format.

    Raises:
        ImageError: If it is damaged.
        OSError: If the target cannot be written.
    """
    with source.opened() as image:
        settings = _encoder_settings(image, source.orientation)
        image.load()
        is_turned = image.format == "TIFF"  # by Pillow, while decoding
        pixels = image.copy() if is_turned else image.transpose(ROTATIONS[source.orientation])
    _save(pixels, target, source, settings)
    _check(target, source, source.wh)


def write_as_stored(source: SourceImage, target: Path) -> None:
    """Write an image with its pixels as they are stored, and without an orientation.

    Raises:
        ImageError: If it is damaged.
        OSError: If the target cannot be written.
    """
    wh = _stored_wh(source.wh, source.orientation)
    if source.format == "JPEG" and source.path is not None:
        data = bytearray(read_regular_file(source.path, DEFAULT_LIMITS.max_bytes, follow_symlinks=True))
        reset_jpeg_orientation(data)
        write_atomically(target, bytes(data))
        with SourceImage(target) as written:
            if written.orientation == 1:
                _check(target, source, wh)
                return
    with source.opened() as image:
        settings = _encoder_settings(image, 1)
        image.load()
        pixels = image.transpose(_BACK[source.orientation]) if image.format == "TIFF" else image.copy()
    _save(pixels, target, source, settings)
    _check(target, source, wh)


def reset_jpeg_orientation(data: bytearray) -> None:
    """Set the EXIF orientation of a JPEG to upright, in place; a file without one is unchanged."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA or size < 2:  # the pixels begin
            return
        start = at + 4
        if marker == 0xE1 and data[start : start + len(_EXIF)] == _EXIF:
            _reset_tag(data, start + len(_EXIF), at + 2 + size)
        at += 2 + size


def _reset_tag(data: bytearray, start: int, end: int) -> None:
    """Set the orientation in the first directory of a TIFF structure."""
    order = {b"II": "little", b"MM": "big"}.get(bytes(data[start : start + 2]))

    def read(offset: int, length: int) -> int:
        return int.from_bytes(data[offset : offset + length], "big" if order == "big" else "little")

    if order is None:
        return
    directory = start + read(start + 4, 4)
    for number in range(read(directory, 2) if directory + 2 <= end else 0):
        entry = directory + 2 + 12 * number
        if entry + 12 > end:
            return
        if read(entry, 2) == _ORIENTATION_TAG and read(entry + 2, 2) == _SHORT:
            data[entry + 8 : entry + 10] = (1).to_bytes(2, "big" if order == "big" else "little")


def to_stored(edges: XYXY, wh: WH, orientation: int) -> XYXY:
    """Edges of a box in the stored image.

    Args:
        edges: Edges in the upright image, pixels.
        wh: Upright (width, height), pixels.
        orientation: EXIF orientation, 1 to 8.
    """
    x_min, y_min, x_max, y_max = edges
    width, height = wh
    mirrored_x, mirrored_y = (width - x_max, width - x_min), (height - y_max, height - y_min)
    across, down = {
        1: ((x_min, x_max), (y_min, y_max)),
        2: (mirrored_x, (y_min, y_max)),
        3: (mirrored_x, mirrored_y),
        4: ((x_min, x_max), mirrored_y),
        5: ((y_min, y_max), (x_min, x_max)),
        6: ((y_min, y_max), mirrored_x),
        7: (mirrored_y, mirrored_x),
        8: (mirrored_y, (x_min, x_max)),
    }[orientation]
    return across[0], down[0], across[1], down[1]


def _stored_wh(wh: WH, orientation: int) -> WH:
    return (wh[1], wh[0]) if orientation in _QUARTER_TURNS else wh


def _turn_boxes(image: PlannedImage) -> PlannedImage:
    """The image with its size and its exported boxes in the stored frame."""

    def turn(box: Box) -> Box:
        x_min, y_min, x_max, y_max = to_stored(box.xyxy, image.wh, image.orientation)
        return box.model_copy(update={"x_min": x_min, "y_min": y_min, "x_max": x_max, "y_max": y_max})

    items = tuple(PlannedItem(each.item, tuple(turn(box) for box in each.boxes)) for each in image.items)
    width, height = _stored_wh(image.wh, image.orientation)
    return replace(image, file=image.file.model_copy(update={"width": width, "height": height}), items=items)


def _encoder_settings(image: Image.Image, orientation: int) -> dict[str, Any]:
    """Arguments of ``Image.save`` that lose as little as possible."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return _jpeg_settings(image, is_quarter_turn=orientation in _QUARTER_TURNS)
    if image.format == "WEBP":
        return {"lossless": True, "exact": True}
    if image.format == "TIFF":
        compression = str(image.info.get("compression", "raw"))
        return {"compression": compression if compression in _WRITTEN_TIFF else "tiff_deflate"}
    return {}


def _jpeg_settings(image: JpegImagePlugin.JpegImageFile, *, is_quarter_turn: bool) -> dict[str, Any]:
    names = [layer[3] for layer in image.layer[:2]]
    settings: dict[str, Any] = {"progressive": bool(image.info.get("progressive"))}
    if image.layers not in (1, 3) or any(name not in image.quantization for name in names):
        return {**settings, "quality": 95}
    tables = [list(image.quantization[name]) for name in names]
    if is_quarter_turn:
        tables = [[table[8 * column + row] for row in range(8) for column in range(8)] for table in tables]
    sampling = JpegImagePlugin.get_sampling(image)
    if sampling < 0 or (is_quarter_turn and sampling == _HALF_WIDTH_CHROMA):
        sampling = _FULL_CHROMA
    return {**settings, "qtables": tables, "subsampling": sampling}


def _save(pixels: Image.Image, target: Path, source: SourceImage, settings: dict[str, Any]) -> None:
    for name in _METADATA:
        pixels.info.pop(name, None)
    profile = pixels.info.get("icc_profile")
    pixels.save(target, source.format, **settings, **({"icc_profile": profile} if profile else {}))


def _check(target: Path, source: SourceImage, wh: WH) -> None:
    with SourceImage(target) as written:
        if written.orientation != 1 or written.wh != wh:
            raise ImageError(
                f"Cannot write the image {source.name!r} without its EXIF rotation: got {written.wh[0]} x "
                f"{written.wh[1]} pixels instead of {wh[0]} x {wh[1]}. Rotate it in an editor and import it again."
            )
