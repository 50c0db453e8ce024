from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError, InputError
from hart_studio.labeling import project_lifecycle
from hart_studio.labeling.calibration_lookup import CALIBRATION
from hart_studio.labeling.connection_pool import CONNECTION_POOL
from hart_studio.labeling.database import DATABASE
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.job import LabelingConfig, count_items, prepare_run, run_labeling
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import (
    DRAFT_PREFIX,
    TRASH,
    TRASH_DAYS,
    archive_project,
    create_project,
    delete_project,
    duplicate_project,
    list_trash,
    purge_trash,
    rename_project,
    restore_project,
)
from hart_studio.labeling.review import ReviewQueue
from hart_studio.labeling.self_verify import ProposalSettings
from hart_studio.runs.processes import get_process_start
from hart_studio.runs.reader import list_runs
from hart_studio.runs.status import read_status, write_status
from tests.fakes import ScriptedModel
from tests.unit.labeling.conftest import WH, ask
from tests.unit.pipeline.conftest import boxes_text


def create_together(folder: Path, count: int = 8) -> list[object]:
    barrier = threading.Barrier(count)

    def create(number: int) -> object:
        barrier.wait()
        try:
            return create_project(folder, f"by {number}").name
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(create, range(count)))


@pytest.mark.parametrize("place", ["p", "root/that/is/missing/p"])
def test_of_many_that_make_one_project_one_succeeds(tmp_path: Path, place: str) -> None:
    results = create_together(tmp_path / place)
    names = [result for result in results if isinstance(result, str)]
    errors = [result for result in results if not isinstance(result, str)]
    assert len(names) == 1
    assert {type(error) for error in errors} == {InputError}
    assert all("is in" in str(error) and "already" in str(error) for error in errors)
    assert Project(tmp_path / place).name == names[0]
    assert [path.name for path in (tmp_path / place).parent.iterdir()] == ["p"], "no draft is left"


def test_of_two_processes_that_make_one_project_one_succeeds(tmp_path: Path) -> None:
    code = "import sys; from hart_studio.labeling.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "create", str(tmp_path / "root" / "p")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    reported = [process.communicate(timeout=60) for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2]
    assert sum("is in" in error for _, error in reported) == 1
    assert Project(tmp_path / "root" / "p").count() == 0


