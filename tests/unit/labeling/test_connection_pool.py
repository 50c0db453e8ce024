from __future__ import annotations

import errno
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hart_studio.errors import DataError
from hart_studio.files import PROTECTED_FILES, open_regular_file
from hart_studio.labeling.connection_pool import CONNECTION_POOL, ConnectionPool
from hart_studio.labeling.database import DATABASE, Database
from hart_studio.labeling.importing import inspect_image
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project, duplicate_project
from hart_studio.labeling.review import ReviewQueue
from tests.unit.labeling.conftest import add_label

BIG = "x" * 2_000_000

MANY = """
import resource, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from hart_studio.labeling.project_store import ProjectStore
store = ProjectStore(Path(sys.argv[1]))
count, threads = int(sys.argv[2]), int(sys.argv[3])
for number in range(count):
    store.root.mkdir(exist_ok=True)
    from hart_studio.labeling.project_lifecycle import create_project
    create_project(store.root / f"p{number}", f"Project {number}")
def work(thread):
    for number in range(thread, count, 3):
        project = store.open_project(f"p{number}")
        with project.database.writing() as connection:
            connection.execute("UPDATE project SET settings = settings")
        assert project.name == f"Project {number}" and list(project.items()) == []
    return len([entry for entry in store.list_projects() if not entry.problem])
with ThreadPoolExecutor(threads) as pool:
    assert list(pool.map(work, range(threads))) == [count] * threads
import os
print(len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0)
"""


def decide(project: Project, item_id: str) -> None:
    queue = ReviewQueue(project)
    queue.decide("Ada", item_id, project.item(item_id).label.revision, "accept")


def read_number(path: Path) -> int:
    """Transaction number in the header of a file without connections."""
    return int.from_bytes(path.read_bytes()[68:72], "big")


def read_status(folder: Path, item_id: str) -> str:
    """State of the files in a folder, read by another program."""
    query = "SELECT status FROM items WHERE id = ?"
    connection = sqlite3.connect(folder / DATABASE)
    try:
        return str(connection.execute(query, (item_id,)).fetchone()[0])
    finally:
        connection.close()


def back_up(project: Project, target: Path) -> None:
    """A backup file made by SQLite's own command."""
    copy = sqlite3.connect(target)
    with project.database.reading() as connection:
        connection.backup(copy)
    copy.close()


def restore_in_place(source: Path, target: Path) -> None:
    """Overwrite a file in another process, so that this process keeps its locks."""
    subprocess.run(["cp", str(source), str(target)], check=True)


def run_many(folder: Path, projects: int, threads: int) -> int:
    command = [sys.executable, "-c", MANY, str(folder), str(projects), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout)


def test_many_projects_and_threads_need_few_open_files(tmp_path: Path) -> None:
    assert run_many(tmp_path / "root", 60, 12) < 120


@pytest.mark.slow
def test_two_hundred_projects_and_twelve_threads_need_few_open_files(tmp_path: Path) -> None:
    assert run_many(tmp_path / "root", 200, 12) < 120


def test_the_least_recently_used_connection_is_closed(tmp_path: Path) -> None:
    pool = ConnectionPool(max_open=2)
    paths = [create_project(tmp_path / name).database.path for name in "abc"]
    CONNECTION_POOL.close_idle(tmp_path)
    first = pool.acquire(paths[0])
    pool.release(first)
    pool.release(pool.acquire(paths[1]))
    again = pool.acquire(paths[0])
    assert again is first, "the connection is used again"
    pool.release(again)
    pool.release(pool.acquire(paths[2]))
    assert pool.open_count == 2
    assert pool.acquire(paths[0]) is first, "the other one was closed"


