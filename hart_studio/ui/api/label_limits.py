"""Limits of a ``LabelApi``: none for users of their own machine, many for visitors who share one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gradio.utils import get_upload_folder

from hart_studio.errors import InputError
from hart_studio.files import open_regular_file
from hart_studio.imaging import DEFAULT_LIMITS, ImageLimits
from hart_studio.labeling.review import MAX_BOXES
from hart_studio.labeling.source_detection import TABLES
from hart_studio.labeling.sources import KINDS, detect_source_kind, is_zip
from hart_studio.labeling.zip_archives import ZipArchive

_HOW: Final = (
    "Upload a zip of images, with or without a table of questions, or a table with base64 images in its image column."
)


@dataclass(frozen=True)
class LabelLimits:
    """What the users of a ``LabelApi`` may store, read and run; None = no limit."""

    images: ImageLimits = DEFAULT_LIMITS
    """Limits of image size and format."""
    max_projects: int | None = None
    """Projects."""
    max_items: int | None = None
    """Questions in all projects."""
    max_bytes: int | None = None
    """Stored bytes above which nothing is imported or copied."""
    max_kept_bytes: int | None = None
    """Stored bytes, with exports, above which nothing is created."""
    endings: tuple[str, ...] = ()
    """Accepted types of uploaded files, also inside a zip; empty = any source, also files of this machine."""
    kinds: tuple[str, ...] = KINDS
    """Accepted source types."""
    max_source_bytes: int | None = None
    """Bytes of one uploaded file, and of the unpacked tables in a zip."""
    max_lines: int | None = None
    """Lines of one table, and files in a zip."""
    max_rollouts: int = 64
    """Rollouts per question."""
    max_boxes: int = MAX_BOXES
    """Boxes per question; each is one more image for the model."""
    max_checks: int | None = None
    """Verifications of drawn boxes, one running and the others waiting."""
    keeps_images: bool = True
    """Whether the decoded original of the open item stays in memory."""
    keeps_trash: bool = True
    """Whether deleted projects go to the trash instead of being removed permanently."""
    can_pause: bool = True
    """Whether runs can be paused."""
    reserve_run: Callable[[], AbstractContextManager[None]] = nullcontext
    """Holds the right to start a run; raises ``InputError`` if another one is active."""
    check_imports: Callable[[], None] = lambda: None
    """Raises ``InputError`` if too many imports are running."""

    def check_projects(self, count: int) -> None:
        """Raise unless one more project may be created."""
        if self.max_projects is not None and count >= self.max_projects:
            raise InputError(
                f"At most {self.max_projects} projects per visitor are allowed. Use or delete an existing one."
            )

    def check_storage(self, root: Path) -> None:
        """Raise if the storage below a folder is full."""
        if self.max_kept_bytes is not None and _count_bytes(root) > self.max_kept_bytes:
            raise InputError(
                f"Storage full: at most {self.max_kept_bytes >> 20} MiB per visitor, with exports. Download your "
                "exports and continue in a new browser tab."
            )

    def check_copy(self, root: Path, folder: Path) -> None:
        """Raise unless a copy of a folder may be stored below the root."""
        if self.max_bytes is not None and _count_bytes(root) + _count_bytes(folder) > self.max_bytes:
            raise InputError(
                f"A copy would exceed the limit of {self.max_bytes >> 20} MiB per visitor. Delete a project first."
            )

    def check_rollouts(self, count: int) -> None:
        """Raise unless a run may have so many rollouts per question."""
        if count > self.max_rollouts:
            raise InputError(f"At most {self.max_rollouts} rollouts per question are allowed here, got {count}.")

    def check_source(self, source: str) -> str:
        """Check a source and the contents of its archive.

        Args:
            source: Untrusted: a path, a Hub id or a URL.

        Returns:
            The source; for uploads the path without links.

        Raises:
            InputError: If it is empty, or where only uploads are accepted, it is something else or too large.
        """
        source = source.strip()
        if not source:
            raise InputError("No source. Enter a file, folder or Hub id, or upload a file.")
        if not self.endings:
            return source
        try:
            file = Path(source).resolve(strict=True)
            is_uploaded = Path(get_upload_folder()).resolve() in file.parents and file.is_file()
            size = file.stat().st_size
        except (OSError, ValueError, RuntimeError):
            is_uploaded, size = False, 0
        if not is_uploaded or Path(source).suffix.lower() not in self.endings:
            raise InputError(f"Only uploaded files of type {', '.join(self.endings)} can be imported here. {_HOW}")
        self._check_size(size, "File", "it")
        if is_zip(file):
            with ZipArchive(file) as archive:
                self._check_archive(archive)
        else:
            with open_regular_file(file) as lines:
                self._check_lines(iter(lambda: lines.read(1 << 20), b""))
        return str(file)

    def check_import(self, root: Path, source: str, kind: str) -> str:
        """Check an import that is about to start.

        Args:
            root: Folder of all projects.
            source: From ``check_source``.
            kind: Source type, or ``auto``.

        Returns:
            The source type; where not all are accepted, the detected one.

        Raises:
            InputError: If the type is not accepted, or the stored bytes would exceed the limit.
        """
        if self.kinds != KINDS:
            kind = detect_source_kind(source) if kind == "auto" else kind
            if kind not in self.kinds or (kind == "images" and not is_zip(Path(source))):
                raise InputError(f"Source type {kind!r} is not supported here. {_HOW}")
        if self.max_bytes is None:
            return kind
        size = Path(source).stat().st_size
        if is_zip(Path(source)):  # entries are never read beyond their stated size
            with ZipArchive(Path(source)) as archive:
                size = sum(entry.file_size for entry in archive.files.values())
        total = _count_bytes(root) + size
        if total > self.max_bytes:
            raise InputError(
                f"At most {self.max_bytes >> 20} MiB per visitor are allowed, this would be {total >> 20} MiB. "
                "Import less."
            )
        return kind

    def _check_archive(self, archive: ZipArchive) -> None:
        """Check the number of files and the unpacked size of the tables in a zip."""
        if self.max_lines is not None and len(archive.files) > self.max_lines:
            raise InputError(
                f"Too many files in the zip: {len(archive.files):,}, at most {self.max_lines:,} are allowed. Split it."
            )
        tables = [name for name in archive.files if Path(name).suffix.lower() in TABLES]
        for name in tables:
            if Path(name).suffix.lower() not in self.endings:
                raise InputError(f"{name!r} in the zip is not supported. Only images and tables (CSV, TSV, JSONL) are.")
        self._check_size(sum(archive.files[name].file_size for name in tables), "Tables in the zip", "them")
        for name in tables:
            with suppress(ValueError):  # damaged; reported by other checks
                self._check_lines([archive.read(name)])

    def _check_size(self, size: int, what: str, those: str) -> None:
        if self.max_source_bytes is not None and size > self.max_source_bytes:
            raise InputError(
                f"{what} too large: {size >> 20} MiB, at most {self.max_source_bytes >> 20} MiB are allowed. "
                f"Split {those}."
            )

    def _check_lines(self, blocks: Iterable[bytes]) -> None:
        if self.max_lines is not None and sum(block.count(b"\n") for block in blocks) > self.max_lines:
            raise InputError(f"Table too long: at most {self.max_lines:,} lines are allowed. Split it.")


def _count_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; files that disappear are ignored."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total