def test_a_folder_with_other_files_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "notes.txt").write_text("mine")
    create_project(tmp_path / "p", "Signs")
    assert (tmp_path / "p" / "notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match="already"):
        create_project(tmp_path / "p")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(draft: Path, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(project_lifecycle, "publish_draft", fail)
    with pytest.raises(DataError, match="No space left"):
        create_project(tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("place", "name"), [(".trash", "p"), (".draft-0", "p"), ("x\udcff", "p"), ("p", "x\udcff")])
def test_invalid_folders_and_names_are_rejected(tmp_path: Path, place: str, name: str) -> None:
    with pytest.raises(InputError, match="Choose another"):
        create_project(tmp_path / place, name)
    assert list(tmp_path.iterdir()) == []


def test_a_project_in_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    assert create_project(tmp_path / "x\udcff" / "p").count() == 0


@pytest.fixture
def own(project: Project) -> Project:
    """Four questions about an image in the project folder."""
    image = project.images / "ab" / "street.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", WH, "white").save(image)
    import_samples(project, LoadedSamples("streets", tuple(ask(image, number) for number in range(4))))
    return project


def model() -> ScriptedModel:
    return ScriptedModel(grounding=boxes_text((250, 333, 500, 667)), crops_only="B", direct="B")


def label(project: Project) -> str:
    """A labeling run over all items."""
    config = LabelingConfig(model="m", proposals=ProposalSettings(rollouts=2))
    layout = prepare_run(project, config)
    run_labeling(layout, lambda name, device, **_: model())
    return layout.run_id


def paths(project: Project) -> set[Path]:
    return {Path(item.image.path) for item in project.items()}


def test_a_moved_project_finds_its_own_images(own: Project, tmp_path: Path) -> None:
    CONNECTION_POOL.close_idle(own.folder)
    own.folder.rename(tmp_path / "moved")
    moved = Project(tmp_path / "moved")
    assert paths(moved) == {tmp_path / "moved" / "images" / "ab" / "street.png"}
    label(moved)
    assert moved.count_by("status") == {"proposed": 4}


def test_a_copied_project_finds_its_own_images(own: Project, tmp_path: Path) -> None:
    CONNECTION_POOL.close_idle(own.folder)
    shutil.copytree(own.folder, tmp_path / "copy")
    shutil.rmtree(own.folder)
    label(Project(tmp_path / "copy"))
    assert Project(tmp_path / "copy").count_by("status") == {"proposed": 4}


def test_images_elsewhere_stay_where_they_are(filled: Project, image: Path, tmp_path: Path) -> None:
    copy = duplicate_project(filled, tmp_path / "copy", "Copy")
    assert paths(copy) == {image.resolve()}


def test_a_run_that_is_resumed_in_a_copy_changes_the_copy_alone(own: Project, tmp_path: Path) -> None:
    layout = prepare_run(own, LabelingConfig(model="m", proposals=ProposalSettings(rollouts=2)))
    CONNECTION_POOL.close_idle(own.folder)
    shutil.copytree(own.folder, tmp_path / "copy")
    copy = Project(tmp_path / "copy")
    (run,) = list_runs(copy.runs)
    run_labeling(run.layout, lambda name, device, **_: model())
    assert copy.count_by("status") == {"proposed": 4}
    assert own.count_by("status") == {"new": 4}
    assert count_items(own, layout.run_id, is_left=True) == 4
    assert str(own.folder) not in layout.config.read_text()


def test_a_duplicate_holds_everything_but_exports_and_logs(own: Project, tmp_path: Path) -> None:
    run = label(own)
    item = next(own.items())
    ReviewQueue(own).decide("Ada", item.id, item.label.revision, "accept")
    ReviewQueue(own).next_item("Ada")
    (own.folder / CALIBRATION).write_text("{}")
    (own.folder / "exports" / "001-coco").mkdir(parents=True)
    (own.runs / run / "logs" / "attempt_1.log").write_text("words")
    (own.folder / "images" / "link").symlink_to("ab/street.png")
    own.set_archived(is_archived=True)
    copy = duplicate_project(own, tmp_path / "copies" / "copy", " Copy ")
    assert (copy.name, copy.archived_at, copy.settings) == ("Copy", None, own.settings)
    assert list(copy.items(with_history=True)) != list(own.items(with_history=True)), "images are the copy's own"
    assert [(each.id, each.label, each.history) for each in copy.items(with_history=True)] == [
        (each.id, each.label, each.history) for each in own.items(with_history=True)
    ]
    assert ReviewQueue(copy).undo("Ada") is not None, "decisions and their history are there"
    with copy.database.reading() as connection:
        claims = [row["reviewer"] for row in connection.execute("SELECT reviewer FROM item_locks")]
    assert claims == ["Ada"], "only what undo has opened: no one has an item of the copy open"
    assert paths(copy) == {copy.images / "ab" / "street.png"}
    assert (copy.folder / CALIBRATION).is_file()
    assert not (copy.folder / "exports").exists()
    assert [each.layout.run_id for each in list_runs(copy.runs)] == [run]
    assert not (copy.images / "link").exists()
    assert list((copy.runs / run / "logs").iterdir()) == [] and not (copy.runs / run / "lock").exists()
    assert own.count_by("status")["accepted"] == 1


def test_a_run_at_work_is_stopped_in_the_copy(own: Project, tmp_path: Path) -> None:
    layout = prepare_run(own, LabelingConfig(model="m", proposals=ProposalSettings(rollouts=2)))
    active = read_status(layout).replace(state="running", pid=os.getpid(), pid_start=get_process_start(os.getpid()))
    write_status(layout, active)
    copy = duplicate_project(own, tmp_path / "copy", "Copy")
    (run,) = list_runs(copy.runs)
    assert (run.state, run.status and run.status.pid) == ("stopped", None)
    assert read_status(layout) == active
    run_labeling(run.layout, lambda name, device, **_: model())
    assert (copy.count_by("status"), own.count_by("status")) == ({"proposed": 4}, {"new": 4})


def test_a_duplicate_is_one_state_while_others_write(filled: Project, item_ids: list[str], tmp_path: Path) -> None:
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            with filled.database.writing() as connection:  # both or none
                connection.execute("UPDATE items SET category = category || 'x'")
                connection.execute("UPDATE project SET settings = settings")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(5):
            copy = duplicate_project(filled, tmp_path / f"copy{number}", "Copy")
            assert len(copy.count_by("category")) == 1, "all items are of one transaction"
            with copy.database.reading() as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            time.sleep(0.02)
    finally:
        is_over.set()
        thread.join()


def test_a_copy_that_fails_leaves_nothing(own: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="already"):
        duplicate_project(own, own.folder, "Copy")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(project_lifecycle.shutil, "copy2", fail)
    with pytest.raises(DataError, match="No space left"):
        duplicate_project(own, tmp_path / "copy", "Copy")
    assert not (tmp_path / "copy").exists() and not list(tmp_path.glob(f"{DRAFT_PREFIX}*"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("other", ["README.txt", "images/", "runs/"])
def test_a_copy_goes_only_into_a_new_or_an_empty_folder(own: Project, tmp_path: Path, other: str) -> None:
    label(own)
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / other).mkdir() if other.endswith("/") else (tmp_path / "backup" / other).write_text("mine")
    with pytest.raises(InputError, match="Choose a new or an empty folder"):
        duplicate_project(own, tmp_path / "backup", "Copy")
    assert names(tmp_path / "backup") == [other.rstrip("/")]
    (tmp_path / "empty").mkdir()
    copy = duplicate_project(own, tmp_path / "empty", "Copy")
    CONNECTION_POOL.close_idle(own.folder)
    shutil.rmtree(own.folder)
    assert all(path.is_file() and path.is_relative_to(copy.folder) for path in paths(copy))
    assert len(list_runs(copy.runs)) == 1


def test_a_folder_that_is_filled_during_a_copy_gets_no_part_of_it(
    own: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = project_lifecycle.publish_draft

    def fill_first(draft: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
        real(draft, folder)

    monkeypatch.setattr(project_lifecycle, "publish_draft", fill_first)
    with pytest.raises(InputError, match="Choose a new or an empty folder"):
        duplicate_project(own, tmp_path / "copy", "Copy")
    assert names(tmp_path / "copy") == ["notes.txt"]


@pytest.mark.parametrize("place", [".trash", ".trash/x", ".draft-1", "project/sub", "project/images/x", "x\udcff"])
def test_reserved_folders_and_folders_in_the_project_are_rejected(own: Project, tmp_path: Path, place: str) -> None:
    with pytest.raises(InputError, match="Choose"):
        duplicate_project(own, tmp_path / place, "Copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["project"]


def test_a_damaged_project_is_not_copied_archived_or_renamed(filled: Project, image: Path, tmp_path: Path) -> None:
    CONNECTION_POOL.close_idle(filled.folder)
    path = filled.folder / DATABASE
    with path.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(b"\xaa" * (path.stat().st_size - 4096 * 8))
    before = path.read_bytes()
    damaged = Project(filled.folder)
    for change in (
        lambda: duplicate_project(damaged, tmp_path / "copy", "Copy"),
        lambda: archive_project(damaged),
        lambda: rename_project(damaged, "Other"),
    ):
        with pytest.raises(DataError, match=r"project\.sqlite.*damaged"):
            change()
    CONNECTION_POOL.close_idle(filled.folder)
    assert path.read_bytes() == before
    assert not (tmp_path / "copy").exists() and not list(tmp_path.glob(f"{DRAFT_PREFIX}*"))


def test_rename_keeps_the_folder(filled: Project) -> None:
    rename_project(filled, "  Other  ")
    assert (Project(filled.folder).name, filled.folder.name) == ("Other", "project")
    with pytest.raises(InputError, match="1 to 120"):
        rename_project(filled, "a\nb")


def test_archive_and_back(filled: Project) -> None:
    archive_project(filled)
    assert Project(filled.folder).archived_at is not None
    archive_project(filled, is_archived=False)
    assert Project(filled.folder).archived_at is None


def test_delete_needs_the_name_and_can_be_taken_back(filled: Project, item_ids: list[str]) -> None:
    root = filled.folder.parent
    with pytest.raises(InputError, match="Type 'Streets'"):
        delete_project(filled, "streets")
    entry = delete_project(filled, " Streets ")
    assert not filled.folder.exists()
    with pytest.raises(DataError, match="is gone"):
        filled.count()
    (found,) = list_trash(root)
    assert (found.id, found.name, found.days_left) == (entry, "Streets", TRASH_DAYS)
    restored = restore_project(root, entry)
    assert restored.folder == filled.folder
    assert [item.id for item in restored.items()] == item_ids
    assert list_trash(root) == []


def test_an_existing_folder_gets_a_number(filled: Project, tmp_path: Path) -> None:
    entry = delete_project(filled, "Streets")
    filled.folder.mkdir()
    assert restore_project(tmp_path, entry).folder.name == "project-2"


@pytest.mark.parametrize("entry", ["", "..", "../project", "20260101-000000-abcdef-x", "/etc"])
def test_only_what_is_in_the_trash_is_restored(filled: Project, tmp_path: Path, entry: str) -> None:
    with pytest.raises(InputError, match="holds no project"):
        restore_project(tmp_path, entry)


def test_old_trash_and_old_drafts_are_removed(filled: Project, tmp_path: Path) -> None:
    new = delete_project(filled, "Streets")
    old = f"{datetime.now(UTC) - timedelta(days=TRASH_DAYS, hours=1):%Y%m%d-%H%M%S}-abcdef-old"
    (tmp_path / TRASH / old).mkdir()
    (tmp_path / TRASH / "notes").mkdir()
    for name in (f"{DRAFT_PREFIX}old", f"{DRAFT_PREFIX}new"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / f"{DRAFT_PREFIX}old", (1, 1))
    assert purge_trash(tmp_path) == 1
    assert sorted(path.name for path in (tmp_path / TRASH).iterdir()) == sorted([new, "notes"])
    assert [path.name for path in tmp_path.glob(f"{DRAFT_PREFIX}*")] == [f"{DRAFT_PREFIX}new"]
    assert purge_trash(tmp_path / "missing") == 0


def test_deleting_removes_old_trash_and_can_be_for_good(filled: Project, tmp_path: Path) -> None:
    old = f"{datetime.now(UTC) - timedelta(days=TRASH_DAYS + 1):%Y%m%d-%H%M%S}-abcdef-old"
    (tmp_path / TRASH / old).mkdir(parents=True)
    assert delete_project(filled, "Streets", is_kept=False) == ""
    assert list((tmp_path / TRASH).iterdir()) == []
    assert not (filled.folder / DATABASE).exists()