def test_a_thread_waits_for_a_connection_and_says_when_none_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ConnectionPool(max_open=1)
    path = create_project(tmp_path / "p").database.path
    pooled = pool.acquire(path)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.acquire, path)
        time.sleep(0.1)
        assert not waiting.done()
        pool.release(pooled)
        pool.release(waiting.result(timeout=10))
        monkeypatch.setattr("hart_studio.labeling.connection_pool.LOCK_TIMEOUT_SECONDS", 0.05)
        held = pool.acquire(path)
        with pytest.raises(DataError, match="are in use"):
            threads.submit(pool.acquire, path).result(timeout=10)
        pool.release(held)


def test_a_thread_with_a_lease_never_waits_for_itself(tmp_path: Path) -> None:
    pool = ConnectionPool(max_open=1)
    first, second = [Database(create_project(tmp_path / name).database.path, pool) for name in "ab"]
    with first.reading(), second.reading() as connection:
        assert connection.execute("SELECT COUNT(*) FROM items").fetchone()[0] == 0
    assert pool.open_count <= 1


def test_a_lease_may_end_in_another_thread(tmp_path: Path) -> None:
    pool = ConnectionPool(max_open=1)
    path = create_project(tmp_path / "p").database.path
    pooled = pool.acquire(path)
    thread = threading.Thread(target=pool.release, args=(pooled,))
    thread.start()
    thread.join()
    assert pool.acquire(path) is pooled


def test_reading_inside_writing_sees_its_changes(filled: Project) -> None:
    with filled.database.writing() as connection:
        connection.execute("UPDATE project SET name = 'other'")
        assert filled.name == "other"
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(lambda: filled.name).result() == "Streets"


def test_items_that_are_not_read_to_the_end_hold_no_connection(filled: Project) -> None:
    CONNECTION_POOL.close_idle(filled.folder)
    items = filled.items()
    next(items)
    before = CONNECTION_POOL.open_count
    CONNECTION_POOL.close_idle(filled.folder)
    assert CONNECTION_POOL.open_count == before - 1, "it was idle"
    assert len(list(items)) == 5


def test_a_removed_folder_is_reported_and_nothing_is_saved(filled: Project, item_ids: list[str]) -> None:
    shutil.rmtree(filled.folder)
    with pytest.raises(DataError, match=r"is gone.*was not saved"):
        decide(filled, item_ids[0])
    with pytest.raises(DataError, match="is gone"):
        filled.count()
    assert not filled.folder.exists(), "nothing is made at its place"


def test_a_folder_that_is_removed_inside_a_transaction(filled: Project, item_ids: list[str]) -> None:
    with pytest.raises(DataError, match="is gone"), filled.database.writing() as connection:
        connection.execute("UPDATE items SET status = 'accepted'")
        shutil.rmtree(filled.folder)


def test_a_folder_that_is_removed_while_a_transaction_is_committed(
    filled: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = []
    real = ConnectionPool.check

    def check(pool: ConnectionPool, pooled: object) -> None:
        checks.append(pooled)
        real(pool, pooled)  # type: ignore[arg-type]
        if len(checks) == 2:  # of the lease, and before COMMIT
            shutil.rmtree(filled.folder)

    monkeypatch.setattr(ConnectionPool, "check", check)
    with pytest.raises(DataError, match="is gone"), filled.database.writing() as connection:
        connection.execute("UPDATE items SET status = 'accepted'")
    assert len(checks) == 3


def test_a_moved_folder_is_reported_and_works_at_its_new_path(
    filled: Project, item_ids: list[str], tmp_path: Path
) -> None:
    decide(filled, item_ids[0])
    filled.folder.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="is gone"):
        decide(filled, item_ids[1])
    moved = Project(tmp_path / "moved")
    assert moved.item(item_ids[0]).label.status == "accepted", "what was saved before moved with it"
    assert moved.item(item_ids[1]).label.status == "proposed"
    decide(moved, item_ids[1])
    assert read_status(tmp_path / "moved", item_ids[1]) == "accepted"


