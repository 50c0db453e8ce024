"""Pictures without a table: a folder, or a zip, and one question that is asked about each."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from hart_studio.data.embedded_pictures import keep_picture
from hart_studio.data.rows import LoadedSamples, collect_samples
from hart_studio.errors import DataError
from hart_studio.imaging import DEFAULT_LIMITS
from hart_studio.records import Sample

MOST_FILES: Final = 200_000
"""Files of one folder or archive that are looked at (ours)."""

MOST_BYTES: Final = 64 * 2**30
"""Size of all pictures of an archive together, unpacked (ours)."""

_UNPACKING: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)

MOST_RATIO: Final = 200
"""An entry that unpacks to more than this many times its packed size is a bomb, not a picture (ours)."""

ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
"""Files with another ending are passed over; the content decides in the end."""


def load_picture_folder(folder: Path, question: str, choices: Sequence[str] = ()) -> LoadedSamples[Sample]:
    """Ask one question about every picture below a folder.

    Args:
        folder: Searched with its subfolders; links are not followed.
        question: ``{name}`` in it stands for the file's name without its ending, ``{folder}`` for that of its folder.
        choices: Option texts without letters.

    Raises:
        DataError: If there is no such folder, no picture in it, or too many files.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise DataError(f"expected a folder of pictures, got {folder}; check the path")

    def read(path: Path) -> Sample:
        return _ask(str(path.relative_to(root)), str(path), question, choices, root.name)

    return collect_samples(
        root.name, ((str(path.relative_to(root)), path) for path in _find(root)), read, needs_answer=False
    )


def load_picture_zip(path: Path, cache: Path, question: str, choices: Sequence[str] = ()) -> LoadedSamples[Sample]:
    """Ask one question about every picture in a zip.

    Nothing is unpacked by its name: a picture is written to the cache under its content, so no name can lead anywhere.

    Args:
        path: The archive.
        cache: Folder for the pictures, made when missing.
        question: As for ``load_picture_folder``.
        choices: Option texts without letters.

    Raises:
        DataError: If it is no zip, holds no picture, or is too large.
    """
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if Path(entry.filename).suffix.lower() in ENDINGS]
            if len(entries) > MOST_FILES or sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise DataError(
                    f"expected at most {MOST_FILES:,} pictures and {MOST_BYTES >> 30} GiB in {path.name!r}, got more; "
                    "split the archive"
                )

            def read(entry: zipfile.ZipInfo) -> Sample:
                picture = keep_picture(_unpack(archive, entry), cache)
                return _ask(entry.filename, picture, question, choices, path.stem)

            rows = [(entry.filename, entry) for entry in entries]
            return collect_samples(path.stem, rows, read, needs_answer=False)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"expected a zip of pictures at {path.name!r}, got: {error}; pack it again") from error


def _find(root: Path) -> Iterator[Path]:
    found = 0
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in ENDINGS and path.is_file() and not path.is_symlink():
            found += 1
            if found > MOST_FILES:
                raise DataError(f"expected at most {MOST_FILES:,} pictures in {root}, got more; split the folder")
            yield path


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    limit = DEFAULT_LIMITS.max_bytes
    if entry.file_size > limit or entry.file_size > MOST_RATIO * max(1, entry.compress_size):
        raise ValueError(f"unpacks to {entry.file_size:,} bytes, which no such picture has")
    try:
        with archive.open(entry) as file:
            data = file.read(limit + 1)  # what the header says is not to be trusted
    except (*_UNPACKING, RuntimeError, NotImplementedError) as error:  # damaged, or with a password
        raise ValueError(f"cannot be unpacked: {error}") from error
    if len(data) > limit:
        raise ValueError(f"unpacks to more than {limit:,} bytes")
    return data


def _ask(name: str, image: str, question: str, choices: Sequence[str], source: str) -> Sample:
    """The template is filled by replacement, not by ``format``, which would let a template reach into objects."""
    path = Path(name)
    text = question.replace("{name}", path.stem).replace("{folder}", path.parent.name)
    return Sample(id=name, image=image, question=text, choices=tuple(choices), source=source)
