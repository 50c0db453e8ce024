"""Image loader: checks the content, applies EXIF orientation, converts to RGB, crops at native resolution.

Conversion rules:

- EXIF orientation is applied once, here. Every size, box and pixel that leaves this module is upright. Metadata is
  dropped, so nothing downstream can rotate the image a second time. As in browsers, EXIF that follows the pixels of a
  PNG is ignored.
- Transparency (RGBA, LA, PA, a transparent palette entry or color) is composited on white.
- 16-bit samples keep their high byte, gray and color alike. 32-bit integers and floats have no standard white level:
  they are scaled from their minimum to their maximum; non-finite values become black.
- CMYK, Lab, gray, 1-bit and palette images are converted by Pillow. ICC profiles are ignored.
- Animations and multi-page files are read as their first frame.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageStat

from hart_studio.errors import BoxError, ImageError
from hart_studio.files import from_stored_path, open_regular_file, to_stored_path
from hart_studio.geometry import WH, BoxFrame, clip, fit_inside, from_original, snap_to_pixels
from hart_studio.image_domains import read_stream_domain
from hart_studio.image_formats import HEADER_BYTES, SUPPORTED_FORMATS, detect_format, has_zero_size
from hart_studio.records import Box

DRAFT_MARGIN: Final = 2
"""The JPEG decoder may shrink to this many times the overview's sides; a filter does the rest. At 2 and above the
coarse steps of the decoder are not visible in the result."""

ROTATIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpose operation for each EXIF orientation; orientations from 5 swap width and height."""

_FileState = tuple[int, int, int, int]

_pillow_guard = threading.Lock()


@dataclass(frozen=True)
class ImageLimits:
    """Limits that are checked before decoding. Project defaults.

    Attributes:
        max_pixels: Maximum width times height.
        max_bytes: Maximum file size, bytes.
    """

    max_pixels: int = 300_000_000
    max_bytes: int = 1 << 30


DEFAULT_LIMITS: Final = ImageLimits()


