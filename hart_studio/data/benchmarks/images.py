"""Where the images of a benchmark's rows are, and ids for rows that have none of their own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart_studio.data.embedded_images import resolve_image
from hart_studio.data.rows import resolve_image_path

_ID_CHARS = 12


@dataclass(frozen=True)
class ImageResolver:
    """The images that rows name or hold.

    Attributes:
        root: Folder that paths start from and never leave.
        cache: Folder for images that rows hold as bytes or base64 text; it must exist. None: such rows are bad ones.
    """

    root: Path
    cache: Path | None = None

    def locate(self, value: Any) -> str:
        """The path of the image in a cell, written to the cache first when the cell holds the image itself.

        Raises:
            ValueError: If it is no image, or is missing.
            InputError: If a path leads out of the root.
        """
        if self.cache is None:
            return resolve_image_path(self.root, value)
        return resolve_image(value, self.root, self.cache)


def content_id(*parts: str) -> str:
    """A short id from what a row says, the same in every reading whatever rows stand before it."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="backslashreplace")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:_ID_CHARS]
