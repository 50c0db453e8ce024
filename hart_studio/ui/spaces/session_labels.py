"""The Label page's desk for one visitor of a Space: the same work, on what they uploaded alone, and within bounds."""

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
"""Projects of one visitor (ours, as all bounds here: the disk and the processor of a Space are everyone's)."""

MAX_ITEMS: Final = 200
"""Questions of one visitor."""

MAX_BYTES: Final = 256 << 20
"""Bytes of the images of one visitor, and of all else that is kept here when images come."""

MAX_KEPT_BYTES: Final = 2 * MAX_BYTES
"""Bytes with exports, from which on nothing more is made."""

MAX_SOURCE_BYTES: Final = 64 << 20
"""Bytes of one file that is read."""

MAX_LINES: Final = 5000
"""Lines of one table."""

MAX_ROLLOUTS: Final = 8
"""Rollouts for each question."""

ENDINGS: Final = (".zip", ".csv", ".tsv", ".jsonl")
"""Files that a visitor may bring, in a zip too. The others are plain text, so none is larger inside than outside."""

KINDS: Final = ("auto", "images", "table", "questions")
"""What they may be: their images lie in them. Others may name images elsewhere on this machine."""

BUSY: Final = (
    "labels are being proposed already, by you or another visitor, and there is one such run at a time; "
    "nothing is lost, try again in a few minutes"
)
"""Why a run does not start."""

_END_SECONDS: Final = 2.0