def test_a_folder_that_is_replaced_by_its_backup(filled: Project, item_ids: list[str], tmp_path: Path) -> None:
    CONNECTION_POOL.close_idle(filled.folder)
    shutil.copytree(filled.folder, tmp_path / "backup")
    decide(filled, item_ids[0])
    filled.folder.rename(tmp_path / "old")
    (tmp_path / "backup").rename(filled.folder)
    with pytest.raises(DataError, match="was replaced while it was open"):
        decide(filled, item_ids[1])
    restored = Project(filled.folder)
    assert restored.item(item_ids[0]).label.status == "proposed"
    decide(restored, item_ids[2])
    CONNECTION_POOL.close_idle(filled.folder)
    assert read_status(filled.folder, item_ids[2]) == "accepted"
    assert read_status(tmp_path / "old", item_ids[0]) == "accepted", "the old folder keeps its own"


@pytest.mark.parametrize("is_in_place", [True, False])
def test_a_file_that_is_replaced_alone_does_not_get_the_log_of_the_earlier_one(
    filled: Project, item_ids: list[str], tmp_path: Path, is_in_place: bool
) -> None:
    backup = tmp_path / "backup.sqlite"
    back_up(filled, backup)
    decide(filled, item_ids[0])
    with filled.database.reading() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for item_id in item_ids[1:4]:  # in the log only
        decide(filled, item_id)
    log = filled.folder / f"{DATABASE}-wal"
    assert log.stat().st_size > 0
    if is_in_place:
        shutil.copyfile(backup, filled.folder / DATABASE)
    else:
        backup.replace(filled.folder / DATABASE)
    with pytest.raises(DataError, match="was replaced while it was open"):
        decide(filled, item_ids[4])
    restored = Project(filled.folder)
    assert restored.count_by("status") == {"proposed": 6}
    decide(restored, item_ids[5])
    with restored.database.reading() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    CONNECTION_POOL.close_idle(filled.folder)
    assert [read_status(filled.folder, item_id) for item_id in item_ids] == ["proposed"] * 5 + ["accepted"]
    (kept,) = filled.folder.glob(f"{DATABASE}-wal.replaced-*")
    assert kept.stat().st_size > 0, "what only the log held is kept aside"


def test_a_file_that_is_overwritten_in_place_after_a_checkpoint(
    filled: Project, item_ids: list[str], tmp_path: Path
) -> None:
    backup = tmp_path / "backup.sqlite"
    back_up(filled, backup)
    for item_id in item_ids[:4]:
        decide(filled, item_id)
    with filled.database.reading() as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    assert filled.count_by("status") == {"accepted": 4, "proposed": 2}, "a checkpoint is no other file"
    shutil.copyfile(backup, filled.folder / DATABASE)
    with pytest.raises(DataError, match="was replaced while it was open"):
        filled.count()
    restored = Project(filled.folder)
    assert restored.count_by("status") == {"proposed": 6}
    decide(restored, item_ids[0])
    CONNECTION_POOL.close_idle(filled.folder)
    assert read_status(filled.folder, item_ids[0]) == "accepted"


def test_a_file_overwritten_by_its_own_state_keeps_the_log(
    filled: Project, item_ids: list[str], tmp_path: Path
) -> None:
    with filled.database.reading() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # Another process copies it: closing a descriptor of the file here would release the locks of this process.
    subprocess.run(["cp", str(filled.database.path), str(tmp_path / "backup.sqlite")], check=True)
    decide(filled, item_ids[0])
    shutil.copyfile(tmp_path / "backup.sqlite", filled.folder / DATABASE)
    decide(filled, item_ids[1])
    CONNECTION_POOL.close_idle(filled.folder)
    assert [read_status(filled.folder, item_id) for item_id in item_ids[:2]] == ["accepted"] * 2


