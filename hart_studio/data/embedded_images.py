"""Convert images in table cells (bytes, base64 text or paths) to files named by content."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, Final

from hart_studio.data.rows import resolve_image_path
from hart_studio.files import from_stored_path, to_stored_path, write_atomically
from hart_studio.image_formats import HEADER_BYTES, SUPPORTED_FORMATS, detect_format

_MAX_NAME_CHARS: Final = 1024
"""Maximum length of a path."""


def resolve_image(value: Any, root: Path, cache: Path) -> str:
    """Return the path of the image in a cell; bytes are written to the cache.

    Args:
        value: Bytes, base64 text, a path, or an image feature with one of these.
        root: Folder that must contain the paths.
        cache: Folder for images given as bytes.

    Raises:
        ValueError: If it is not an image, or is missing.
        InputError: If a path is outside the folder.
    """
    if isinstance(value, dict):  # an image feature: bytes, or the path of a file
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return store_image(value, cache)
    if not isinstance(value, str):
        raise ValueError(f"expected an image, got {type(value).__name__}")
    decoded = _decode_base64(value)
    if detect_format(decoded[:HEADER_BYTES]) in SUPPORTED_FORMATS:  # a path can be valid base64, but not an image
        return store_image(decoded, cache)
    if len(value) > _MAX_NAME_CHARS:
        raise ValueError("expected an image, got text that is neither a base64 image nor a path")
    path = from_stored_path(value)
    if not path.is_absolute():
        return resolve_image_path(root, value)
    try:
        return resolve_image_path(root, str(path.resolve().relative_to(root.resolve())))
    except ValueError as error:
        raise ValueError(f"image not found in {root}, or outside of it") from error


def _decode_base64(text: str) -> bytes:
    """Decode base64 text; empty if it is invalid."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return b""


def store_image(data: bytes, cache: Path) -> str:
    """Write an image into a folder, named by its content, once; return its absolute path.

    Raises:
        ValueError: If the format is not supported.
    """
    kind = detect_format(data[:HEADER_BYTES])
    if kind not in SUPPORTED_FORMATS:
        raise ValueError(f"expected one of {', '.join(SUPPORTED_FORMATS)}, got {kind or 'data that is not an image'}")
    path = cache / f"{hashlib.sha256(data).hexdigest()[:32]}.{kind.lower()}"
    if not path.is_file():
        write_atomically(path, data)
    return to_stored_path(path.resolve())