class SessionLabelApi(LabelApi):
    """Answers the Label page for one visitor."""

    def __init__(
        self,
        root: Path,
        allowed: ModelAllowlist,
        reserve: Callable[[], AbstractContextManager[None]],
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        """Nothing is made before the visitor makes a project.

        Args:
            root: Folder of the visitor's projects.
            allowed: Models that may label.
            reserve: A context in which no one else may start a run; raises ``InputError`` when one is at work.
            limits: What images may be.
        """
        super().__init__(root, allowed=allowed, max_items=MAX_ITEMS, limits=limits)
        self._reserve = reserve

    def create(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Make a project.

        Raises:
            InputError: If its name cannot be used, or there are too many.
        """
        self._check_count()
        return super().create(request)

    def check_duplicate(self, project: Project) -> None:
        """Refuse a copy of a project where it would be too much.

        Raises:
            InputError: If there are too many projects, questions or bytes.
        """
        self._check_count()
        super().check_duplicate(project)
        if count_bytes(self.root) + count_bytes(project.folder) > MAX_BYTES:
            raise InputError(f"A copy would exceed {MAX_BYTES >> 20} MiB of one visitor. Delete a project first.")

    def _check_count(self) -> None:
        if len(self.projects({})) >= MAX_PROJECTS:
            raise InputError(f"expected at most {MAX_PROJECTS} projects of one visitor, got one more; use one of yours")

    def start_import(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Begin an import of an uploaded file, which holds its images itself.

        Raises:
            InputError: If it is another kind of file, or too much.
        """
        source = self._find_source(request.get("source"))
        asked = str(request.get("kind") or "auto")
        kind = detect_source_kind(source) if asked == "auto" else asked
        if kind not in KINDS or (kind == "images" and not is_zip(Path(source))):
            raise InputError(f"expected a zip of images, or a table with its images inside, got {kind!r}; {_HOW}")
        self._check_bytes(Path(source))
        return super().start_import({**request, "kind": kind, "image_root": ""})

    def preview_source(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A look at an uploaded file, and at nothing else on this machine."""
        return super().preview_source({**request, "image_root": ""})

    def start(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Make a labeling run and start it, when no other visitor's is at work.

        Raises:
            InputError: If one is, or more is asked for than a visitor may.
        """
        wanted = read_request(RunRequest, request)
        if wanted.rollouts > MAX_ROLLOUTS:
            raise InputError(f"expected at most {MAX_ROLLOUTS} rollouts here, got {wanted.rollouts}; ask for fewer")
        with self._reserve():
            return super().start(request)

    def pause(self, request: Mapping[str, Any]) -> None:
        """Refuse: there is one run of all visitors, and one that waits would keep it from the others.

        Raises:
            InputError: Always.
        """
        raise InputError("expected a run to continue or to end here, got a pause; stop it, and resume it later")

    def resume(self, request: Mapping[str, Any]) -> None:
        """Resume with a run, when no other visitor's is at work.

        Raises:
            InputError: If one is.
        """
        with self._reserve():
            super().resume(request)

    def check_open(self) -> None:
        """Refuse when the visitor's room is full.

        Raises:
            InputError: If it is.
        """
        super().check_open()
        if count_bytes(self.root) > MAX_KEPT_BYTES:
            raise InputError(
                f"expected at most {MAX_KEPT_BYTES >> 20} MiB with all exports of one visitor, got more; save what "
                "you exported, and continue in a new browser tab"
            )

    def all_runs(self) -> Iterator[RunSummary]:
        """The runs of all projects. No database is opened for it, for others' threads ask too."""
        with suppress(FileNotFoundError):  # the room is being removed
            for folder in self.root.iterdir():
                yield from list_runs(folder / RUNS)

    @property
    def is_importing(self) -> bool:
        """Whether a file is being read."""
        return any(not each.is_over for each in list(self._imports.values()))

    @property
    def has_run(self) -> bool:
        """Whether a run is at work, or about to be."""
        return any(is_run_active(run) for run in self.all_runs())

    def stop_runs(self) -> None:
        """End all runs, without waiting until they have saved."""
        for run in self.all_runs():
            stop_immediately(run.layout)

    def close(self) -> None:
        """End all runs and let go of all files, before the folder is removed."""
        self.stop_runs()
        CONNECTION_POOL.close_idle(self.root.absolute())

    def _find_source(self, value: Any) -> str:
        """An uploaded file of a kind that a visitor may bring; no other path, no hub id, no address."""
        path = Path(super()._find_source(value))
        try:
            file = path.resolve(strict=True)
            is_uploaded = Path(get_upload_folder()).resolve() in file.parents and file.is_file()
            size = file.stat().st_size
        except (OSError, ValueError, RuntimeError):
            is_uploaded, size = False, 0
        if not is_uploaded or path.suffix.lower() not in ENDINGS:
            raise InputError(f"expected a file that was uploaded here, one of {', '.join(ENDINGS)}; {_HOW}")
        if size > MAX_SOURCE_BYTES:
            raise InputError(f"expected at most {MAX_SOURCE_BYTES >> 20} MiB in one file, got {size >> 20}; split it")
        if is_zip(file):
            with ZipArchive(file) as archive:
                _check_archive(archive)
        else:
            with open_regular_file(file) as lines:
                _check_lines(iter(lambda: lines.read(1 << 20), b""))
        return str(file)

    def _check_bytes(self, source: Path) -> None:
        """See that the visitor may keep what the file holds; no entry of a zip is read beyond the size that it states.

        Raises:
            InputError: If it is too much.
        """
        size = source.stat().st_size
        if is_zip(source):
            with ZipArchive(source) as archive:
                size = sum(entry.file_size for entry in archive.files.values())
        kept = count_bytes(self.root)
        if kept + size > MAX_BYTES:
            raise InputError(
                f"expected at most {MAX_BYTES >> 20} MiB of one visitor, got {(kept + size) >> 20}; bring less"
            )


_HOW: Final = (
    "choose a file of yours: a zip of images, with a table of questions in it or without, or a table whose image "
    "column holds them in base64"
)


def _check_archive(archive: ZipArchive) -> None:
    """See that a zip can be looked into: few files, and tables that are not much larger when they are read.

    Raises:
        InputError: If it is too much.
    """
    if len(archive.files) > MAX_LINES:
        raise InputError(f"expected at most {MAX_LINES:,} files in a zip, got {len(archive.files):,}; split it")
    tables = [name for name in archive.files if Path(name).suffix.lower() in TABLES]
    for name in tables:
        if Path(name).suffix.lower() not in ENDINGS:
            raise InputError(f"expected images and a table (CSV, TSV, JSONL) in a zip, got {name!r}; leave it out")
    size = sum(archive.files[name].file_size for name in tables)
    if size > MAX_SOURCE_BYTES:
        raise InputError(
            f"expected at most {MAX_SOURCE_BYTES >> 20} MiB of tables in a zip, got {size >> 20}; split it"
        )
    for name in tables:
        with suppress(ValueError):  # damaged; whoever looks for it says so
            _check_lines([archive.read(name)])


def _check_lines(blocks: Iterable[bytes]) -> None:
    if sum(block.count(b"\n") for block in blocks) > MAX_LINES:
        raise InputError(f"expected at most {MAX_LINES:,} lines in a table, got more; split it")


def stop_immediately(layout: RunLayout) -> None:
    """End a run without waiting until it has saved; one that cannot be ended shows as running."""
    with suppress(HartError, OSError):
        stop_run(layout, save_seconds=0.0, end_seconds=_END_SECONDS)


def count_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; what goes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total