def test_a_copy_that_went_on_alone_is_another_file(filled: Project, item_ids: list[str], tmp_path: Path) -> None:
    CONNECTION_POOL.close_idle(filled.folder)
    shutil.copytree(filled.folder, tmp_path / "copy")
    copy = Project(tmp_path / "copy")
    for item_id in item_ids:
        decide(copy, item_id)
    CONNECTION_POOL.close_idle(copy.folder)
    decide(filled, item_ids[0])
    shutil.copyfile(copy.database.path, filled.folder / DATABASE)
    with pytest.raises(DataError, match="was replaced while it was open"):
        filled.count()
    assert Project(filled.folder).count_by("status") == {"accepted": 6}


def test_another_project_in_the_same_file_is_reported(filled: Project, tmp_path: Path) -> None:
    other = create_project(tmp_path / "other", "Other")
    CONNECTION_POOL.close_idle(other.folder)
    shutil.copyfile(other.database.path, filled.folder / DATABASE)
    with pytest.raises(DataError, match="was replaced while it was open"):
        filled.count()
    assert Project(filled.folder).name == "Other"


def test_half_a_backup_is_reported(filled: Project, tmp_path: Path) -> None:
    back_up(filled, tmp_path / "backup.sqlite")
    half = (tmp_path / "backup.sqlite").read_bytes()[:9000]
    with (filled.folder / DATABASE).open("wb") as file:
        file.write(half)
    for _ in range(2):
        with pytest.raises(DataError):
            Project(filled.folder).count_by("status")


def test_checkpoints_of_another_program_change_nothing(filled: Project, item_ids: list[str]) -> None:
    decide(filled, item_ids[0])
    code = (
        "import sys; from pathlib import Path; from hart_studio.labeling.project import Project\n"
        "project = Project(Path(sys.argv[1]))\n"
        "for number in range(30):\n"
        "    with project.database.writing() as connection:\n"
        "        connection.execute('UPDATE project SET settings = settings')\n"
        "    with project.database.reading() as connection:\n"
        "        connection.execute('PRAGMA wal_checkpoint(PASSIVE)')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(filled.folder)], env=dict(os.environ))
    while process.poll() is None:
        assert filled.count() == 6
        time.sleep(0.005)
    assert process.returncode == 0
    decide(filled, item_ids[1])
    assert filled.count_by("status") == {"accepted": 2, "proposed": 4}


def test_a_file_that_a_checkpoint_extends_is_not_taken_for_a_damaged_one(filled: Project) -> None:
    def write() -> None:
        for number in range(40):
            with filled.database.writing() as connection:
                connection.execute(
                    "INSERT INTO imports (at, source, added, known, invalid) VALUES ('', ?, 0, 0, 0)", (BIG,)
                )
            with filled.database.reading() as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            assert number >= 0

    with ThreadPoolExecutor(2) as pool:
        writer = pool.submit(write)
        while not writer.done():
            assert filled.count() == 6
        writer.result()


def test_the_number_in_the_file_grows_and_copies_get_another(filled: Project, tmp_path: Path) -> None:
    CONNECTION_POOL.close_idle(filled.folder)
    first = read_number(filled.database.path)
    assert first > 0
    add_label(filled, next(filled.items()).id, status="rejected")
    CONNECTION_POOL.close_idle(filled.folder)
    assert read_number(filled.database.path) == first + 1
    copy = duplicate_project(filled, tmp_path / "copy", "Copy")
    assert abs(read_number(copy.database.path) - first) > 100


OTHER_PROCESS = """
import sys; from pathlib import Path; from hart_studio.labeling.project import Project
project = Project(Path(sys.argv[1]))
with project.database.writing() as connection:
    connection.execute("UPDATE project SET settings = settings")
project.database.close()
"""


@pytest.mark.parametrize("kind", ["name", "-wal", "-shm", "hard link", "link"])
def test_importing_a_file_of_an_open_database_as_an_image_keeps_its_locks(
    filled: Project, item_ids: list[str], tmp_path: Path, kind: str
) -> None:
    decide(filled, item_ids[0])
    file = filled.database.path
    if kind == "hard link":
        file = tmp_path / "image.png"
        os.link(filled.database.path, file)
    elif kind == "link":
        file = tmp_path / "image.png"
        file.symlink_to(filled.database.path)
    elif kind != "name":
        file = file.with_name(file.name + kind)
    found = inspect_image(str(file))
    assert isinstance(found, str)
    assert "database" in found
    with pytest.raises(OSError, match="a database file"):
        open_regular_file(file, follow_symlinks=True)
    log = filled.database.path.with_name(f"{DATABASE}-wal")
    before = log.stat().st_ino
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, str(filled.folder)], env=dict(os.environ), check=True)
    assert log.stat().st_ino == before, "the other process was not the last one"
    decide(filled, item_ids[1])
    assert read_status(filled.folder, item_ids[1]) == "accepted"


