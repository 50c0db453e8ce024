"""Copied runs and projects with links instead of files: nothing is written outside."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.errors import DataError, HartError, InputError
from hart_studio.labeling.calibration_lookup import CALIBRATION
from hart_studio.labeling.database import DATABASE
from hart_studio.labeling.importing import import_source
from hart_studio.labeling.job import LabelingConfig
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_creation import TRASH
from hart_studio.labeling.project_lifecycle import delete_project, duplicate_project
from hart_studio.labeling.project_locks import IMPORT_LOCK, RUN_LOCK, START_LOCK, hold_run_lock, reserve_start
from hart_studio.labeling.project_store import ProjectStore
from hart_studio.labeling.sources import SourceSettings
from hart_studio.labeling.training_set import write_training_set
from hart_studio.runs.checkpoints import (
    begin_checkpoint,
    complete_checkpoint,
    list_checkpoints,
    prune_checkpoints,
)
from hart_studio.runs.events import EventLog
from hart_studio.runs.launcher import request_stop, start_run
from hart_studio.runs.layout import RunLayout, find_run
from hart_studio.runs.queue import LaunchPlan, RunQueue, enqueue_launch
from hart_studio.runs.status import RunStatus, read_status, write_status
from hart_studio.runs.writer import RunWriter, create_run, record_end
from hart_studio.ui.api.exports import LabelExportApi
from hart_studio.ui.api.handler import call_handler
from hart_studio.ui.api.labels import LabelApi

ARGUMENTS = ("/bin/true",)
TEXT = "of a person"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """User files that must not change."""
    folder = tmp_path / "outside"
    (folder / "folder").mkdir(parents=True)
    (folder / "file").write_text(TEXT)
    (folder / "folder" / "step_000001.jsonl").write_text(TEXT)
    before = content(folder)
    yield folder
    assert content(folder) == before


def content(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    """A stopped run."""
    layout = create_run(tmp_path / "runs", "labeling", LabelingConfig(), "labeling", 1)
    write_status(layout, read_status(layout).replace(state="stopped", attempt=1))
    return layout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return ProjectStore(tmp_path / "labels").create_project("copied")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.write(tmp_path / "a.png", "a.png")
        file.writestr("t.csv", "image,question,answer\na.png,What?,red\n")
    return path


def link(path: Path, target: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def attempt(layout: RunLayout) -> None:
    with RunWriter(layout, 1):
        pass


BEGINNINGS: dict[str, Callable[[RunLayout], Any]] = {
    "start": lambda run: start_run(run, ARGUMENTS),
    "queue": lambda run: enqueue_launch(run, LaunchPlan(argv=ARGUMENTS)),
    "write": attempt,
}
RUN_FILES = [
    "logs/attempt_2.log", "logs/attempt_9.log", "events.jsonl", "lock", "rollouts/images/x.jpg",
    "checkpoints/step_000001",
]  # fmt: skip


@pytest.mark.parametrize("begin", BEGINNINGS)
@pytest.mark.parametrize("name", [*RUN_FILES, "logs", "rollouts", "rollouts/images", "checkpoints"])
@pytest.mark.parametrize("target", ["file", "folder", "missing"])
def test_no_attempt_begins_in_a_run_with_links(
    run: RunLayout, outside: Path, name: str, begin: str, target: str
) -> None:
    link(run.folder / name, outside / target)
    with pytest.raises(InputError, match="symbolic link"):
        BEGINNINGS[begin](run)
    status = read_status(run)
    assert (status.state, status.attempt) == ("stopped", 1)


@pytest.mark.parametrize("target", ["file", "missing"])
def test_a_stop_is_not_written_through_a_link(run: RunLayout, outside: Path, target: str) -> None:
    link(run.stop, outside / target)
    request_stop(run)
    assert run.stop.is_file() and not run.stop.is_symlink()


@pytest.mark.parametrize("target", ["file", "missing"])
def test_the_end_of_a_run_is_not_written_through_a_link(run: RunLayout, outside: Path, target: str) -> None:
    link(run.events, outside / target)
    record_end(run, EventLog(run.events), read_status(run), "failed", 1, "why")
    assert read_status(run).error == "why"


def test_a_queued_run_that_was_copied_here_fails_without_a_trace(run: RunLayout, outside: Path) -> None:
    """The queue reads it without a request."""
    write_status(run, RunStatus(job="labeling", state="queued", total=1))
    run.launch.write_text('{"argv": ["/bin/true"], "gpus": []}')
    link(run.events, outside / "file")
    RunQueue(run.folder.parent).start_next()
    assert read_status(run).state == "failed"


def save(run: RunLayout, *steps: int) -> None:
    for step in steps:
        (begin_checkpoint(run, step) / "weights").write_text("x")
        complete_checkpoint(run, step, "sft")


def test_the_checkpoints_of_another_run_are_not_pruned(run: RunLayout) -> None:
    other = create_run(run.folder.parent, "labeling", LabelingConfig(), "labeling", 3)
    save(other, 1, 2, 3)
    link(run.checkpoints, other.checkpoints)
    assert list_checkpoints(run) == [] and prune_checkpoints(run, 1) == []
    with pytest.raises(InputError, match="symbolic link"):
        begin_checkpoint(run, 2)
    assert [found.manifest.step for found in list_checkpoints(other)] == [1, 2, 3]


def test_a_checkpoint_of_the_run_itself_is_not_replaced_through_a_link(run: RunLayout) -> None:
    save(run, 1)
    run.checkpoint_of(2).symlink_to(run.checkpoint_of(1))
    save(run, 2)
    assert [found.manifest.step for found in list_checkpoints(run)] == [1, 2]


def test_a_link_to_another_run_or_project_is_none(run: RunLayout, project: Project) -> None:
    """Deleting the link would delete the other project."""
    alias = run.folder.with_name(f"{run.run_id[:-6]}000000")
    alias.symlink_to(run.folder)
    with pytest.raises(InputError, match="There is no run"):
        find_run(run.folder.parent, alias.name)
    project.folder.with_name("alias").symlink_to(project.folder)
    with pytest.raises(InputError, match="No project"):
        ProjectStore(project.folder.parent).open_project("alias")
    assert find_run(run.folder.parent, run.run_id) == run
    assert ProjectStore(project.folder.parent).open_project("copied").folder == project.folder


@pytest.mark.parametrize("target", ["file", "missing"])
def test_a_pause_is_not_written_through_a_link(project: Project, outside: Path, target: str) -> None:
    layout = create_run(project.runs, "labeling", LabelingConfig(), "labeling", 1)
    api, request = LabelApi(project.folder.parent), {"project": project.folder.name, "run": layout.run_id}
    link(layout.pause, outside / target)
    call_handler(api.pause, request)
    assert not layout.pause.is_symlink()
    call_handler(api.pause, request)
    assert layout.pause.is_file()


def export(project: Project) -> None:
    api = LabelApi(project.folder.parent)
    outputs = LabelExportApi(api, project.folder.parent.parent / "served")
    call_handler(outputs.export, {"project": project.folder.name, "format": "native", "statuses": ["new"]})


def hold(project: Project) -> None:
    with hold_run_lock(project, "a-run"):
        pass


def start(project: Project) -> None:
    with reserve_start(project):
        pass


CHANGES: dict[str, Callable[[Project, Path], Any]] = {
    "import": lambda project, archive: import_source(project, str(archive), SourceSettings()),
    "export": lambda project, _: export(project),
    "training": lambda project, _: write_training_set(project),
    "duplicate": lambda project, _: duplicate_project(project, project.folder.with_name("copy"), "copy"),
    "delete": lambda project, _: delete_project(project, project.name),
    "run": lambda project, _: hold(project),
    "start": lambda project, _: start(project),
}
PROJECT_FILES = [
    "exports", "images", "runs", "training", CALIBRATION, IMPORT_LOCK, f"runs/{RUN_LOCK}", f"runs/{START_LOCK}"
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", PROJECT_FILES)
@pytest.mark.parametrize("target", ["folder", "missing"])
def test_a_project_with_links_is_not_changed(
    project: Project, archive: Path, outside: Path, name: str, change: str, target: str
) -> None:
    project.runs.mkdir(exist_ok=True)
    link(project.folder / name, outside / target)
    with pytest.raises(InputError, match=f"copied contains a symbolic link out of its folder: {name}"):
        CHANGES[change](project, archive)
    assert project.count() == 0
    assert [path.name for path in project.folder.parent.iterdir() if not path.name.startswith(".")] == ["copied"]


def test_other_files_of_a_person_in_the_folder_of_a_project_may_be_links(
    project: Project, archive: Path, outside: Path
) -> None:
    link(project.folder / "album", outside / "folder")
    assert import_source(project, str(archive), SourceSettings()).added == 1
    assert duplicate_project(project, project.folder.with_name("copy"), "copy").count() == 1


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal"])
def test_the_database_of_another_project_is_not_written(project: Project, tmp_path: Path, ending: str) -> None:
    other = ProjectStore(tmp_path / "others").create_project("other")
    for each in (project, other):
        each.database.close()
    if not ending:
        (project.folder / DATABASE).unlink()
    before = content(other.folder)
    link(project.folder / f"{DATABASE}{ending}", other.folder / DATABASE)
    with pytest.raises(HartError, match="is a symbolic link"):
        Project(project.folder)
    assert content(other.folder) == before


def test_the_trash_is_no_link(project: Project, outside: Path) -> None:
    link(project.folder.parent / TRASH, outside / "folder")
    with pytest.raises(DataError, match=r"The trash .* is a symbolic link"):
        delete_project(project, project.name)
    assert project.folder.is_dir()
