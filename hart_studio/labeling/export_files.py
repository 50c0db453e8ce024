"""Check the original images of an export, and choose their file names."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hart_studio.errors import DataError, InputError
from hart_studio.files import from_stored_path, open_regular_file
from hart_studio.imaging import SourceImage
from hart_studio.labeling.records import ImageFile

_MAX_STEM_CHARS: Final = 80
_SUFFIXES: Final = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}


def check_image(file: ImageFile) -> tuple[str, bool]:
    """Check that an original image is unchanged since the import.

    Returns:
        Suffix of its format, kept as written when it is a common one, and whether EXIF rotates the image.

    Raises:
        DataError: If the file is gone or has changed.
        ImageError: If the image cannot be decoded.
    """
    digest = hashlib.sha256()
    try:
        with open_regular_file(from_stored_path(file.path), follow_symlinks=True) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError) as error:
        raise DataError("the image is gone or cannot be read") from error
    if digest.hexdigest() != file.sha256:
        raise DataError("the image has changed since it was imported")
    with SourceImage(file.path) as image:
        usual, is_rotated = _SUFFIXES[image.format], image.is_rotated
    suffix = from_stored_path(file.path).suffix.lower()
    return (suffix if suffix in usual else usual[0]), is_rotated


def common_folder(paths: Sequence[str]) -> Path:
    """Return the deepest folder that contains all files.

    Raises:
        InputError: If there is none, for instance with two drives.
    """
    try:
        return Path(os.path.commonpath([Path(path).parent for path in paths])) if paths else Path()
    except ValueError as error:  # relative and absolute paths, or two drives
        raise InputError(
            "The images are on two drives and have no common folder. Export them separately, or copy them."
        ) from error


def unique_names(files: Sequence[tuple[ImageFile, str]]) -> list[str]:
    """File names with case-insensitively unique stems, because label files are named after them."""
    stems = [
        re.sub(r"[^\w.-]+|^[.]+|[.]+$", "_", Path(file.path).stem)[:_MAX_STEM_CHARS] or "image" for file, _ in files
    ]
    count = Counter(stem.casefold() for stem in stems)
    used: set[str] = set()
    names = []
    for (file, suffix), stem in zip(files, stems, strict=True):
        wanted = stem if count[stem.casefold()] == 1 else f"{stem}-{file.sha256[:12]}"
        unique = wanted if wanted.casefold() not in used else f"{stem}-{file.sha256}"
        used.add(unique.casefold())
        names.append(f"{unique}{suffix}")
    return names
