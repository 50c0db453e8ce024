"""Detect the format of a file from its first bytes, before any decoder reads it."""

from __future__ import annotations

import re
import struct
from typing import Final

SUPPORTED_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Supported formats. MPO, a JPEG followed by more images, counts as JPEG."""

HEADER_BYTES: Final = 4096
"""Number of bytes needed to detect the format."""

_SIGNATURES: Final = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WEBP": rb"RIFF.{4}WEBP",
    "SVG": rb"(\xef\xbb\xbf)?\s*(?=<(svg|\?xml|!--|!DOCTYPE svg)).*?<(svg:)?svg[\s>]",
    "AVIF": rb".{4}ftypavi[fs]",
    "HEIC": rb".{4}ftyp(hei[cmsx]|hev[cx]|mif1|msf1)",
    "MP4 video": rb".{4}ftyp",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "PDF": rb"%PDF-",
    "PostScript": rb"%!PS",
    "Photoshop": rb"8BPS",
    "ICO": rb"\0\0\x01\0",
    "OpenEXR": rb"v/1\x01",
    "DDS": rb"DDS ",
    "DICOM": rb".{128}DICM",
    "PNM": rb"P[1-7]\s",
    "QOI": rb"qoif",
}
"""Patterns at the start of a file; the first match is the format."""

_SIZE_FIELDS: Final = {"PNG": (16, ">II"), "GIF": (6, "<HH"), "BMP": (18, "<ii")}
"""Offsets of width and height in the header, for formats with fixed offsets."""


def detect_format(head: bytes) -> str | None:
    """Name the format of a file.

    Args:
        head: Its first ``HEADER_BYTES`` bytes, or all of a shorter one.

    Returns:
        One of ``SUPPORTED_FORMATS``, the name of another known format, or None.
    """
    return next((kind for kind, pattern in _SIGNATURES.items() if re.match(pattern, head, re.DOTALL)), None)


def has_zero_size(head: bytes) -> bool:
    """Whether a PNG, GIF or BMP header has width or height 0; False for other formats."""
    offset, layout = _SIZE_FIELDS.get(detect_format(head) or "", (0, ""))
    return len(head) >= offset + struct.calcsize(layout) and 0 in struct.unpack_from(layout, head, offset)
