"""Resolve the images of benchmark rows, and create ids for rows without one."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hart_studio.data.cells import resolve_image
from hart_studio.data.rows import resolve_image_path

CACHE_VARIABLE: Final = "HART_STUDIO_CACHE"
"""Environment variable with the folder for images embedded in benchmark tables."""

_ID_CHARS = 12


def image_cache_folder(benchmark: str) -> Path:
    """Folder for the images of a benchmark's tables, shared by all evaluations; files are named by content."""
    root = os.environ.get(CACHE_VARIABLE) or str(Path("~/.cache/hart-studio").expanduser())
    return Path(root) / "images" / benchmark


@dataclass(frozen=True)
class ImageResolver:
    """Resolver of images that rows name or contain.

    Attributes:
        root: Base folder of paths; paths cannot leave it.
        cache: Folder for images stored as bytes or base64 text; it must exist. None: such rows are invalid.
    """

    root: Path
    cache: Path | None = None

    def locate(self, value: Any) -> str:
        """Return the path of the image in a cell; an embedded image is written to the cache.

        Raises:
            ValueError: If it is not an image, or is missing.
            InputError: If a path is outside the root.
        """
        if self.cache is None:
            return resolve_image_path(self.root, value)
        return resolve_image(value, self.root, self.cache)


def content_id(*parts: str) -> str:
    """Short id from the content of a row, independent of other rows."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="backslashreplace")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:_ID_CHARS]
