from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError, InputError
from hart_studio.labeling.importing import import_samples, import_source
from hart_studio.labeling.job import LabelingConfig, prepare_run, run_labeling
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import archive_project, delete_project, rename_project
from hart_studio.labeling.project_locks import hold_import_lock, hold_project, hold_run_lock, reserve_start
from hart_studio.labeling.sources import SourceSettings
from hart_studio.runs.processes import get_process_start
from hart_studio.runs.status import read_status, write_status
from tests.fakes import ScriptedModel
from tests.unit.labeling.conftest import ask

HOLD = """
import sys
from pathlib import Path
from hart_studio.labeling.project import Project
from hart_studio.labeling import project_locks
project = Project(Path(sys.argv[1]))
with getattr(project_locks, sys.argv[2])(*([project, "20260101-000000-labeling-abcdef"][: int(sys.argv[3])])):
    print("held", flush=True)
    sys.stdin.read()
"""
RUN = "20260101-000000-labeling-abcdef"


class Holder:
    """Another process that holds a lock until it is released."""

    def __init__(self, project: Project, name: str, arguments: int) -> None:
        command = [sys.executable, "-c", HOLD, str(project.folder), name, str(arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=30) == 0


@pytest.fixture
def waiting(project: Project, image: Path) -> Project:
    import_samples(project, LoadedSamples("streets", tuple(ask(image, number) for number in range(4))))
    return project


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hart_studio.labeling.project_locks._LOCK_TIMEOUT_SECONDS", 0.0)


def test_a_run_of_another_process_is_named(waiting: Project) -> None:
    with Holder(waiting, "hold_run_lock", 2) as holder:
        said = rf"Labeling run {RUN} \(process {holder.process.pid}, started at 20.* UTC\) is already working on this"
        with pytest.raises(InputError, match=said), reserve_start(waiting):
            pass
        layout = prepare_run(waiting, LabelingConfig(model="m"))
        with pytest.raises(InputError, match=said):
            run_labeling(layout, lambda name, device, **_: ScriptedModel())
        assert waiting.count_by("status") == {"new": 4}, "nothing was labeled twice"
        assert read_status(layout).state == "queued"
    with hold_run_lock(waiting, layout.run_id):
        pass


def test_two_programs_do_not_start_at_the_same_moment(waiting: Project) -> None:
    with (
        Holder(waiting, "reserve_start", 1),
        pytest.raises(InputError, match="is starting a labeling run"),
        reserve_start(waiting),
    ):
        pass
    with reserve_start(waiting):
        layout = prepare_run(waiting, LabelingConfig(model="m"))
    with pytest.raises(InputError, match=f"{layout.run_id} .waiting to start. is already"), reserve_start(waiting):
        pass
    with reserve_start(waiting, resumed=layout.run_id):
        pass


def test_a_second_import_is_refused(waiting: Project, image: Path) -> None:
    with Holder(waiting, "hold_import_lock", 1) as holder:
        said = f"An import into this project is already running .process {holder.process.pid}, .*Wait until it ends"
        with pytest.raises(InputError, match=said):
            import_source(waiting, str(image.parent), SourceSettings(kind="images", question="What?"))
    assert import_source(waiting, str(image.parent), SourceSettings(kind="images", question="What?")).added == 1


@pytest.mark.parametrize(("lock", "arguments"), [("hold_run_lock", 2), ("hold_import_lock", 1), ("reserve_start", 1)])
def test_a_project_at_work_is_not_renamed_archived_or_deleted(waiting: Project, lock: str, arguments: int) -> None:
    with Holder(waiting, lock, arguments):
        for change in (
            lambda: rename_project(waiting, "Other"),
            lambda: archive_project(waiting),
            lambda: delete_project(waiting, "Streets"),
        ):
            with pytest.raises(InputError, match=r"already|starting"):
                change()
    assert (waiting.name, waiting.archived_at) == ("Streets", None)
    rename_project(waiting, "Other")
    assert waiting.name == "Other"


def test_no_run_and_no_import_begins_while_a_project_is_changed(waiting: Project) -> None:
    with hold_project(waiting):
        for lock in (hold_import_lock(waiting), hold_run_lock(waiting, "x"), reserve_start(waiting)):
            with pytest.raises(InputError), lock:
                pass


def test_no_lock_makes_a_folder_of_a_project_that_is_gone(waiting: Project) -> None:
    shutil.rmtree(waiting.folder)
    for lock in (hold_import_lock(waiting), reserve_start(waiting), hold_project(waiting)):
        with pytest.raises(DataError, match="is gone"), lock:
            pass
    assert not waiting.folder.exists()


def test_a_plain_copy_of_a_project_at_work_is_not_at_work(waiting: Project, tmp_path: Path) -> None:
    layout = prepare_run(waiting, LabelingConfig(model="m"))
    running = read_status(layout).replace(state="running", pid=os.getpid(), pid_start=get_process_start(os.getpid()))
    write_status(layout, running)
    with hold_run_lock(waiting, layout.run_id):
        waiting.database.close()
        shutil.copytree(waiting.folder, tmp_path / "copy")
        with pytest.raises(InputError, match="is already working"), reserve_start(waiting):
            pass
        with reserve_start(Project(tmp_path / "copy")):
            pass


def test_a_killed_holder_leaves_no_lock(waiting: Project) -> None:
    holder = Holder(waiting, "hold_run_lock", 2)
    holder.process.kill()
    holder.process.wait()
    with reserve_start(waiting), hold_run_lock(waiting, "x"):
        pass