def test_the_files_of_a_closed_database_are_not_protected_for_ever(filled: Project) -> None:
    filled.count()
    found = filled.database.path.stat()
    assert (found.st_dev, found.st_ino) in PROTECTED_FILES
    CONNECTION_POOL.close_idle(filled.folder)
    assert (found.st_dev, found.st_ino) not in PROTECTED_FILES


@pytest.mark.parametrize("kind", ["backup", "vacuum"])
@pytest.mark.parametrize("decisions_before", [0, 2])
def test_a_backup_of_a_state_that_only_the_log_holds_is_reported(
    filled: Project, item_ids: list[str], tmp_path: Path, kind: str, decisions_before: int
) -> None:
    backup = tmp_path / "backup.sqlite"
    for item_id in item_ids[:decisions_before]:
        decide(filled, item_id)
    if kind == "backup":
        back_up(filled, backup)
    else:
        with filled.database.reading() as connection:
            connection.execute("VACUUM INTO ?", (str(backup),))
    for item_id in item_ids[2:4]:
        decide(filled, item_id)
    restore_in_place(backup, filled.database.path)
    with pytest.raises(DataError, match="was replaced while it was open"):
        decide(filled, item_ids[4])
    restored = Project(filled.folder)
    assert restored.count_by("status").get("accepted", 0) == decisions_before
    decide(restored, item_ids[5])
    with restored.database.reading() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    (kept,) = filled.folder.glob(f"{DATABASE}-wal.replaced-*")
    assert kept.stat().st_size > 0


def test_a_backup_of_a_state_before_the_last_checkpoint_is_reported(
    filled: Project, item_ids: list[str], tmp_path: Path
) -> None:
    decide(filled, item_ids[0])
    back_up(filled, tmp_path / "backup.sqlite")
    decide(filled, item_ids[1])
    with filled.database.reading() as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    restore_in_place(tmp_path / "backup.sqlite", filled.database.path)
    with pytest.raises(DataError, match="was replaced while it was open"):
        filled.count()
    assert Project(filled.folder).count_by("status")["accepted"] == 1


def test_a_restored_file_is_not_overwritten_when_its_idle_connections_are_closed(
    filled: Project, item_ids: list[str], tmp_path: Path
) -> None:
    back_up(filled, tmp_path / "backup.sqlite")
    decide(filled, item_ids[0])
    restore_in_place(tmp_path / "backup.sqlite", filled.database.path)
    CONNECTION_POOL.close_idle(filled.folder)
    assert filled.database.path.read_bytes() == (tmp_path / "backup.sqlite").read_bytes()
    assert Project(filled.folder).count_by("status") == {"proposed": 6}


