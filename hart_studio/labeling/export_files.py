"""Original images of an export: whether they are still what was imported, and their file names in the export."""

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
    """Make sure that the original is what was imported.

    Returns:
        The suffix of its format, kept as it was written when it is a usual one, and whether EXIF turns it.

    Raises:
        DataError: If it is gone or has changed.
        ImageError: If it cannot be decoded.
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
    """The folder that all files lie in, themselves or in its folders.

    Raises:
        InputError: If there is none, as on two drives.
    """
    try:
        return Path(os.path.commonpath([Path(path).parent for path in paths])) if paths else Path()
    except ValueError as error:  # relative and absolute ones, or two drives
        raise InputError("expected images below one folder, got two drives; export them apart") from error


def unique_names(files: Sequence[tuple[ImageFile, str]]) -> list[str]:
    """File names with different stems, whatever the case: label files are named after them."""
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
