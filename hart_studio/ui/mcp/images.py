"""Images in MCP messages: decode base64 to a temporary file, and encode crops.

Clients send image bytes, never a path or URL, which the server would have to open or fetch.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hart_studio.errors import ImageError
from hart_studio.imaging import SourceImage
from hart_studio.records import Box

MAX_IMAGE_BYTES: Final = 24 * 2**20
"""Largest image file; an 8192 x 5460 JPEG has about 15 MB. Project default."""

MAX_TEXT: Final = MAX_IMAGE_BYTES // 3 * 4 + 4096
"""Characters of the largest image in base64, including a ``data:`` prefix and line breaks."""

MAX_SHOWN: Final = 4
"""Maximum number of returned crops. Project default."""

SHOWN_SIDE: Final = 1024
"""Greatest side of a returned crop, pixels; smaller crops keep native resolution."""

_DATA_URI: Final = re.compile(r"data:[\w.+/-]{0,64}(?:;[\w.+=-]{1,64}){0,4};base64,", re.IGNORECASE | re.ASCII)
_BLANKS: Final = b" \t\r\n"


@contextmanager
def open_base64_image(text: str, folder: Path) -> Iterator[Path]:
    """Write an image from a message to a file that is removed after the block.

    Args:
        text: The file as a ``data:`` URI or plain base64. The media type of the URI is ignored; ``imaging`` detects it.
        folder: Folder for the temporary file.

    Raises:
        ImageError: If it is too large or not base64.
    """
    data = _decode(text)
    with tempfile.TemporaryDirectory(prefix="received-", dir=folder) as place:
        path = Path(place) / "image"
        path.write_bytes(data)
        yield path


def cut_crops(path: Path, boxes: Sequence[Box]) -> list[bytes]:
    """Encode the first regions as JPEG.

    Args:
        path: The original.
        boxes: In original pixels.

    Raises:
        ImageError: If the image is damaged.
    """
    found = []
    with SourceImage(path) as image:
        for crop in image.crops(boxes[:MAX_SHOWN]):
            crop.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
            stream = io.BytesIO()
            crop.save(stream, "JPEG", quality=88)
            found.append(stream.getvalue())
    return found


def _decode(text: str) -> bytes:
    if len(text) > MAX_TEXT:
        raise ImageError(
            f"Image too large: about {len(text) * 3 // 4 >> 20} MiB, at most {MAX_IMAGE_BYTES >> 20} MiB are allowed. "
            "Send a smaller copy or a JPEG."
        )
    beginning = _DATA_URI.match(text)
    try:
        content = text[beginning.end() if beginning else 0 :].encode("ascii").translate(None, _BLANKS)
        return base64.b64decode(content, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ImageError(
            "The image is not base64 or a data: URI. Paths and URLs are not opened; read the file and send its bytes."
        ) from error