class SourceImage:
    """An original image; pixels are decoded on first use.

    Opening reads the header only, so damaged data raises ``ImageError`` at the first use of pixels. The
    decoded image is kept (4 bytes a pixel) until ``close()`` or until the object is deleted, so any number of crops
    costs one decode. Thread-safe.

    Attributes:
        path: The file, or None for an image from memory.
        name: File name, for messages.
        format: One of ``SUPPORTED_FORMATS``, detected from the content.
        width: Upright width, pixels.
        height: Upright height, pixels.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
    """

    def __init__(
        self, source: Path | str | bytes, limits: ImageLimits = DEFAULT_LIMITS, draft_margin: int = DRAFT_MARGIN
    ) -> None:
        """Check the content of the file and read its size.

        Args:
            source: Path of the file in the form of ``files.to_stored_path``, or its bytes.
            limits: Limits on pixels and bytes.
            draft_margin: See ``DRAFT_MARGIN``; 1 halves the time of an overview and changes it by a few gray levels.

        Raises:
            ImageError: If it is missing, empty, too large, damaged, of no supported format, or has too many pixels.
        """
        self._data = source if isinstance(source, bytes) else None
        self.path = None if isinstance(source, bytes) else from_stored_path(source)
        self.name = Path(to_stored_path(self.path)).name if self.path else "image"
        self._limits = limits
        self._draft_margin = draft_margin
        self._lock = threading.Lock()
        self._pixels: Image.Image | None = None
        self._ahead: threading.Thread | None = None
        self._stored_wh: WH | None = None
        self._checked: _FileState | None = None
        with self.opened() as image:
            self.orientation = _orientation(image)
            # Pillow rotates a TIFF while decoding and reports the rotated size.
            self._turn = None if image.format == "TIFF" else ROTATIONS.get(self.orientation)
            self.format = "JPEG" if image.format == "MPO" else str(image.format)
            self._stored_wh = image.size
        self.width, self.height = self._swapped(self._stored_wh)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the decoded pixels; the next use decodes again."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.join()  # otherwise it would set the pixels again afterwards
        with self._lock:
            self._pixels = None

    @property
    def wh(self) -> WH:
        """Upright ``(width, height)``, pixels."""
        return self.width, self.height

    @property
    def is_rotated(self) -> bool:
        """Whether EXIF orientation rotates or mirrors the stored image."""
        return self.orientation != 1

    def read_domain(self) -> str:
        """Image domain, verified by the digest in the file; empty for photographs. See ``image_domains``.

        Raises:
            ImageError: If the file is missing.
        """
        with self._stream() as stream:
            return read_stream_domain(stream)

    def compute_sha256(self) -> str:
        """SHA-256 of the file's bytes, hexadecimal. From now on, reading a changed file fails.

        Raises:
            ImageError: If the file is missing.
        """
        with self._stream() as stream:
            state = _read_state(stream)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # of an open file
        self._checked = state
        return digest

    @property
    def has_changed(self) -> bool:
        """Whether the file is missing or differs from the one that ``compute_sha256`` hashed."""
        try:
            with self._stream():
                return False
        except ImageError:
            return True

    def full(self) -> Image.Image:
        """The whole upright image, RGB, shared between calls: copy it before you modify it.

        Raises:
            ImageError: If the file is damaged, or has changed since it was opened.
        """
        with self._lock:
            if self._pixels is None:
                with self.opened() as image:
                    self._pixels = self._upright(_to_rgb(image))
            return self._pixels

    def start_decoding(self) -> None:
        """Start decoding in the background, for a caller that needs ``full`` or crops later.

        Returns at once; the first use of the pixels waits for the decoder and raises its errors.
        """
        if self._ahead is None:
            self._ahead = threading.Thread(target=self._decode_quietly, name="decode", daemon=True)
            self._ahead.start()

    def _decode_quietly(self) -> None:
        with suppress(ImageError, MemoryError):
            self.full()

    def overview(self, max_pixels: int | None = None, max_side: int | None = None) -> Image.Image:
        """Downscaled upright image I_f; never enlarged.

        A much larger JPEG is downscaled by its decoder first, which takes a fraction of the time and memory.
        The result does not depend on what was decoded before.

        Args:
            max_pixels: Maximum area, square pixels.
            max_side: Maximum width and height, pixels.

        Returns:
            RGB of the largest size within the limits; ``full()`` if the image already fits.

        Raises:
            ImageError: If the file is damaged, or has changed since it was opened.
        """
        size = fit_inside(self.wh, max_pixels, max_side)
        if self.format == "JPEG" and (small := self._decode_small(size)) is not None:
            return small
        if size == self.wh:
            return self.full()
        return self.full().resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)

    def crop(self, box: Box) -> Image.Image:
        """Crop a region from the ORIGINAL upright pixels, RGB, not resized.

        Args:
            box: The region; edges between pixels move outward; parts outside the image are dropped.

        Returns:
            A new image.

        Raises:
            BoxError: If no part of the box is inside the image.
            ImageError: If the file is damaged, or has changed since it was opened.
        """
        inside = clip(box, self.wh)
        if inside is None:
            raise BoxError(
                f"expected a box inside {self.width} x {self.height} pixels, got "
                f"[{', '.join(f'{edge:g}' for edge in box.xyxy)}]; give coordinates of the original image"
            )
        return self.full().crop(_whole_pixels(inside, self.wh))

    def crops(self, boxes: Iterable[Box]) -> tuple[Image.Image, ...]:
        """Crop each box, in order; decodes once."""
        return tuple(self.crop(box) for box in boxes)

    def _decode_small(self, size: WH) -> Image.Image | None:
        """Decode a JPEG at a reduced scale and finish with a filter; None if no reduced scale is large enough."""
        width, height = self._swapped(size)
        with self.opened() as image:
            scaled = image.draft("RGB", (width * self._draft_margin, height * self._draft_margin))
            if scaled is None or image.size == self._stored_wh:
                return None
            # The reduced image is rounded up to whole pixels; the draft's box is the part that the original covers.
            small = _to_rgb(image).resize((width, height), Image.Resampling.LANCZOS, box=scaled[1])
        return self._upright(small)

    def _swapped(self, wh: WH) -> WH:
        """Convert a size from stored to upright, or back."""
        swaps = self._turn in (ROTATIONS[5], ROTATIONS[6], ROTATIONS[7], ROTATIONS[8])
        return (wh[1], wh[0]) if swaps else wh

    def _upright(self, stored: Image.Image) -> Image.Image:
        # Pillow copies metadata: the next reader of EXIF would rotate the image again.
        stored.info = {}
        exif = stored.getexif()
        if ExifTags.Base.Orientation in exif:
            del exif[ExifTags.Base.Orientation]
        return stored if self._turn is None else stored.transpose(self._turn)

    @contextmanager
    def opened(self) -> Iterator[Image.Image]:
        """Open the file, checked and not yet decoded; decoder errors inside become ``ImageError``."""
        with self._stream() as stream:
            head = stream.read(HEADER_BYTES)
            _pillow_pixel_limit(self._limits.max_pixels)
            try:
                with Image.open(stream, formats=SUPPORTED_FORMATS) as image:
                    self._check_size(image.size)
                    yield image
            except (ImageError, MemoryError):
                raise
            except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                raise self._too_many_pixels("more") from error
            except Exception as error:  # decoders raise anything, from SyntaxError to struct.error, on hostile bytes
                raise self._unreadable(head) from error

    def _stream(self) -> BinaryIO:
        """Open a regular, non-empty file within the size limit."""
        if self.path is None:
            self._check_bytes(len(self._data or b""))
            return io.BytesIO(self._data or b"")
        try:
            found = self.path.stat()
            if stat.S_ISREG(found.st_mode):
                stream = open_regular_file(self.path, follow_symlinks=True)
                try:
                    self._check_bytes(os.fstat(stream.fileno()).st_size)
                    if self._checked not in (None, _read_state(stream)):
                        raise self._refusal("the file has changed since it was opened", "open it again")
                except ImageError:
                    stream.close()
                    raise
                return stream
        except FileNotFoundError as error:
            raise self._refusal("no file of that name", "check the path") from error
        except (OSError, ValueError) as error:  # no permission, a name too long, a name with NUL
            reason = (isinstance(error, OSError) and error.strerror) or "invalid file name"
            raise self._refusal(reason, "check the path and its permissions") from error
        if stat.S_ISDIR(found.st_mode):
            raise self._refusal("it is a folder", "choose a file in it")
        raise self._refusal("it is a device or a pipe", "save the image to a file first")

    def _check_bytes(self, size: int) -> None:
        if size == 0:
            raise self._refusal("the file is empty", "save or upload it again")
        if size > self._limits.max_bytes:
            problem = f"expected at most {self._limits.max_bytes:,} bytes, got {size:,} bytes"
            raise self._refusal(problem, "save a smaller file, for example a JPEG")

    def _check_size(self, wh: WH) -> None:
        if wh[0] * wh[1] > self._limits.max_pixels:
            raise self._too_many_pixels(f"{wh[0]:,} x {wh[1]:,}")
        if self._stored_wh not in (None, wh):
            raise self._refusal("the file has changed since it was opened", "open it again")

    def _unreadable(self, head: bytes) -> ImageError:
        """Error for a file that could not be decoded, based on its first bytes."""
        kind = detect_format(head)
        supported = f"supported formats are {', '.join(SUPPORTED_FORMATS)}"
        if kind is None:
            return self._refusal("not an image", f"choose another file ({supported})")
        if kind == "SVG":
            return self._refusal("SVG is a vector format", "export it as PNG")
        if kind not in SUPPORTED_FORMATS:
            return self._refusal(f"the format {kind} is not supported", "convert it to PNG or JPEG")
        if has_zero_size(head):
            return self._refusal(f"the width or height of the {kind} is 0", "choose another file")
        problem = f"the {kind} is truncated, damaged or of an unknown variant"
        return self._refusal(problem, "save or upload it again")

    def _too_many_pixels(self, got: str) -> ImageError:
        problem = f"expected at most {self._limits.max_pixels:,} pixels, got {got}"
        return self._refusal(problem, "scale the image down or crop it")

    def _refusal(self, problem: str, remedy: str) -> ImageError:
        return ImageError(f"Cannot read image {self.name!r}: {problem}; {remedy}")


