"""JSON API of the Label tab: projects, imports, labeling runs.

Requests are untrusted: projects are names of folders below one root, run ids are checked against existing runs, and
sources are read only if ``LabelLimits`` accept them.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hart_studio.errors import HartError, InputError
from hart_studio.labeling.connection_pool import CONNECTION_POOL
from hart_studio.labeling.importing import get_invalid_rows, import_source
from hart_studio.labeling.job import LabelingConfig, prepare_run, read_config
from hart_studio.labeling.project import RUNS, Project, ProjectSettings
from hart_studio.labeling.project_lifecycle import archive_project, delete_project, list_trash
from hart_studio.labeling.project_locks import is_run_active, reserve_start
from hart_studio.labeling.project_store import ProjectStore
from hart_studio.labeling.source_preview import preview_source
from hart_studio.labeling.sources import SourceSettings
from hart_studio.runs.launcher import start_run
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.reader import RunSummary, list_runs
from hart_studio.runs.stopping import resume_stop, stop_in_background
from hart_studio.ui.api.changes import StampedCache, delta, file_stamp
from hart_studio.ui.api.handler import parse_request
from hart_studio.ui.api.label_launch import check_run, find_model, sign_run
from hart_studio.ui.api.label_limits import LabelLimits
from hart_studio.ui.api.label_requests import (
    ArchiveRequest,
    CreateRequest,
    DeleteRequest,
    ImportRequest,
    LabelingRunRequest,
    NameRequest,
    ProjectRequest,
    RestoreRequest,
    RunRequest,
    SourceRequest,
    StateRequest,
)
from hart_studio.ui.api.launch import stop_immediately
from hart_studio.ui.error_reporting import describe
from hart_studio.ui.security.config_check import check_config, hash_new_config
from hart_studio.ui.security.model_allowlist import ModelAllowlist

CLOSED: Final = "Labeling is disabled on this public page. Run python app.py on your own machine."
"""Message of disabled functions."""

MAX_PREVIEWS: Final = 16
"""Cached previews of zips, some KB each. Project default."""

MAX_SHOWN_INVALID_ROWS: Final = 200


@dataclass
class ImportState:
    """Progress and result of a background import."""

    done: int = 0
    total: int = 0
    message: str = ""
    error: str = ""
    invalid_rows: list[tuple[str, str]] = field(default_factory=list)
    is_over: bool = False


class LabelApi:
    """Handles projects, imports and labeling runs.

    Attributes:
        root: Folder of all projects; created with the first one.
        store: Opens and creates projects.
        is_open: Whether users may change anything.
        allowed: Allowed models; by default any.
        limits: What users may store, read and run; by default no limits.
    """

    def __init__(
        self,
        root: Path,
        *,
        is_open: bool = True,
        allowed: ModelAllowlist | None = None,
        limits: LabelLimits | None = None,
    ) -> None:
        self.root = root
        self.store = ProjectStore(root)
        self.is_open = is_open
        self.allowed = allowed or ModelAllowlist()
        self.limits = limits or LabelLimits()
        self._lock = threading.Lock()
        self._imports: dict[str, ImportState] = {}
        self._previews: StampedCache[dict[str, Any]] = StampedCache(MAX_PREVIEWS)
        self._previewing = threading.Lock()

    def open_project(self, name: str) -> Project:
        """Open a project by its untrusted name; not cached, so it reflects the current files.

        Raises:
            InputError: If there is none.
            DataError: If it cannot be opened.
        """
        return self.store.open_project(name)

    def projects(self) -> list[dict[str, Any]]:
        """All projects by name with their number of items; unreadable ones with their problem."""
        return [entry._asdict() for entry in self.store.list_projects()]

    def create(self, request: CreateRequest) -> dict[str, str]:
        """Create a project.

        Raises:
            InputError: If the name or a class is invalid, the name is taken, or there are too many projects.
        """
        self.check_open()
        self.limits.check_projects(len(self.projects()))
        if not request.name.strip():
            raise InputError("Enter a name for the project.")
        names = split_classes(request.classes)
        settings = parse_request(ProjectSettings, {"classes": tuple(dict.fromkeys(names))} if names else {})
        return {"id": self.store.create_project(request.name.strip(), settings).folder.name}

    def rename(self, request: NameRequest) -> dict[str, str]:
        """Change the name of a project.

        Raises:
            InputError: If the name is invalid, or a labeling run or an import uses the project.
        """
        self.check_open()
        project = self.open_project(request.project)
        self.store.rename_project(project, request.name)
        return {"id": project.folder.name}

    def duplicate(self, request: NameRequest) -> dict[str, str]:
        """Copy a project under another name.

        Raises:
            InputError: If the name is invalid, or the copy would exceed the limits.
            DataError: If the copy cannot be written.
        """
        self.check_open()
        project = self.open_project(request.project)
        self.limits.check_projects(len(self.projects()))
        most = self.limits.max_items
        if most is not None and 2 * project.count() + self._count_elsewhere(project) > most:
            raise InputError(f"A copy would exceed {most:,} questions in all projects. Delete some first.")
        self.limits.check_copy(self.root, project.folder)
        return {"id": self.store.duplicate_project(project, request.name).folder.name}

    def archive(self, request: ArchiveRequest) -> dict[str, str]:
        """Archive a project, or take it out of the archive.

        Raises:
            InputError: If a labeling run or an import uses the project.
        """
        self.check_open()
        project = self.open_project(request.project)
        archive_project(project, is_archived=request.is_archived)
        return {"id": project.folder.name}

    def delete(self, request: DeleteRequest) -> dict[str, str]:
        """Move a project to the trash.

        Raises:
            InputError: If the name does not match, or a labeling run or an import uses the project.
        """
        self.require_editable()
        project = self.open_project(request.project)
        entry = delete_project(project, request.confirmation, is_kept=self.limits.keeps_trash)
        with self._lock:
            self._imports.pop(project.folder.name, None)  # its id may be reused
        return {"entry": entry}

    def trash(self) -> list[dict[str, Any]]:
        """The deleted projects that can be restored, the newest first."""
        self.require_editable()
        return [
            {
                "entry": each.id,
                "name": each.name,
                "deleted_at": each.deleted_at.isoformat(),
                "days_left": each.days_left,
            }
            for each in list_trash(self.root)
        ]

    def restore(self, request: RestoreRequest) -> dict[str, str]:
        """Take a project out of the trash.

        Raises:
            InputError: If there is no such entry.
        """
        self.check_open()
        return {"id": self.store.restore_project(request.entry).folder.name}

    def poll(self, request: StateRequest) -> dict[str, Any] | None:
        """State of a project; None if nothing has changed."""
        project = self.open_project(request.project)
        runs = [run for run in list_runs(project.runs) if run.status]
        for run in runs:
            if run.state == "stopping":  # may have been requested before a restart
                resume_stop(run.layout)
        importing = self._imports.get(project.folder.name)
        state: dict[str, Any] = {
            "name": project.name,
            "statuses": project.count_by("status"),
            "audits": project.count_waiting().get("auto_accepted", 0),
            "is_to_verify": project.has_boxes_to_verify(),
            "image_domains": project.image_domains(),
            "evidence": project.count_by("evidence"),
            "categories": sorted(name for name in project.count_by("category") if name)[:500],
            "reviewers": [name for name in project.count_by("reviewer") if name],
            "settings": project.settings.model_dump(mode="json"),
            "import": dict(vars(importing)) if importing else None,
            "runs": [_show_run(run) for run in runs[:10]],
        }
        return delta(state, request.signature)

    def invalid_rows(self, request: ProjectRequest) -> list[tuple[str, str, str]]:
        """(source, row, reason) of invalid rows, newest import first."""
        return get_invalid_rows(self.open_project(request.project), MAX_SHOWN_INVALID_ROWS)

    def preview_source(self, request: SourceRequest) -> dict[str, Any]:
        """Detect the type of a source and preview it, one at a time; an unchanged zip is read once.

        Only a zip is cached: the preview of a table depends on the images beside it, too.
        """
        self.check_open()
        folder = self._find_folder(request.image_root)
        source = request.source.strip()
        is_cached = folder is None and source.lower().endswith(".zip")
        with self._previewing:
            return self._previews.get(
                (source, request.image_column),
                lambda: file_stamp(Path(source)) if is_cached else None,
                lambda: preview_source(self.limits.check_source(source), folder, request.image_column),
            )

    def start_import(self, request: ImportRequest) -> dict[str, Any]:
        """Start an import; ``poll`` returns its progress.

        Raises:
            InputError: If an import is already running, or the source is not accepted.
        """
        self.check_open()
        self.limits.check_imports()
        source = self.limits.check_source(request.source)
        kind = self.limits.check_import(self.root, source, request.kind)
        project = self.open_project(request.project)
        settings = SourceSettings(
            kind=kind,
            columns=request.columns,
            image_root=self._find_folder(request.image_root),
            question=request.question,
            choices=tuple(line.strip() for line in request.choices.splitlines() if line.strip()),
        )
        most = self.limits.max_items
        capacity = None if most is None else most - self._count_elsewhere(project)
        with self._lock:
            running = self._imports.get(project.folder.name)
            if running and not running.is_over:
                raise InputError("Import already running. Wait for it to finish.")
            state = self._imports[project.folder.name] = ImportState()
        try:
            arguments = (project, source, settings, state, capacity)
            threading.Thread(target=self._run_import, args=arguments, daemon=True).start()
        except RuntimeError:  # no more threads; an import that never ends would block the project
            state.is_over = True
            raise
        return {}

    def start(self, request: RunRequest) -> dict[str, str]:
        """Create and start a labeling run.

        Raises:
            InputError: If a run is active already, there is nothing to label, or the request exceeds the limits.
        """
        self.limits.check_rollouts(request.rollouts)
        with self.limits.reserve_run():
            project, config = self._read_run(request)
            with reserve_start(project):
                layout = prepare_run(project, config)
                try:
                    start_run(layout, *sign_run(self.root, project, layout, hash_new_config(config)))
                except (HartError, OSError):
                    shutil.rmtree(layout.folder, ignore_errors=True)  # else it would be listed as queued
                    raise
        return {"run": layout.run_id}

    def describe_score_basis(self, request: RunRequest) -> dict[str, Any]:
        """Describe what the scores of a run would be based on.

        Returns:
            ``basis``, a sentence or empty, ``cautions`` and ``warnings``.

        Raises:
            InputError: If the model or project does not exist, or the settings are invalid.
        """
        project, config = self._read_run(request)
        try:
            return config.describe_score_basis(project)._asdict()
        except OSError as error:  # name too long for the file system
            raise InputError(
                f"Cannot read the model {config.model[:40]!r}: {error.strerror}. Choose another one."
            ) from error

    def pause(self, request: LabelingRunRequest) -> None:
        """Pause a run with its model in memory, or resume it.

        Raises:
            InputError: If runs cannot be paused, because a paused run would block other visitors.
        """
        if not self.limits.can_pause:
            raise InputError("Runs cannot be paused here. Stop the run and resume it later.")
        layout = self._find_run(request)
        try:
            layout.pause.touch(exist_ok=False)  # does not follow broken links
        except FileExistsError:
            layout.pause.unlink(missing_ok=True)

    def stop(self, request: LabelingRunRequest) -> None:
        """Request a run to stop after its batch, and kill it if it does not; finished labels are kept."""
        stop_in_background(self._find_run(request), now=request.now)

    def resume(self, request: LabelingRunRequest) -> None:
        """Resume a run that was stopped or lost.

        Raises:
            InputError: If it is completed or active, or its config may not be used here (``check_run``).
        """
        with self.limits.reserve_run():
            self.check_open()
            project, layout = self.open_project(request.project), self._find_run(request)
            sha256 = check_run(self.root, project, layout, self.allowed)
            with reserve_start(project, layout.run_id):
                layout.pause.unlink(missing_ok=True)
                start_run(layout, *sign_run(self.root, project, layout, sha256))

    def find_model(self, project: Project) -> tuple[str, str]:
        """(run id, model) for verifying drawn boxes; see ``label_launch.find_model``."""
        return find_model(self.root, project, self.allowed)

    def check_open(self) -> None:
        """Raise unless users may create something.

        Raises:
            InputError: If creating is disabled or storage is full.
        """
        self.require_editable()
        self.limits.check_storage(self.root)

    def require_editable(self) -> None:
        """Raise unless users may change something, even with full storage.

        Raises:
            InputError: If changes are disabled.
        """
        if not self.is_open:
            raise InputError(CLOSED)

    def all_runs(self) -> Iterator[RunSummary]:
        """Runs of all projects; opens no database, so it is safe from any thread."""
        with suppress(FileNotFoundError):  # the projects are being removed
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

    def _read_run(self, request: RunRequest) -> tuple[Project, LabelingConfig]:
        self.check_open()
        project = self.open_project(request.project)
        check_config(request.config, self.allowed)
        return project, request.config

    def _count_elsewhere(self, project: Project) -> int:
        """Items in all projects but one."""
        return sum(each.items for each in self.store.list_projects() if each.id != project.folder.name)

    def _find_run(self, request: LabelingRunRequest) -> RunLayout:
        return find_run(self.open_project(request.project).runs, request.run)

    def _find_folder(self, value: str) -> Path | None:
        """Validate a folder of images; None if empty, or where only uploads are read.

        Raises:
            InputError: If there is no such folder.
        """
        if self.limits.endings or not value.strip():
            return None
        folder = Path(value.strip()).expanduser()
        if "\0" in value or not folder.is_dir():
            raise InputError(f"{value.strip()!r} is not a folder. Check the path of the image folder.")
        return folder

    def _run_import(
        self, project: Project, source: str, settings: SourceSettings, state: ImportState, max_items: int | None
    ) -> None:
        """Import a source and record progress and errors in ``state``."""

        def progress(done: int, total: int) -> None:
            state.done, state.total = done, total

        try:
            report = import_source(project, source, settings, progress, max_items=max_items, limits=self.limits.images)
            state.message = report.describe()
            state.invalid_rows = [(bad.row, bad.reason) for bad in report.invalid_rows[:MAX_SHOWN_INVALID_ROWS]]
        except HartError as error:
            state.error = str(error)
        except OSError as error:
            state.error = describe(error).message
        except Exception as error:  # the page waits for a result
            state.error = f"Import failed with an internal error: {type(error).__name__}. See the server log."
            raise
        finally:
            state.is_over = True


def split_classes(text: str) -> list[str]:
    """Comma-separated names of classes without blank ones."""
    return [each.strip() for each in text.split(",") if each.strip()]


def _show_run(run: RunSummary) -> dict[str, Any]:
    status = run.status
    assert status is not None  # noqa: S101 - filtered by the caller
    model = ""
    with suppress(HartError):
        model = read_config(run.layout).model
    return {
        "id": run.layout.run_id,
        "state": run.state,
        "is_paused": run.layout.pause.exists(),
        "step": status.step,
        "total": status.total,
        "error": status.error,
        "model": model,
    }
