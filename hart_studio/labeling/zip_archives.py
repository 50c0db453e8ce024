"""A zip as the folder that was packed into it: images and tables, written below one folder and nowhere else."""

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
"""Called with the rows or files done, and with those in all."""

MAX_BYTES: Final = 64 * 2**30
"""Size of all files of an archive together, unpacked (project default)."""

MAX_RATIO: Final = 200
"""An entry that unpacks to more than this many times its packed size is a bomb, not an image or a table (project
default)."""

MAX_NAME_CHARS: Final = 1000
"""Characters of a name with its folders (project default)."""

MAX_FOLDERS: Final = 32
"""Folders that a file lies in, one in the other: each is made, and costs room that no size states (project default)."""

MAX_UNCHECKED_BYTES: Final = 256 * 2**20
"""All files of an archive together may have this size, whatever the size of the archive (project default)."""

MAX_CONTENTS_BYTES: Final = 256 * 2**20
"""Size of the table of contents of an archive, which is read as a whole (project default)."""

_SMALL_BYTES: Final = 1 << 20
"""What is no larger harms no one, however well it was packed."""

_UNPACKING: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
_INVALID_NAME_ERRORS: Final = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ})
_MAX_STEM_CHARS: Final = 60


class UnpackedArchive(NamedTuple):
    """Files of an archive in a folder."""

    folder: Path
    """Holds them under their names in the archive."""
    invalid_rows: tuple[InvalidRow, ...]
    """Entries that could not be used, and why."""
    is_new: bool
    """Whether the folder was not there before."""


class _BoundedReader:
    """An open file whose reads are bounded while ``zipfile`` reads the table of contents, whose size the file states.

    The bound holds wherever ``zipfile`` finds that size.

    Attributes:
        max_bytes: Largest read, bytes; None = any.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self.max_bytes: int | None = MAX_CONTENTS_BYTES
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def read(self, size: int = -1, /) -> bytes:
        """Read at most that many bytes; -1 = all that are left.

        Raises:
            ValueError: If they are more than the bound.
        """
        if self.max_bytes is not None:
            left = max(0, self._size - self._file.tell())
            size = left if size < 0 else min(size, left)
            if size > self.max_bytes:
                raise ValueError(f"a table of contents of more than {self.max_bytes >> 20} MiB")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position, bytes."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position, bytes."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Always: the file is a regular one."""
        return True


class ZipArchive:
    """An open zip. What is neither an image nor a table of labels is passed over.

    Attributes:
        path: The file.
        files: Name in the archive, parts separated by ``/`` -> entry.
    """

    def __init__(self, path: Path) -> None:
        """Read the table of contents.

        Raises:
            DataError: If it is no zip, or holds too much.
        """
        self.path = path
        try:
            self._file = open_regular_file(path, follow_symlinks=True)
        except OSError as error:
            raise DataError(f"expected a zip at {path.name!r}, got: {error.strerror}; check the path") from error
        try:
            reader = _BoundedReader(self._file)
            self._archive = zipfile.ZipFile(reader)
            reader.max_bytes = None
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            self._file.close()
            raise DataError(f"expected a zip at {path.name!r}, got: {error}; pack it again") from error
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
                f"expected files of at most {MAX_RATIO} times the size of {path.name!r}, got {sizes:,} bytes from "
                f"{packed:,}; pack the images themselves"
            )
        if len(entries) > MAX_FILES or sizes > MAX_BYTES:
            self._close()
            raise DataError(
                f"expected at most {MAX_FILES:,} files and {MAX_BYTES >> 30} GiB in {path.name!r}, got more; "
                "split the archive"
            )

    def _find_problem(self, name: str) -> str:
        """Why a name is no use; empty when it is."""
        if name in self.files:
            return "a name that an earlier file of the zip has"
        if len(name) > MAX_NAME_CHARS or name.count("/") > MAX_FOLDERS:
            return f"a name of more than {MAX_NAME_CHARS:,} characters, or in more than {MAX_FOLDERS} folders"
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
        """The folder in the archive that everything lies in, ending in ``/``; empty when there is no such one."""
        folders = [name.split("/")[:-1] for name in self.files] or [[]]
        pairs = zip(min(folders), max(folders), strict=False)  # what these two share, all that lie between them do
        root = [first for first, last in takewhile(lambda pair: pair[0] == pair[1], pairs)]
        return "".join(f"{part}/" for part in root) if not {"", ".", ".."} & set(root) else ""

    def list_folder(self, folder: str) -> Collection[str]:
        """Names of the files and folders in a folder of the archive, folders with ``/`` at the end."""
        found = set()
        for name in self.files:
            if name.startswith(folder):
                first, slash, _ = name[len(folder) :].partition("/")
                found.add(first + slash)
        return found

    def unpack(self, cache: Path, progress: ProgressCallback | None = None) -> UnpackedArchive:
        """Write every file, once: what an earlier import of the same archive has written stays.

        Args:
            cache: Gets a folder for the archive, named after its content and its name.
            progress: Told after each file.

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
        except OSError:  # the disk is full, most likely
            if is_new:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return UnpackedArchive(folder, tuple(invalid_rows), is_new)

    def unpack_table(self, name: str, folder: Path) -> Path:
        """Write one file that nothing can be told without.

        Raises:
            DataError: If it cannot be unpacked.
            OSError: If it cannot be written.
        """
        try:
            return self.unpack_file(name, folder)
        except (ValueError, HartError) as error:
            raise DataError(f"expected a table at {name!r} in {self.path.name!r}, got: {error}; repair it") from error

    def unpack_file(self, name: str, folder: Path) -> Path:
        """Write one file under its name; one that is there already stays.

        Raises:
            InputError: If its name leads out of the folder.
            ValueError: If it cannot be unpacked, is a bomb, or is no image although its name says so.
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
                raise ValueError(f"a name that no file can have here: {error.strerror}") from error
            raise
        return path

    def check_member(self, name: str) -> None:
        """See, from its first bytes, that a file is an image.

        Raises:
            ValueError: If it is none, or cannot be unpacked.
        """
        try:
            with self._archive.open(self.files[name]) as file:
                _check_kind(file.read(HEADER_BYTES))
        except _UNPACKING as error:
            raise ValueError(f"cannot be unpacked: {error}") from error

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            ValueError: If it cannot be unpacked, or is a bomb.
        """
        entry = self.files[name]
        limit = DEFAULT_LIMITS.max_bytes
        is_bomb = entry.file_size > max(_SMALL_BYTES, MAX_RATIO * entry.compress_size)
        if entry.file_size > limit or is_bomb:
            raise ValueError(f"unpacks to {entry.file_size:,} bytes, which no such image or table has")
        try:
            with self._archive.open(entry) as file:
                data = file.read(limit + 1)  # what the header says is not to be trusted
        except _UNPACKING as error:  # damaged, or with a password
            raise ValueError(f"cannot be unpacked: {error}") from error
        if len(data) > limit:
            raise ValueError(f"unpacks to more than {limit:,} bytes")
        return data


def _check_kind(head: bytes) -> None:
    if (kind := detect_format(head)) not in SUPPORTED_FORMATS:
        raise ValueError(f"expected one of {', '.join(SUPPORTED_FORMATS)}, got {kind or 'data that is no image'}")
