"""What the Label page may ask for: projects, imports, labeling runs.

Every function takes what a browser sent, so nothing in it is trusted: projects are names of folders below one root,
runs are looked up, and sources are read only where visitors may work on this machine's files.
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
from hart_studio.labeling.filters import ItemFilter
from hart_studio.labeling.importing import get_invalid_rows
from hart_studio.labeling.job import LabelingConfig, prepare_run, read_config
from hart_studio.labeling.project import Project, ProjectSettings
from hart_studio.labeling.project_locks import reserve_start
from hart_studio.labeling.project_store import ProjectStore
from hart_studio.labeling.records import Status
from hart_studio.labeling.self_verify import ProposalSettings
from hart_studio.labeling.source_preview import preview_source
from hart_studio.labeling.sources import SourceSettings
from hart_studio.models.catalog import BUILT_IN_HART
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Record
from hart_studio.runs.launcher import start_run
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.reader import RunSummary, list_runs
from hart_studio.runs.stopping import resume_stop, stop_in_background
from hart_studio.ui.api.label_imports import MAX_SHOWN_INVALID_ROWS, ImportState, read_folder, run_import
from hart_studio.ui.api.label_launch import check_run, find_model, sign_run
from hart_studio.ui.security.config_check import check_config, hash_new_config
from hart_studio.ui.security.model_allowlist import ModelAllowlist
from hart_studio.ui.source_previews import SourcePreviews

CLOSED: Final = "labeling is switched off on this public page; run python app.py yourself"
"""Why nothing is made here."""


class RunRequest(Record):
    """How a person wants items labeled."""

    project: str = Field(max_length=80)
    """The project."""
    model: str = Field(default=BUILT_IN_HART, min_length=1, max_length=300)
    """The model."""
    rollouts: int = Field(default=8, ge=2, le=64)
    """K."""
    is_refining: bool = False
    """Whether boxes are shrunk while they stay sufficient."""
    is_auto_accepting: bool = True
    """Whether sure labels are auto-accepted."""
    statuses: tuple[Status, ...] = ("new", "failed")
    """Items of these are labeled."""


class LabelApi:
    """Answers the Label page.

    Attributes:
        root: Folder of all projects.
        store: Finds and makes them.
        is_open: Whether visitors may make anything here.
        allowed: Models that may label.
        max_items: Items that all projects together may hold; None = any number.
        limits: What images may be.
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
        """Nothing is made before someone makes a project.

        Args:
            root: May be missing.
            is_open: Whether visitors may make anything here.
            allowed: Models that may label; None = any.
            max_items: Items that all projects together may hold; None = any number.
            limits: What images may be.
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
        """The project of that name, which comes from a browser; opened again each time, so it is what is there now.

        Raises:
            InputError: If there is none.
            DataError: If it cannot be opened.
        """
        return self.store.open_project(name)

    def projects(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All projects by name, with what is in them; one that cannot be opened with its problem."""
        return [entry._asdict() for entry in self.store.list_projects()]

    def create(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Make a project.

        Args:
            request: ``name``, and optionally ``classes``, names with commas between them.

        Raises:
            InputError: If its name or a class is not usable, or the name is taken.
        """
        self.check_open()
        name = str(request.get("name", "")).strip()
        if not name:
            raise InputError("expected a name for the project, got none; type one")
        names = [each.strip() for each in str(request.get("classes") or "").split(",") if each.strip()]
        settings = read_request(ProjectSettings, {"classes": tuple(dict.fromkeys(names))} if names else {})
        return {"id": self.store.create_project(name, settings).folder.name}

    def poll(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is in a project now; None when nothing has changed since the signature.

        Args:
            request: ``project``, and ``signature`` from the last answer.
        """
        project = self.open_project(request.get("project"))
        runs = [run for run in list_runs(project.runs) if run.status]
        for run in runs:
            if run.state == "stopping":  # asked for before this server was started, perhaps
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
        """(source, place, reason) of rows that could not be used, the newest import first."""
        return get_invalid_rows(self.open_project(request.get("project")), MAX_SHOWN_INVALID_ROWS)

    def preview_source(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What a source most likely is, and what can be seen of it at once.

        Args:
            request: ``source``, ``image_root``, and ``image``, the column that a person chose for the images.
        """
        self.check_open()
        source, folder, column = request.get("source"), request.get("image_root"), str(request.get("picture") or "")

        def make() -> dict[str, Any]:
            return preview_source(self._find_source(source), read_folder(folder), column)

        return make() if folder else self._previews.get(source, column, make)

    def start_import(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Begin an import; ``look`` tells how far it is.

        Args:
            request: ``project``, ``source``, ``kind``, ``columns``, ``image_root``, ``question``, ``choices``.

        Raises:
            InputError: If one continues already.
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
        """Make a labeling run and start it.

        Args:
            request: A ``RunRequest``.

        Raises:
            InputError: If a run is at work already, or nothing is to be labeled.
        """
        project, config = self._read_run(request)
        with reserve_start(project):
            layout = prepare_run(project, config)
            try:
                start_run(layout, *sign_run(self.root, project, layout, hash_new_config(config)))
            except (HartError, OSError):
                shutil.rmtree(layout.folder, ignore_errors=True)  # it would look as if it were about to begin
                raise
        return {"run": layout.run_id}

    def describe_score_basis(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What the scores of a run would rest on, before it is started.

        Args:
            request: A ``RunRequest``.

        Returns:
            ``basis``, a sentence or nothing, and ``cautions``.

        Raises:
            InputError: If there is no such model or project, or the settings cannot be used.
        """
        project, config = self._read_run(request)
        try:
            return config.describe_score_basis(project)._asdict()
        except OSError as error:  # a name that is longer than the system allows
            raise InputError(f"expected a model, got {config.model[:40]!r}: {error.strerror}; change it") from error

    def pause(self, request: Mapping[str, Any]) -> None:
        """Let a run wait, with its model in memory, or continue."""
        layout = self._find_run(request)
        try:
            layout.pause.touch(exist_ok=False)  # a link that leads nowhere is not followed then
        except FileExistsError:
            layout.pause.unlink(missing_ok=True)

    def stop(self, request: Mapping[str, Any]) -> None:
        """Ask a run to end after its batch, and make it end when it does not; everything done is kept.

        Args:
            request: ``project``, ``run``, and ``now`` when the batch is not to be waited for.
        """
        stop_in_background(self._find_run(request), now=request.get("now") is True)

    def resume(self, request: Mapping[str, Any]) -> None:
        """Resume with a run that was stopped or lost.

        Raises:
            InputError: If it is completed, or at work, or its config may not be used here (``check_run``).
        """
        self.check_open()
        project, layout = self.open_project(request.get("project")), self._find_run(request)
        sha256 = check_run(self.root, project, layout, self.allowed)
        with reserve_start(project, layout.run_id):
            layout.pause.unlink(missing_ok=True)
            start_run(layout, *sign_run(self.root, project, layout, sha256))

    def find_model(self, project: Project) -> tuple[str, str]:
        """(run id, model) that judges boxes which a person draws; see ``label_launch.find_model``."""
        return find_model(self.root, project, self.allowed)

    def _read_run(self, request: Mapping[str, Any]) -> tuple[Project, LabelingConfig]:
        """The project of a ``RunRequest``, and the settings of the run."""
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
            raise InputError("expected a file, a folder or a hub id, got nothing; type one, or choose a file")
        return value.strip()

    def check_open(self) -> None:
        """Refuse where visitors may not make anything.

        Raises:
            InputError: If they may not.
        """
        self.require_editable()

    def require_editable(self) -> None:
        """Refuse where visitors may not change anything, also not make room.

        Raises:
            InputError: If they may not.
        """
        if not self.is_open:
            raise InputError(CLOSED)

    def clear_import(self, project: Project) -> None:
        """Forget the last import of a project that is deleted: another one may get its place."""
        with self._lock:
            self._imports.pop(project.folder.name, None)

    def check_duplicate(self, project: Project) -> None:
        """Refuse a copy of a project where it would be too much.

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
    """What a page sent as a record.

    Raises:
        InputError: If it is none.
    """
    try:
        return kind(**request)
    except (ValidationError, TypeError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise InputError(f"the page sent settings that cannot be used: {reason}; change them") from error