def test_a_log_that_cannot_be_moved_away_never_reaches_the_restored_file(
    filled: Project, item_ids: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(filled, tmp_path / "backup.sqlite")
    decide(filled, item_ids[0])
    restore_in_place(tmp_path / "backup.sqlite", filled.database.path)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        patch.setattr(shutil, "copyfile", refuse)
        for _ in range(2):
            with pytest.raises(DataError, match="cannot be moved away: No space left"):
                Project(filled.folder).count()
        CONNECTION_POOL.close_idle(filled.folder)
        assert filled.database.path.read_bytes() == (tmp_path / "backup.sqlite").read_bytes()
    restored = Project(filled.folder)
    assert restored.count_by("status") == {"proposed": 6}
    decide(restored, item_ids[1])
    CONNECTION_POOL.close_idle(filled.folder)
    assert read_status(filled.folder, item_ids[1]) == "accepted"


def test_a_deleted_log_is_reported_and_its_content_is_kept(filled: Project, item_ids: list[str]) -> None:
    decide(filled, item_ids[0])
    with pytest.raises(DataError, match=r"was deleted or replaced.*not saved"), filled.database.writing() as connection:
        connection.execute("UPDATE items SET status = 'rejected'")
        filled.database.path.with_name(f"{DATABASE}-wal").unlink()
    filled = Project(filled.folder)
    assert filled.count_by("status") == {"accepted": 1, "proposed": 5}
    decide(filled, item_ids[2])
    CONNECTION_POOL.close_idle(filled.folder)
    assert read_status(filled.folder, item_ids[2]) == "accepted"


CRASH = """
import os, sys; from pathlib import Path; from hart_studio.labeling.project import Project
project = Project(Path(sys.argv[1]))
def change(name):
    with project.database.writing() as connection:
        connection.execute("UPDATE project SET name = ?", (name,))
change("first")
if sys.argv[2] == "checkpoint":
    with project.database.reading() as connection:
        connection.execute("PRAGMA wal_checkpoint")
change("second")
os._exit(0)
"""


@pytest.mark.parametrize("checkpoint", ["checkpoint", "no"])
@pytest.mark.parametrize("is_restored", [True, False])
def test_the_log_of_a_process_that_crashed_is_not_applied_to_a_restored_file(
    filled: Project, tmp_path: Path, checkpoint: str, is_restored: bool
) -> None:
    with filled.database.writing() as connection:
        connection.execute("UPDATE project SET name = 'backup'")
    CONNECTION_POOL.close_idle(filled.folder)
    path = filled.database.path
    shutil.copyfile(path, tmp_path / "backup.sqlite")
    with filled.database.writing() as connection:
        connection.execute("UPDATE project SET name = 'later'")
    CONNECTION_POOL.close_idle(filled.folder)
    command = [sys.executable, "-c", CRASH, str(filled.folder), checkpoint]
    subprocess.run(command, env=dict(os.environ), check=True)
    assert path.with_name(f"{DATABASE}-wal").stat().st_size > 0
    if is_restored:
        restore_in_place(tmp_path / "backup.sqlite", path)
    restored = Project(filled.folder)
    assert restored.name == ("backup" if is_restored else "second")
    assert len(list(filled.folder.glob(f"{DATABASE}-wal.replaced-*"))) == int(is_restored)


@pytest.mark.parametrize("is_known", [True, False])
def test_idle_connections_are_closed_when_descriptors_are_lacking(
    filled: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    other = create_project(tmp_path / "other", "Other")
    CONNECTION_POOL.close_idle(Path("/"))
    filled.count()
    idle = CONNECTION_POOL.open_count
    if not is_known:
        CONNECTION_POOL.close_idle(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(os.devnull, os.O_RDONLY)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + (3 if is_known else 1), limit[1]))
    try:
        if is_known:
            assert other.count() == 0
            assert CONNECTION_POOL.open_count == idle, "the idle connection was closed for it"
        else:
            with pytest.raises(DataError, match="too many open files"):
                other.count()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_open_files_are_given_back(filled: Project) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc here")
    CONNECTION_POOL.close_idle(filled.folder.parent)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        Project(filled.folder).count()
        CONNECTION_POOL.close_idle(filled.folder)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