def _read_state(stream: BinaryIO) -> _FileState | None:
    """Device, inode, size and time of the last change of an open file; None for bytes in memory."""
    if isinstance(stream, io.BytesIO):
        return None
    status = os.fstat(stream.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


ImageOpener = Callable[[str], SourceImage]
"""Opens an image by its path; raises ``ImageError``."""


def mask_boxes(
    image: Image.Image, boxes: Iterable[Box], fill: tuple[int, int, int] | None = None, original_wh: WH | None = None
) -> Image.Image:
    """Copy of the image with the boxes filled: the input of the masking test.

    Args:
        image: RGB image: the original, or a smaller copy of it.
        boxes: Regions in pixels of the original; edges between pixels of ``image`` move outward.
        fill: RGB, 0 to 255; None is the mean color of ``image``.
        original_wh: Size of the original when ``image`` is a smaller copy, pixels; None when it is the original.

    Returns:
        RGB of the size of ``image``. Boxes outside the image change nothing.
    """
    color = fill or tuple(round(mean) for mean in ImageStat.Stat(image).mean)
    masked = image.copy()
    for box in boxes:
        xyxy = from_original(box.xyxy, BoxFrame.MODEL_PIXELS, original_wh or image.size, image.size)
        inside = clip(Box.from_xyxy(xyxy), image.size)
        if inside is not None:
            masked.paste(color, _whole_pixels(inside, image.size))
    return masked


def _whole_pixels(box: Box, wh: WH) -> tuple[int, int, int, int]:
    x_min, y_min, x_max, y_max = (int(edge) for edge in snap_to_pixels(box, wh).xyxy)
    return x_min, y_min, x_max, y_max


def _pillow_pixel_limit(max_pixels: int) -> None:
    """Raise Pillow's pixel limit to ``max_pixels`` if it is lower.

    Pillow's limit is global. It is only ever raised, so threads with different limits do not
    conflict; ``ImageLimits`` is the check that decides.
    """
    with _pillow_guard:
        if Image.MAX_IMAGE_PIXELS is not None:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a file that is not decoded yet, 1 if it has no valid one."""
    try:
        # The method of the base class: the one for PNG decodes all pixels to find EXIF after them.
        orientation = int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF is parsed on demand and can raise any error; the pixels are valid without it
        return 1
    return orientation if orientation in ROTATIONS else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Decode the first frame and convert it to RGB as described in the module docstring; an RGB image is not copied."""
    image.load()
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_rescaled_to_8_bit(np.asarray(image, dtype=np.float64))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(layer, mask=layer)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _rescaled_to_8_bit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Scale the range of finite values to 0..255; a constant image is black."""
    finite = np.isfinite(values)
    low = float(values.min(where=finite, initial=np.inf))
    high = float(values.max(where=finite, initial=-np.inf))
    if not low < high:
        return np.zeros(values.shape, np.uint8)
    shares = np.where(finite, values - low, 0.0) / (high - low)
    return np.rint(shares * 255).astype(np.uint8)
