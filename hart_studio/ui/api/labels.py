"""JSON API of the Label tab: projects, imports, labeling runs.

Requests are untrusted: projects are names of folders below one root, run ids are checked against existing runs, and
sources are read only if the user may use files of this machine.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError

from hart_studio.errors import HartError, InputError
from hart_studio.imaging import DEFAULT_LIMITS, ImageLimits
from hart_studio.labeling.box_refinement import BoxRefinementSettings
from hart_studio.labeling.importing import get_invalid_rows
from hart_studio.labeling.job import LabelingConfig, prepare_run, read_config
from hart_studio.labeling.project import Project, ProjectSettings
from hart_studio.labeling.project_locks import reserve_start
from hart_studio.labeling.project_store import ProjectStore
from hart_studio.labeling.records import ItemFilter, Status
from hart_studio.labeling.self_verify import ProposalSettings
from hart_studio.labeling.sources import SourceSettings, preview_source
from hart_studio.models.catalog import BUILT_IN_HART
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Record
from hart_studio.runs.launcher import resume_stop, start_run, stop_in_background
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.reader import RunSummary, list_runs
from hart_studio.ui.api.label_imports import MAX_SHOWN_INVALID_ROWS, ImportState, read_folder, run_import
from hart_studio.ui.api.label_launch import check_run, find_model, sign_run
from hart_studio.ui.security.config_check import check_config, hash_new_config
from hart_studio.ui.security.model_allowlist import ModelAllowlist
from hart_studio.ui.source_previews import SourcePreviews

CLOSED: Final = "Labeling is disabled on this public page. Run python app.py on your own machine."
"""Message of disabled functions."""


class RunRequest(Record):
    """Request for a labeling run."""

    project: str = Field(max_length=80)
    """Id of the project."""
    model: str = Field(default=BUILT_IN_HART, min_length=1, max_length=300)
    """The model."""
    rollouts: int = Field(default=8, ge=2, le=64)
    """Rollouts per question, K."""
    is_refining: bool = False
    """Whether to shrink boxes as long as they stay sufficient."""
    is_auto_accepting: bool = True
    """Whether to auto-accept labels with a high score."""
    statuses: tuple[Status, ...] = ("new", "failed")
    """Statuses of the labeled items."""


class LabelApi:
    """Handles projects, imports and labeling runs.

    Attributes:
        root: Folder of all projects.
        store: Opens and creates projects.
        is_open: Whether users may change anything.
        allowed: Allowed models.
        max_items: Maximum number of items in all projects; None = no limit.
        limits: Limits of image size and format.
    """

    def __init__(
        self,
        root: Path,
        *,
        is_open: bool = True,
        allowed: ModelAllowlist | None = None,
        max_items: int | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        """Create the API; the root is created with the first project.

        Args:
            root: May be missing.
            is_open: Whether users may change anything.
            allowed: Allowed models; None = any.
            max_items: Maximum number of items in all projects; None = no limit.
            limits: Limits of image size and format.
        """
        self.root = root
        self.store = ProjectStore(root)
        self.is_open = is_open
        self.allowed = allowed or ModelAllowlist()
        self.max_items = max_items
        self.limits = limits
        self._lock = threading.Lock()
        self._imports: dict[str, ImportState] = {}
        self._previews = SourcePreviews()

    def open_project(self, name: Any) -> Project:
        """Open a project by its untrusted name; not cached, so it reflects the current files.

        Raises:
            InputError: If there is none.
            DataError: If it cannot be opened.
        """
        return self.store.open_project(name)

    def projects(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All projects by name with their number of items; unreadable ones with their problem."""
        return [entry._asdict() for entry in self.store.list_projects()]

    def create(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Create a project.

        Args:
            request: ``name``, and optionally ``classes``, comma-separated.

        Raises:
            InputError: If the name or a class is invalid, or the name is taken.
        """
        self.check_open()
        name = str(request.get("name", "")).strip()
        if not name:
            raise InputError("Enter a name for the project.")
        names = [each.strip() for each in str(request.get("classes") or "").split(",") if each.strip()]
        settings = read_request(ProjectSettings, {"classes": tuple(dict.fromkeys(names))} if names else {})
        return {"id": self.store.create_project(name, settings).folder.name}

    def poll(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """State of a project; None if nothing has changed.

        Args:
            request: ``project``, and ``signature`` of the last response.
        """
        project = self.open_project(request.get("project"))
        runs = [run for run in list_runs(project.runs) if run.status]
        for run in runs:
            if run.state == "stopping":  # may have been requested before a restart
                resume_stop(run.layout)
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
            "import": vars(self._imports[str(request["project"])]) if request["project"] in self._imports else None,
            "runs": [_show_run(run) for run in runs[:10]],
        }
        signature = json.dumps(state, sort_keys=True, default=str)
        short = str(hash(signature))
        return None if short == request.get("signature") else {**state, "signature": short}

    def invalid_rows(self, request: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """(source, row, reason) of invalid rows, newest import first."""
        return get_invalid_rows(self.open_project(request.get("project")), MAX_SHOWN_INVALID_ROWS)

    def preview_source(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Detect the type of a source and preview it.

        Args:
            request: ``source``, ``image_root``, and ``image_column``, the selected column.
        """
        self.check_open()
        source, folder = request.get("source"), request.get("image_root")
        column = str(request.get("image_column") or "")

        def make() -> dict[str, Any]:
            return preview_source(self._find_source(source), read_folder(folder), column)

        return make() if folder else self._previews.get(source, column, make)

    def start_import(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Start an import; ``poll`` returns its progress.

        Args:
            request: ``project``, ``source``, ``kind``, ``columns``, ``image_root``, ``question``, ``choices``.

        Raises:
            InputError: If an import is already running.
        """
        self.check_open()
        project = self.open_project(request.get("project"))
        columns = request.get("columns")
        settings = SourceSettings(
            kind=str(request.get("kind") or "auto"),
            columns={str(name): str(value) for name, value in columns.items()} if isinstance(columns, dict) else {},
            image_root=read_folder(request.get("image_root")),
            question=str(request.get("question") or ""),
            choices=tuple(line.strip() for line in str(request.get("choices") or "").splitlines() if line.strip()),
        )
        source = self._find_source(request.get("source"))
        capacity = None if self.max_items is None else self.max_items - self._count_elsewhere(project)
        with self._lock:
            running = self._imports.get(project.folder.name)
            if running and not running.is_over:
                raise InputError("Import already running. Wait for it to finish.")
            state = self._imports[project.folder.name] = ImportState()
        try:
            arguments = (project, source, settings, state, capacity, self.limits)
            threading.Thread(target=run_import, args=arguments, daemon=True).start()
        except RuntimeError:  # no more threads; an import that never ends would block the project
            state.is_over = True
            raise
        return {}

    def start(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Create and start a labeling run.

        Args:
            request: A ``RunRequest``.

        Raises:
            InputError: If a run is active already, or there is nothing to label.
        """
        project, config = self._read_run(request)
        with reserve_start(project):
            layout = prepare_run(project, config)
            try:
                start_run(layout, *sign_run(self.root, project, layout, hash_new_config(config)))
            except (HartError, OSError):
                shutil.rmtree(layout.folder, ignore_errors=True)  # else it would be listed as queued
                raise
        return {"run": layout.run_id}

    def describe_score_basis(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Describe what the scores of a run would be based on.

        Args:
            request: A ``RunRequest``.

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

    def pause(self, request: Mapping[str, Any]) -> None:
        """Pause a run with its model in memory, or resume it."""
        layout = self._find_run(request)
        try:
            layout.pause.touch(exist_ok=False)  # does not follow broken links
        except FileExistsError:
            layout.pause.unlink(missing_ok=True)

    def stop(self, request: Mapping[str, Any]) -> None:
        """Request a run to stop after its batch, and kill it if it does not; finished labels are kept.

        Args:
            request: ``project``, ``run``, and ``now`` to stop without waiting for the batch.
        """
        stop_in_background(self._find_run(request), now=request.get("now") is True)

    def resume(self, request: Mapping[str, Any]) -> None:
        """Resume a run that was stopped or lost.

        Raises:
            InputError: If it is completed or active, or its config may not be used here (``check_run``).
        """
        self.check_open()
        project, layout = self.open_project(request.get("project")), self._find_run(request)
        sha256 = check_run(self.root, project, layout, self.allowed)
        with reserve_start(project, layout.run_id):
            layout.pause.unlink(missing_ok=True)
            start_run(layout, *sign_run(self.root, project, layout, sha256))

    def find_model(self, project: Project) -> tuple[str, str]:
        """(run id, model) for verifying drawn boxes; see ``label_launch.find_model``."""
        return find_model(self.root, project, self.allowed)

    def _read_run(self, request: Mapping[str, Any]) -> tuple[Project, LabelingConfig]:
        """Project and settings of a ``RunRequest``."""
        self.check_open()
        wanted = read_request(RunRequest, request)
        project = self.open_project(wanted.project)
        config = LabelingConfig(
            model=wanted.model.strip(),
            proposals=ProposalSettings(
                rollouts=wanted.rollouts,
                loop=LoopSettings(temperature=1.0, max_new_tokens=128),
                refinement=BoxRefinementSettings() if wanted.is_refining else None,
            ),
            is_auto_accepting=wanted.is_auto_accepting,
            item_filter=ItemFilter(statuses=wanted.statuses),
        )
        check_config(config, self.allowed)
        return project, config

    def _count_elsewhere(self, project: Project) -> int:
        """Items in all projects but one."""
        return sum(each.items for each in self.store.list_projects() if each.id != project.folder.name)

    def _find_run(self, request: Mapping[str, Any]) -> RunLayout:
        return find_run(self.open_project(request.get("project")).runs, str(request.get("run")))

    def _find_source(self, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise InputError("No source. Enter a file, folder or Hub id, or upload a file.")
        return value.strip()

    def check_open(self) -> None:
        """Raise unless users may create something.

        Raises:
            InputError: If creating is disabled or storage is full.
        """
        self.require_editable()

    def require_editable(self) -> None:
        """Raise unless users may change something, even with full storage.

        Raises:
            InputError: If changes are disabled.
        """
        if not self.is_open:
            raise InputError(CLOSED)

    def clear_import(self, project: Project) -> None:
        """Drop the import state of a deleted project, because its id may be reused."""
        with self._lock:
            self._imports.pop(project.folder.name, None)

    def check_duplicate(self, project: Project) -> None:
        """Raise if a copy of a project would exceed the limits.

        Raises:
            InputError: If it would.
        """
        if self.max_items is not None and 2 * project.count() + self._count_elsewhere(project) > self.max_items:
            raise InputError(f"A copy would exceed {self.max_items:,} questions in all projects. Delete some first.")


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


def read_request(kind: Callable[..., Any], request: Mapping[str, Any]) -> Any:
    """Validate a request as a record.

    Raises:
        InputError: If it is invalid.
    """
    try:
        return kind(**request)
    except (ValidationError, TypeError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise InputError(f"Invalid settings: {reason}") from error
