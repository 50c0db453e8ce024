"""Read a zip like a folder: images and tables are unpacked below one folder."""

from __future__ import annotations

import errno
import hashlib
import io
import lzma
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Collection
from itertools import takewhile
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final, NamedTuple

from hart_studio.data.rows import InvalidRow
from hart_studio.errors import DataError, HartError
from hart_studio.files import open_regular_file, resolve_inside, write_atomically
from hart_studio.image_formats import HEADER_BYTES, SUPPORTED_FORMATS, detect_format
from hart_studio.imaging import DEFAULT_LIMITS
from hart_studio.labeling.source_detection import IMAGE_SUFFIXES, LABEL_SUFFIXES, MAX_FILES, is_system_file

ProgressCallback = Callable[[int, int], None]
"""Called with the processed and the total number of rows or files."""

MAX_BYTES: Final = 64 * 2**30
"""Maximum unpacked size of all files of an archive. Project default."""

MAX_RATIO: Final = 200
"""Maximum compression ratio of an entry; a higher one is treated as a zip bomb. Project default."""

MAX_NAME_CHARS: Final = 1000
"""Maximum length of a name with its folders. Project default."""

MAX_FOLDERS: Final = 32
"""Maximum folder depth of a file: each folder takes space that no size states. Project default."""

MAX_UNCHECKED_BYTES: Final = 256 * 2**20
"""Total unpacked size that is always allowed, independent of the archive size. Project default."""

MAX_CONTENTS_BYTES: Final = 256 * 2**20
"""Maximum size of the central directory of an archive, which is read as a whole. Project default."""

_SMALL_BYTES: Final = 1 << 20
"""Smaller entries are allowed at any compression ratio."""

_UNPACKING: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
_INVALID_NAME_ERRORS: Final = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ})
_MAX_STEM_CHARS: Final = 60


class UnpackedArchive(NamedTuple):
    """Unpacked files of an archive."""

    folder: Path
    """Folder with the files under their names in the archive."""
    invalid_rows: tuple[InvalidRow, ...]
    """Invalid entries and their reasons."""
    is_new: bool
    """Whether the folder is new."""


class _BoundedReader:
    """File wrapper that limits reads while ``zipfile`` reads the central directory, whose size the file states.

    The limit applies wherever ``zipfile`` reads that size from.

    Attributes:
        max_bytes: Maximum bytes per read; None = unlimited.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self.max_bytes: int | None = MAX_CONTENTS_BYTES
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def read(self, size: int = -1, /) -> bytes:
        """Read at most that many bytes; -1 = the rest.

        Raises:
            ValueError: If the limit is exceeded.
        """
        if self.max_bytes is not None:
            left = max(0, self._size - self._file.tell())
            size = left if size < 0 else min(size, left)
            if size > self.max_bytes:
                raise ValueError(f"central directory larger than {self.max_bytes >> 20} MiB")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Seek to a position, bytes."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position, bytes."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Return True: the file is a regular one."""
        return True


