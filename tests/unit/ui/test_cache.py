"""The folder of served copies: those of killed servers go, those of others stay, and it has a bound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hart_studio.ui.cache import MIN_AGE_SECONDS, CacheCleaner, open_cache, remove_orphans, renew

HOLDER = """
import sys, time
from pathlib import Path
from hart_studio.ui.cache import open_cache
with open_cache(Path(sys.argv[1])) as folder:
    (folder / "served.jpg").write_bytes(b"image")
    print(folder, flush=True)
    time.sleep(600)
"""


def hold(root: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process with an open cache, and its folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_the_next_server_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    killed, orphan = hold(tmp_path)
    living, used = hold(tmp_path)
    precious = tmp_path / "elsewhere"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    (precious / ".hart-studio-lock").touch()
    (tmp_path / "hart-studio-link").symlink_to(precious)
    (tmp_path / "hart-studio-runs").mkdir()
    (tmp_path / "hart-studio-runs" / "status.json").write_text("{}")
    trap = tmp_path / "hart-studio-trap"
    trap.mkdir()
    (trap / ".hart-studio-lock").symlink_to(precious / "thesis.txt")
    os.mkfifo(tmp_path / "hart-studio-pipe")
    try:
        (orphan / "work").symlink_to(precious)
        kill(killed)
        assert (orphan / "served.jpg").exists(), "a kill leaves the folder behind"
        with open_cache(tmp_path) as own:
            assert not orphan.exists()
            assert own.stat().st_mode & 0o777 == 0o700
            assert (used / "served.jpg").read_bytes() == b"image"
        assert not own.exists()
    finally:
        kill(living)
    assert (precious / "thesis.txt").read_text() == "years"
    assert (tmp_path / "hart-studio-link").is_symlink() and trap.exists() and (tmp_path / "hart-studio-pipe").exists()
    assert (tmp_path / "hart-studio-runs" / "status.json").exists(), "a folder without a lock is someone else's"
    assert remove_orphans(tmp_path) == [used]


def test_a_folder_of_another_user_is_left_alone(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    process, orphan = hold(tmp_path)
    kill(process)
    os.chown(orphan, 12345, -1)
    assert remove_orphans(tmp_path) == []
    os.chown(orphan, 0, -1)
    os.chown(orphan / ".hart-studio-lock", 12345, -1)
    assert remove_orphans(tmp_path) == []
    assert (orphan / "served.jpg").exists()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def write(folder: Path, name: str, size: int, mtime: float | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    if mtime is not None:
        os.utime(path, (mtime, mtime))
    return path


def test_above_its_size_the_oldest_go_and_empty_folders_with_them(tmp_path: Path, clock: Clock) -> None:
    example = write(tmp_path, "work/1-character.jpg", 5000)
    cleaner = CacheCleaner(tmp_path, 1000, clock=clock)
    old = write(tmp_path, "work/traces/old/images/crop.png", 400, mtime=200)
    older = write(tmp_path, "upload/street.jpg", 400, mtime=100)
    assert cleaner.sweep() == 800
    clock.now += 2 * MIN_AGE_SECONDS
    new = write(tmp_path, "work/traces/new/images/crop.png", 400)
    assert cleaner.sweep() == 800
    assert not older.exists() and old.exists() and new.exists() and example.exists()
    write(tmp_path, "work/traces/newest/trace.json", 900)
    assert cleaner.sweep() == 1300, "what is young stays, it may be on its way to a page"
    assert not old.parents[1].exists() and (tmp_path / "work" / "traces").is_dir()
    clock.now += 2 * MIN_AGE_SECONDS
    assert cleaner.sweep() == 900
    assert not new.exists()


def test_what_is_used_again_is_young_again(tmp_path: Path, clock: Clock) -> None:
    cleaner = CacheCleaner(tmp_path, 500, clock=clock)
    used, unused = write(tmp_path, "a/1", 300, mtime=100), write(tmp_path, "b/2", 300, mtime=200)
    cleaner.sweep()
    clock.now += 2 * MIN_AGE_SECONDS
    before = used.stat().st_mtime_ns
    renew(used)
    assert used.stat().st_mtime_ns == before, "views of an image are found by it"
    renew(tmp_path / "gone")
    cleaner.sweep()
    assert used.exists() and not unused.exists()


def test_age_is_counted_by_a_clock_that_no_one_sets(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaner = CacheCleaner(tmp_path, 1000, max_age_seconds=3600, clock=clock)
    past, future = write(tmp_path, "a/1", 1, mtime=0), write(tmp_path, "b/2", 1, mtime=4e9)
    cleaner.sweep()
    monkeypatch.setattr(time, "time", lambda: 4e9)
    clock.now += 3599
    assert cleaner.sweep() == 2
    monkeypatch.setattr(time, "time", lambda: 0.0)
    clock.now += 2
    assert cleaner.sweep() == 0
    assert not past.exists() and not future.exists()


def test_links_are_swept_as_links(tmp_path: Path, clock: Clock) -> None:
    outside = write(tmp_path / "outside", "thesis.txt", 9)
    cache = tmp_path / "cache"
    cache.mkdir()
    cleaner = CacheCleaner(cache, 0, clock=clock)
    (cache / "folder").symlink_to(outside.parent)
    (cache / "file").symlink_to(outside)
    cleaner.sweep()
    clock.now += 2 * MIN_AGE_SECONDS
    cleaner.sweep()
    assert not list(cache.iterdir()) and outside.exists()


def test_the_bound_holds_for_files_that_are_spared(tmp_path: Path, clock: Clock) -> None:
    """Much is written within three minutes: the oldest go all the same, but not what may be written now."""
    cleaner = CacheCleaner(tmp_path, 1000, clock=clock)
    for number in range(8):
        write(tmp_path, f"a/b/{number}", 400)
        cleaner.sweep()
        clock.now += 10
    assert cleaner.sweep() <= 1000
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["6", "7"]


def test_an_upload_that_does_not_fit_is_refused_and_evicts_nothing(tmp_path: Path, clock: Clock) -> None:
    cleaner = CacheCleaner(tmp_path, 1000, clock=clock)
    write(tmp_path, "a/b/old", 500)
    cleaner.sweep()
    clock.now += 2 * MIN_AGE_SECONDS
    write(tmp_path, "a/b/new", 400)
    assert cleaner.reserve(500), "the old file is evicted"
    assert not (tmp_path / "a/b/old").exists()
    assert not cleaner.reserve(200), "the first upload is on its way"
    assert (tmp_path / "a/b/new").exists()
    cleaner.release(500)
    assert cleaner.reserve(600)
    assert not cleaner.reserve(1)


def test_uploads_at_the_same_time_stay_below_the_bound(tmp_path: Path) -> None:
    cleaner = CacheCleaner(tmp_path, 1000)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: cleaner.reserve(100), range(40)))
    assert sum(taken) == 10


def test_whether_an_upload_fits_is_asked_without_removing_or_reserving(tmp_path: Path, clock: Clock) -> None:
    cleaner = CacheCleaner(tmp_path, 1000, clock=clock)
    old = write(tmp_path, "a/b/old", 500)
    cleaner.sweep()
    clock.now += 2 * MIN_AGE_SECONDS
    new = write(tmp_path, "a/b/new", 400)
    assert all(cleaner.fits(600) for _ in range(5)) and not cleaner.fits(601)
    assert not cleaner.reserve(601)
    assert old.exists() and new.exists(), "nothing goes for bytes that are refused"
    assert cleaner.reserve(600) and not old.exists() and new.exists()
    assert cleaner.fits(0) and not cleaner.fits(1)
