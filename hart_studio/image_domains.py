"""Image domain of a file, read from a digest in the file itself.

Images that this project draws carry a JPEG comment with the name of their domain and a SHA-256 of all other bytes of
the file. A file name, a dataset name or a copied comment is not evidence: a photograph has no such digest, and an image
that was edited or encoded again no longer matches its own. The digest has no key. It protects against mistakes, and
not against deliberate forgery.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from hart_studio.files import from_stored_path, open_regular_file

NEEDLE: Final = "needle"
"""Scenes that ``hart_studio.needle`` draws with its default scene settings."""

NEEDLE_CUSTOM: Final = "needle-custom"
"""Scenes that ``hart_studio.needle`` draws with any other settings, for example smaller objects or more clutter."""

DOMAIN_TITLES: Final = {
    NEEDLE: "synthetic needle scenes",
    NEEDLE_CUSTOM: "synthetic needle scenes with non-default settings",
}
"""Image domain -> display name."""

CALIBRATED_DOMAINS: Final = (NEEDLE,)
"""Image domains whose images all have one distribution, so that a calibration can be valid for them."""

_SUPPORTED_DOMAINS: Final = {NEEDLE: (NEEDLE, NEEDLE_CUSTOM)}

_COMMENT: Final = re.compile(rb"HART Studio image; domain=([a-z-]{1,32}); sha256=([0-9a-f]{64})")
_START: Final = b"\xff\xd8"
_JFIF: Final = b"\xff\xe0"
_COMMENT_MARKER: Final = b"\xff\xfe"
_HEAD_BYTES: Final = 1024
_READ_BYTES: Final = 1 << 20


class _Segment(NamedTuple):
    """A comment segment of a JPEG: its position and its fields."""

    start: int
    end: int
    domain: str
    digest: str


def embed_domain(jpeg: bytes, domain: str) -> bytes:
    """Insert the comment that names the image domain; pixels do not change.

    Args:
        jpeg: A JPEG file without such a comment.
        domain: A key of ``DOMAIN_TITLES``.

    Returns:
        The bytes of the file with the comment.

    Raises:
        ValueError: If it is not a JPEG, or there is no such domain.
    """
    if not jpeg.startswith(_START) or domain not in DOMAIN_TITLES:
        raise ValueError(f"expected a JPEG and a domain of {', '.join(DOMAIN_TITLES)}, got {domain!r}")
    text = f"HART Studio image; domain={domain}; sha256={hashlib.sha256(jpeg).hexdigest()}".encode()
    offset = _end_of_jfif(jpeg)
    return jpeg[:offset] + _COMMENT_MARKER + (len(text) + 2).to_bytes(2, "big") + text + jpeg[offset:]


def supported_domains(made_for: str) -> tuple[str, ...]:
    """Image domains that a model supports: the domain it was trained for, and variants of it.

    Args:
        made_for: A key of ``DOMAIN_TITLES``; empty for a model without such a limit.

    Returns:
        Keys of ``DOMAIN_TITLES``; none for an empty ``made_for``.
    """
    return _SUPPORTED_DOMAINS.get(made_for, (made_for,) if made_for else ())


def read_image_domain(path: Path | str) -> str:
    """Read the image domain of a file.

    The whole file is read only if it has the comment; any other image costs one read of its first kilobyte.

    Args:
        path: The image, in the form of ``files.to_stored_path``.

    Returns:
        A key of ``DOMAIN_TITLES``; empty for every other image, and for a file that cannot be read.
    """
    try:
        with open_regular_file(from_stored_path(path), follow_symlinks=True) as stream:
            return read_stream_domain(stream)
    except (OSError, ValueError):  # missing, no permission, NUL in the name
        return ""


def read_stream_domain(stream: BinaryIO) -> str:
    """Read the image domain of an open file, from its start; see ``read_image_domain``."""
    segment = _find_comment(stream.read(_HEAD_BYTES))
    if segment is None or _hash_without(stream, segment) != segment.digest:
        return ""
    return segment.domain


def _end_of_jfif(head: bytes) -> int:
    """Offset after the start marker and the JFIF segment, which must come first if present."""
    if head[2:4] != _JFIF:
        return 2
    return 4 + int.from_bytes(head[4:6], "big")


def _find_comment(head: bytes) -> _Segment | None:
    start = _end_of_jfif(head)
    if not head.startswith(_START) or head[start : start + 2] != _COMMENT_MARKER:
        return None
    end = start + 2 + int.from_bytes(head[start + 2 : start + 4], "big")
    found = _COMMENT.fullmatch(head[start + 4 : end])
    if found is None or found[1].decode() not in DOMAIN_TITLES:
        return None
    return _Segment(start, end, found[1].decode(), found[2].decode())


def _hash_without(stream: BinaryIO, segment: _Segment) -> str:
    """SHA-256 of a file without one segment."""
    stream.seek(0)
    digest = hashlib.sha256(stream.read(segment.start))
    stream.seek(segment.end)
    while block := stream.read(_READ_BYTES):
        digest.update(block)
    return digest.hexdigest()