class ZipArchive:
    """An open zip. Files other than images and tables are ignored.

    Attributes:
        path: The file.
        files: Name in the archive, parts separated by ``/`` -> entry.
    """

    def __init__(self, path: Path) -> None:
        """Read the central directory.

        Raises:
            DataError: If the file is no zip, or too large.
        """
        self.path = path
        try:
            self._file = open_regular_file(path, follow_symlinks=True)
        except OSError as error:
            raise DataError(f"Cannot read the zip {path.name!r}: {error.strerror}. Check the path.") from error
        try:
            reader = _BoundedReader(self._file)
            self._archive = zipfile.ZipFile(reader)
            reader.max_bytes = None
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            self._file.close()
            raise DataError(f"{path.name!r} is not a valid zip file: {error}. Create it again.") from error
        self.files: dict[str, zipfile.ZipInfo] = {}
        self._invalid_rows: list[InvalidRow] = []
        entries = self._archive.infolist()
        for entry in entries[: MAX_FILES + 1]:
            name = PurePosixPath(entry.filename.replace("\\", "/")).as_posix()  # "./a" and "b//a" are "a" and "b/a"
            is_wanted = PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES | LABEL_SUFFIXES
            if entry.is_dir() or not is_wanted or is_system_file(name):
                continue
            if problem := self._find_problem(name):
                self._invalid_rows.append(InvalidRow(name[:MAX_NAME_CHARS], problem))
            else:
                self.files[name] = entry
        sizes = sum(entry.file_size for entry in self.files.values())
        packed = os.fstat(self._file.fileno()).st_size
        if sizes > max(MAX_UNCHECKED_BYTES, MAX_RATIO * packed):  # entries may share their packed bytes
            self._close()
            raise DataError(
                f"{path.name!r} unpacks to {sizes:,} bytes from {packed:,}, more than {MAX_RATIO} times its size. "
                "Zip the image files themselves."
            )
        if len(entries) > MAX_FILES or sizes > MAX_BYTES:
            self._close()
            raise DataError(
                f"{path.name!r} has more than {MAX_FILES:,} files or {MAX_BYTES >> 30} GiB. Split the archive."
            )

    def _find_problem(self, name: str) -> str:
        """Why a name is invalid; empty if it is valid."""
        if name in self.files:
            return "duplicate name"
        if len(name) > MAX_NAME_CHARS or name.count("/") > MAX_FOLDERS:
            return f"name of more than {MAX_NAME_CHARS:,} characters or in more than {MAX_FOLDERS} folders"
        return ""

    def __enter__(self) -> ZipArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._archive.close()
        self._file.close()

    @property
    def root(self) -> str:
        """Common folder of all files, ending in ``/``; empty if there is none."""
        folders = [name.split("/")[:-1] for name in self.files] or [[]]
        pairs = zip(min(folders), max(folders), strict=False)  # the prefix of the first and last is that of all
        root = [first for first, last in takewhile(lambda pair: pair[0] == pair[1], pairs)]
        return "".join(f"{part}/" for part in root) if not {"", ".", ".."} & set(root) else ""

    def list_folder(self, folder: str) -> Collection[str]:
        """Names of the files and folders in a folder of the archive; folders end in ``/``."""
        found = set()
        for name in self.files:
            if name.startswith(folder):
                first, slash, _ = name[len(folder) :].partition("/")
                found.add(first + slash)
        return found

    def unpack(self, cache: Path, progress: ProgressCallback | None = None) -> UnpackedArchive:
        """Unpack all files; files unpacked by an earlier import of the same archive are kept.

        Args:
            cache: Folder in which a folder for the archive is created, named after its content and name.
            progress: Called after each file.

        Raises:
            DataError: If the archive cannot be read.
            OSError: If the folder cannot be written.
        """
        with open_regular_file(self.path, follow_symlinks=True) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stem = re.sub(r"[^\w-]+", "_", self.path.stem)[:_MAX_STEM_CHARS] or "zip"
        folder = cache / digest[:16] / stem
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        invalid_rows = list(self._invalid_rows)
        try:
            for number, name in enumerate(self.files, start=1):
                try:
                    self.unpack_file(name, folder)
                except (ValueError, HartError) as error:
                    invalid_rows.append(InvalidRow(name, str(error)))
                if progress:
                    progress(number, len(self.files))
        except OSError:  # most likely a full disk
            if is_new:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return UnpackedArchive(folder, tuple(invalid_rows), is_new)

    def unpack_table(self, name: str, folder: Path) -> Path:
        """Extract one file that the detection needs.

        Raises:
            DataError: If it cannot be unpacked.
            OSError: If it cannot be written.
        """
        try:
            return self.unpack_file(name, folder)
        except (ValueError, HartError) as error:
            raise DataError(f"Cannot read the table {name!r} in {self.path.name!r}: {error}. Repair it.") from error

    def unpack_file(self, name: str, folder: Path) -> Path:
        """Unpack one file under its name; an existing file is kept.

        Raises:
            InputError: If the name leads out of the folder.
            ValueError: If it cannot be unpacked, is a zip bomb, or is no image despite its name.
            OSError: If it cannot be written.
        """
        entry = self.files[name]
        path = resolve_inside(folder, name)
        try:
            if path.is_file() and path.stat().st_size == entry.file_size:
                return path
            data = self.read(name)
            if path.suffix.lower() in IMAGE_SUFFIXES:
                _check_kind(data[:HEADER_BYTES])
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            if error.errno in _INVALID_NAME_ERRORS:
                raise ValueError(f"invalid file name: {error.strerror}") from error
            raise
        return path

    def check_member(self, name: str) -> None:
        """Check by its first bytes that a file is an image.

        Raises:
            ValueError: If it is no image, or cannot be unpacked.
        """
        try:
            with self._archive.open(self.files[name]) as file:
                _check_kind(file.read(HEADER_BYTES))
        except _UNPACKING as error:
            raise ValueError(f"cannot be unpacked: {error}") from error

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            ValueError: If it cannot be unpacked, or is a zip bomb.
        """
        entry = self.files[name]
        limit = DEFAULT_LIMITS.max_bytes
        is_bomb = entry.file_size > max(_SMALL_BYTES, MAX_RATIO * entry.compress_size)
        if entry.file_size > limit or is_bomb:
            raise ValueError(
                f"unpacks to {entry.file_size:,} bytes, more than an image or table of that packed size can have"
            )
        try:
            with self._archive.open(entry) as file:
                data = file.read(limit + 1)  # the size in the header is untrusted
        except _UNPACKING as error:  # damaged, or with a password
            raise ValueError(f"cannot be unpacked: {error}") from error
        if len(data) > limit:
            raise ValueError(f"unpacks to more than {limit:,} bytes")
        return data


def _check_kind(head: bytes) -> None:
    if (kind := detect_format(head)) not in SUPPORTED_FORMATS:
        raise ValueError(f"expected one of {', '.join(SUPPORTED_FORMATS)}, got {kind or 'data that is no image'}")
