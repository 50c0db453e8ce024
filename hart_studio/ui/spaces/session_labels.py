"""Label API of one Space visitor: uploaded files only, with limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final

from gradio.utils import get_upload_folder

from hart_studio.errors import HartError, InputError
from hart_studio.files import open_regular_file
from hart_studio.imaging import DEFAULT_LIMITS, ImageLimits
from hart_studio.labeling.connection_pool import CONNECTION_POOL
from hart_studio.labeling.project import RUNS, Project
from hart_studio.labeling.project_locks import is_run_active
from hart_studio.labeling.source_detection import TABLES
from hart_studio.labeling.sources import detect_source_kind, is_zip
from hart_studio.labeling.zip_archives import ZipArchive
from hart_studio.runs.launcher import stop_run
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import RunSummary, list_runs
from hart_studio.ui.api.labels import LabelApi, RunRequest, read_request
from hart_studio.ui.security.model_allowlist import ModelAllowlist

MAX_PROJECTS: Final = 3
"""Projects per visitor. Project default, like all limits here: visitors share disk and CPU of the Space."""

MAX_ITEMS: Final = 200
"""Questions per visitor."""

MAX_BYTES: Final = 256 << 20
"""Stored bytes per visitor above which no images are imported."""

MAX_KEPT_BYTES: Final = 2 * MAX_BYTES
"""Stored bytes per visitor, with exports, above which nothing is created."""

MAX_SOURCE_BYTES: Final = 64 << 20
"""Bytes of one imported file."""

MAX_LINES: Final = 5000
"""Rows of one table."""

MAX_ROLLOUTS: Final = 8
"""Rollouts per question."""

ENDINGS: Final = (".zip", ".csv", ".tsv", ".jsonl")
"""Accepted file types, also inside a zip. All but zip are plain text, so they do not expand."""

KINDS: Final = ("auto", "images", "table", "questions")
"""Accepted source types: those that contain their images. Others could name images on this machine."""

BUSY: Final = (
    "Another labeling run, yours or another visitor's, is active, and only one can run at a time. Nothing is lost. Try "
    "again in a few minutes."
)
"""Error if a run is active."""

_END_SECONDS: Final = 2.0


class SessionLabelApi(LabelApi):
    """Label API of one visitor."""

    def __init__(
        self,
        root: Path,
        allowed: ModelAllowlist,
        reserve: Callable[[], AbstractContextManager[None]],
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        """Create the API; the root is created with the first project.

        Args:
            root: Folder of the visitor's projects.
            allowed: Allowed models.
            reserve: Context manager for the right to start a run; raises ``InputError`` if one is active.
            limits: Limits of image size and format.
        """
        super().__init__(root, allowed=allowed, max_items=MAX_ITEMS, limits=limits)
        self._reserve = reserve

    def create(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Create a project.

        Raises:
            InputError: If the name is invalid, or there are too many projects.
        """
        self._check_count()
        return super().create(request)

    def check_duplicate(self, project: Project) -> None:
        """Raise if a copy of a project would exceed the limits.

        Raises:
            InputError: If there are too many projects, questions or bytes.
        """
        self._check_count()
        super().check_duplicate(project)
        if count_bytes(self.root) + count_bytes(project.folder) > MAX_BYTES:
            raise InputError(
                f"A copy would exceed the limit of {MAX_BYTES >> 20} MiB per visitor. Delete a project first."
            )

    def _check_count(self) -> None:
        if len(self.projects({})) >= MAX_PROJECTS:
            raise InputError(f"At most {MAX_PROJECTS} projects per visitor are allowed. Use or delete an existing one.")

    def start_import(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Start an import of an uploaded file that contains its images.

        Raises:
            InputError: If it is another type of file or too large.
        """
        source = self._find_source(request.get("source"))
        asked = str(request.get("kind") or "auto")
        kind = detect_source_kind(source) if asked == "auto" else asked
        if kind not in KINDS or (kind == "images" and not is_zip(Path(source))):
            raise InputError(f"Source type {kind!r} is not supported here. {_HOW}")
        self._check_bytes(Path(source))
        return super().start_import({**request, "kind": kind, "image_root": ""})

    def preview_source(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Preview an uploaded file; other files of this machine are not readable."""
        return super().preview_source({**request, "image_root": ""})

    def start(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Create and start a labeling run.

        Raises:
            InputError: If a run of any visitor is active, or the request exceeds the limits.
        """
        wanted = read_request(RunRequest, request)
        if wanted.rollouts > MAX_ROLLOUTS:
            raise InputError(f"At most {MAX_ROLLOUTS} rollouts per question are allowed here, got {wanted.rollouts}.")
        with self._reserve():
            return super().start(request)

    def pause(self, request: Mapping[str, Any]) -> None:
        """Refuse: only one visitor can run at a time, and a paused run would block the others.

        Raises:
            InputError: Always.
        """
        raise InputError("Runs cannot be paused here. Stop the run and resume it later.")

    def resume(self, request: Mapping[str, Any]) -> None:
        """Resume a run.

        Raises:
            InputError: If a run of any visitor is active.
        """
        with self._reserve():
            super().resume(request)

    def check_open(self) -> None:
        """Raise if the storage of the visitor is full.

        Raises:
            InputError: If it is.
        """
        super().check_open()
        if count_bytes(self.root) > MAX_KEPT_BYTES:
            raise InputError(
                f"Storage full: at most {MAX_KEPT_BYTES >> 20} MiB per visitor, with exports. Download your exports "
                "and continue in a new browser tab."
            )

    def all_runs(self) -> Iterator[RunSummary]:
        """Runs of all projects; opens no database, so it is safe from any thread."""
        with suppress(FileNotFoundError):  # the session is being removed
            for folder in self.root.iterdir():
                yield from list_runs(folder / RUNS)

    @property
    def is_importing(self) -> bool:
        """Whether an import is running."""
        return any(not each.is_over for each in list(self._imports.values()))

    @property
    def has_run(self) -> bool:
        """Whether a run is active or queued."""
        return any(is_run_active(run) for run in self.all_runs())

    def stop_runs(self) -> None:
        """Kill all runs without waiting."""
        for run in self.all_runs():
            stop_immediately(run.layout)

    def close(self) -> None:
        """Kill all runs and close all databases, before the folder is removed."""
        self.stop_runs()
        CONNECTION_POOL.close_idle(self.root.absolute())

    def _find_source(self, value: Any) -> str:
        """Validate an uploaded file; other paths, hub ids and URLs are refused."""
        path = Path(super()._find_source(value))
        try:
            file = path.resolve(strict=True)
            is_uploaded = Path(get_upload_folder()).resolve() in file.parents and file.is_file()
            size = file.stat().st_size
        except (OSError, ValueError, RuntimeError):
            is_uploaded, size = False, 0
        if not is_uploaded or path.suffix.lower() not in ENDINGS:
            raise InputError(f"Only uploaded files of type {', '.join(ENDINGS)} can be imported here. {_HOW}")
        if size > MAX_SOURCE_BYTES:
            raise InputError(
                f"File too large: {size >> 20} MiB, at most {MAX_SOURCE_BYTES >> 20} MiB are allowed. Split it."
            )
        if is_zip(file):
            with ZipArchive(file) as archive:
                _check_archive(archive)
        else:
            with open_regular_file(file) as lines:
                _check_lines(iter(lambda: lines.read(1 << 20), b""))
        return str(file)

    def _check_bytes(self, source: Path) -> None:
        """Raise if the contents of a file would exceed the storage limit.

        Zip entries are never read beyond their stated size.

        Raises:
            InputError: If they would.
        """
        size = source.stat().st_size
        if is_zip(source):
            with ZipArchive(source) as archive:
                size = sum(entry.file_size for entry in archive.files.values())
        kept = count_bytes(self.root)
        if kept + size > MAX_BYTES:
            raise InputError(
                f"At most {MAX_BYTES >> 20} MiB per visitor are allowed, this would be {(kept + size) >> 20} MiB. "
                "Import less."
            )


_HOW: Final = (
    "Upload a zip of images, with or without a table of questions, or a table with base64 images in its image column."
)


def _check_archive(archive: ZipArchive) -> None:
    """Check the number of files and the unpacked size of the tables in a zip.

    Raises:
        InputError: If a limit is exceeded.
    """
    if len(archive.files) > MAX_LINES:
        raise InputError(
            f"Too many files in the zip: {len(archive.files):,}, at most {MAX_LINES:,} are allowed. Split it."
        )
    tables = [name for name in archive.files if Path(name).suffix.lower() in TABLES]
    for name in tables:
        if Path(name).suffix.lower() not in ENDINGS:
            raise InputError(f"{name!r} in the zip is not supported. Only images and tables (CSV, TSV, JSONL) are.")
    size = sum(archive.files[name].file_size for name in tables)
    if size > MAX_SOURCE_BYTES:
        raise InputError(
            f"Tables in the zip too large: {size >> 20} MiB, at most {MAX_SOURCE_BYTES >> 20} MiB are allowed. "
            "Split them."
        )
    for name in tables:
        with suppress(ValueError):  # damaged; reported by other checks
            _check_lines([archive.read(name)])


def _check_lines(blocks: Iterable[bytes]) -> None:
    if sum(block.count(b"\n") for block in blocks) > MAX_LINES:
        raise InputError(f"Table too long: at most {MAX_LINES:,} lines are allowed. Split it.")


def stop_immediately(layout: RunLayout) -> None:
    """Kill a run without waiting; a run that cannot be killed keeps the state running."""
    with suppress(HartError, OSError):
        stop_run(layout, save_seconds=0.0, end_seconds=_END_SECONDS)


def count_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; files that disappear are ignored."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total
