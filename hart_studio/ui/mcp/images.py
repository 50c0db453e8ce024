"""Images that travel inside a message: from base64 to a file of the server's own, and crops back.

A client sends pixels, never a path or an address: the server would open or fetch it in the client's place.
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
"""Largest image, project default; an 8192 x 5460 JPEG has about 15 MB."""

MAX_TEXT: Final = MAX_IMAGE_BYTES // 3 * 4 + 4096
"""Characters of the largest image in base64, with room for the beginning of a ``data:`` URI and line breaks."""

MAX_SHOWN: Final = 4
"""Crops that are sent back, project default; a model reads each of them."""

SHOWN_SIDE: Final = 1024
"""Greatest side of a crop that is sent back, pixels; smaller ones are sent at native resolution."""

_DATA_URI: Final = re.compile(r"data:[\w.+/-]{0,64}(?:;[\w.+=-]{1,64}){0,4};base64,", re.IGNORECASE | re.ASCII)
_BLANKS: Final = b" \t\r\n"


@contextmanager
def open_base64_image(text: str, folder: Path) -> Iterator[Path]:
    """An image from a message as a file, which is gone after the block.

    Args:
        text: The file's bytes as a ``data:`` URI, or in base64 alone. What the URI says of its kind is not believed:
            ``imaging`` looks at the content.
        folder: The service's own.

    Raises:
        ImageError: If it is too large, or no base64.
    """
    data = _decode(text)
    with tempfile.TemporaryDirectory(prefix="received-", dir=folder) as place:
        path = Path(place) / "picture"
        path.write_bytes(data)
        yield path


def cut_crops(path: Path, boxes: Sequence[Box]) -> list[bytes]:
    """The first few regions as JPEG, for the reader of an answer to see what it rests on.

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
            f"expected an image of at most {MAX_IMAGE_BYTES >> 20} MiB, got about {len(text) * 3 // 4 >> 20} MiB; "
            "send a smaller copy or save it as JPEG"
        )
    beginning = _DATA_URI.match(text)
    try:
        content = text[beginning.end() if beginning else 0 :].encode("ascii").translate(None, _BLANKS)
        return base64.b64decode(content, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ImageError(
            "expected the image's bytes in base64 or as a data: URI, got something else; paths and addresses are "
            "not opened here: read the file, and send what is in it"
        ) from error
