"""What the Label page may ask for: projects, imports, labeling runs.

Every function takes what a browser sent, so nothing in it is trusted: projects are names of folders below one root,
runs are looked up, and sources are read only where visitors may work on this machine's files.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError

from hart_studio.errors import HartError, InputError
from hart_studio.files import resolve_inside
from hart_studio.imaging import DEFAULT_LIMITS, ImageLimits
from hart_studio.labeling.database import DATABASE
from hart_studio.labeling.filters import ItemFilter
from hart_studio.labeling.importing import read_bad_rows
from hart_studio.labeling.job import LabelingConfig, prepare_run, read_config
from hart_studio.labeling.peeking import peek_source
from hart_studio.labeling.project import Project, create_project
from hart_studio.labeling.records import Status
from hart_studio.labeling.self_verify import ProposalSettings
from hart_studio.labeling.sources import SourceSettings
from hart_studio.labeling.tightening import TighteningSettings
from hart_studio.models.catalog import BUILT_IN_HART
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Record
from hart_studio.runs.launcher import request_stop, start_run, stop_run
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.queue import is_on
from hart_studio.runs.reader import RunSummary, list_runs, summarize_run
from hart_studio.ui.allowed_models import AllowedModels
from hart_studio.ui.config_check import check_config, hash_new
from hart_studio.ui.label_imports import MOST_SHOWN_BAD_ROWS, Import, read_folder, run_import
from hart_studio.ui.label_launch import check_run, find_model, sign_run

CLOSED: Final = "labeling is switched off on this public page; run python app.py yourself"
"""Why nothing is made here."""

_SLUG: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")


class RunRequest(Record):
    """How a person wants items labeled."""

    project: str = Field(max_length=80)
    """The project."""
    model: str = Field(default=BUILT_IN_HART, min_length=1, max_length=300)
    """The model."""
    rollouts: int = Field(default=8, ge=2, le=64)
    """K."""
    is_tightening: bool = False
    """Whether boxes are shrunk while they stay sufficient."""
    is_accepting: bool = True
    """Whether sure labels are accepted unseen."""
    statuses: tuple[Status, ...] = ("new", "failed")
    """Items of these are labeled."""


class LabelDesk:
    """Answers the Label page.

    Attributes:
        root: Folder of all projects.
        is_open: Whether visitors may make anything here.
        allowed: Models that may label.
        most_items: Items that all projects together may hold; None = any number.
        limits: What pictures may be.
    """

    def __init__(
        self,
        root: Path,
        *,
        is_open: bool = True,
        allowed: AllowedModels | None = None,
        most_items: int | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        """Nothing is made before somebody makes a project.

        Args:
            root: May be missing.
            is_open: Whether visitors may make anything here.
            allowed: Models that may label; None = any.
            most_items: Items that all projects together may hold; None = any number.
            limits: What pictures may be.
        """
        self.root = root
        self.is_open = is_open
        self.allowed = allowed or AllowedModels()
        self.most_items = most_items
        self.limits = limits
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._projects: dict[str, Project] = {}
        self._imports: dict[str, Import] = {}

    def open_project(self, name: Any) -> Project:
        """The project of that name, which comes from a browser.

        Raises:
            InputError: If there is none.
        """
        if not isinstance(name, str) or not _SLUG.fullmatch(name):
            raise InputError(f"expected the name of a project, got {str(name)[:40]!r}; choose one from the list")
        folder = resolve_inside(self.root, name)
        if not (folder / DATABASE).is_file():
            raise InputError(f"expected a project, got {name!r}, which is not there; reload the page")
        with self._lock:
            if name not in self._projects:
                self._projects[name] = Project(folder)
            return self._projects[name]

    def projects(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All projects by name, with what is in them."""
        found = []
        folders = sorted(self.root.iterdir()) if self.root.is_dir() else []
        for folder in folders:
            if _SLUG.fullmatch(folder.name) and (folder / DATABASE).is_file() and not folder.is_symlink():
                with suppress(HartError):
                    project = self.open_project(folder.name)
                    found.append({"id": folder.name, "name": project.name, "items": project.count()})
        return found

    def create(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Make a project.

        Raises:
            InputError: If its name is not usable, or taken.
        """
        self.check_open()
        name = str(request.get("name", "")).strip()
        if not name:
            raise InputError("expected a name for the project, got none; type one")
        slug = to_slug(name)
        if (self.root / slug).exists():
            raise InputError(f"expected a new name, got {name!r}, which a project has already; choose another")
        self.root.mkdir(parents=True, exist_ok=True)
        create_project(self.root / slug, name).database.close()
        return {"id": slug}

    def look(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is in a project now; None when nothing has changed since the signature.

        Args:
            request: ``project``, and ``signature`` from the last answer.
        """
        project = self.open_project(request.get("project"))
        runs = [run for run in list_runs(project.runs) if run.status]
        state: dict[str, Any] = {
            "name": project.name,
            "statuses": project.count_by("status"),
            "audits": project.count_waiting().get("auto_accepted", 0),
            "is_to_verify": project.has_boxes_to_verify(),
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

    def bad_rows(self, request: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """(source, place, reason) of rows that could not be used, the newest import first."""
        return read_bad_rows(self.open_project(request.get("project")), MOST_SHOWN_BAD_ROWS)

    def peek(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What a source most likely is, and what can be seen of it at once.

        Args:
            request: ``source``, ``image_root``, and ``picture``, the column that a person chose for the pictures.
        """
        self.check_open()
        source, folder = self._find_source(request.get("source")), read_folder(request.get("image_root"))
        return peek_source(source, folder, str(request.get("picture") or ""))

    def bring(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Begin an import; ``look`` tells how far it is.

        Args:
            request: ``project``, ``source``, ``kind``, ``columns``, ``image_root``, ``question``, ``choices``.

        Raises:
            InputError: If one goes on already.
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
        room = None if self.most_items is None else self.most_items - self._count_elsewhere(project)
        with self._lock:
            running = self._imports.get(project.folder.name)
            if running and not running.is_over:
                raise InputError("expected no import at work, got one; wait until it is done")
            state = self._imports[project.folder.name] = Import()
        try:
            arguments = (project, source, settings, state, room, self.limits)
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
        with self._starting:
            if any(is_at_work(run) for run in list_runs(project.runs)):
                raise InputError("expected no run at work in this project, got one; stop it, or wait until it is done")
            layout = prepare_run(project, config)
            try:
                start_run(layout, *sign_run(self.root, project, layout, hash_new(config)))
            except (HartError, OSError):
                shutil.rmtree(layout.folder, ignore_errors=True)  # it would look as if it were about to begin
                raise
        return {"run": layout.run_id}

    def scores(self, request: Mapping[str, Any]) -> dict[str, Any]:
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
            return config.tell_scores(project)._asdict()
        except OSError as error:  # a name that is longer than the system allows
            raise InputError(f"expected a model, got {config.model[:40]!r}: {error.strerror}; change it") from error

    def pause(self, request: Mapping[str, Any]) -> None:
        """Let a run wait, with its model in memory, or go on."""
        layout = self._find_run(request)
        if layout.pause.exists():
            layout.pause.unlink(missing_ok=True)
        else:
            layout.pause.touch()

    def stop(self, request: Mapping[str, Any]) -> None:
        """Ask a run to end after its batch; everything done is kept."""
        layout = self._find_run(request)
        if is_on(summarize_run(layout)):
            request_stop(layout)
        else:
            stop_run(layout, 0.0)

    def resume(self, request: Mapping[str, Any]) -> None:
        """Go on with a run that was stopped or lost.

        Raises:
            InputError: If it is completed, or at work, or its config may not be used here (``check_run``).
        """
        self.check_open()
        project, layout = self.open_project(request.get("project")), self._find_run(request)
        sha256 = check_run(self.root, project, layout, self.allowed)
        layout.pause.unlink(missing_ok=True)
        start_run(layout, *sign_run(self.root, project, layout, sha256))

    def find_model(self, project: Project) -> str:
        """The model that judges boxes which a person draws; see ``label_launch.find_model``."""
        return find_model(self.root, project, self.allowed)

    def _read_run(self, request: Mapping[str, Any]) -> tuple[Project, LabelingConfig]:
        """The project of a ``RunRequest``, and the settings of the run."""
        self.check_open()
        wanted = read_request(RunRequest, request)
        project = self.open_project(wanted.project)
        config = LabelingConfig(
            project=str(project.folder),
            model=wanted.model.strip(),
            proposals=ProposalSettings(
                rollouts=wanted.rollouts,
                loop=LoopSettings(temperature=1.0, max_new_tokens=128),
                tightening=TighteningSettings() if wanted.is_tightening else None,
            ),
            is_accepting=wanted.is_accepting,
            wanted=ItemFilter(statuses=wanted.statuses),
        )
        check_config(config, self.allowed)
        return project, config

    def _count_elsewhere(self, project: Project) -> int:
        """Items in all projects but one."""
        others = [each["id"] for each in self.projects({}) if each["id"] != project.folder.name]
        return sum(self.open_project(name).count() for name in others)

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
        if not self.is_open:
            raise InputError(CLOSED)


def to_slug(name: str) -> str:
    """The name of a project's folder: plain letters, digits and hyphens, at most 64.

    A name in another script, which leaves none of them, has a folder that is named by its hash.
    """
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].strip("-")
    return slug or f"project-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_at_work(run: RunSummary) -> bool:
    """Whether a run labels, or is about to."""
    return run.state in {"queued", "running", "stopping"}


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
