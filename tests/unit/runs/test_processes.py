from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.runs import processes
from hart_studio.runs.processes import LockedError, get_process_start, hold_lock, is_alive, signal_group
from tests.unit.runs.conftest import wait_until

Spawn = Callable[..., subprocess.Popen[bytes]]
SLEEP = "import time; time.sleep(60)"
HOLD_LOCK = """
import sys, time
from pathlib import Path
from hart_studio.runs.processes import hold_lock
with hold_lock(Path(sys.argv[1])):
    Path(sys.argv[2]).touch()
    time.sleep(60)
"""


@pytest.fixture(params=["proc", "ps"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to learn the start of a process: Linux's, and the one for systems without ``/proc``."""
    if request.param == "ps":
        monkeypatch.setattr(processes, "_PROC", Path("/nowhere"))
    return str(request.param)


def test_a_lock_says_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold_lock(path, work="run 7"):
        with pytest.raises(LockedError) as caught, hold_lock(path):
            pass
        holder = caught.value.holder
        assert holder is not None
        assert (holder.work, holder.pid, holder.start) == ("run 7", os.getpid(), get_process_start(os.getpid()))
        assert holder.description.startswith(f"process {os.getpid()}, started at 20")
        assert " on elsewhere, started" in holder._replace(host="elsewhere").description
    assert path.read_bytes() == b"", "an earlier holder is not named for a later one"
    with hold_lock(path):
        path.write_bytes(b"{no json")
        with pytest.raises(LockedError) as caught, hold_lock(path):
            pass
        assert caught.value.holder is None


def test_a_process_is_known_by_number_and_start(source: str, spawn: Spawn) -> None:
    process = spawn(SLEEP)
    start = get_process_start(process.pid)
    assert start
    assert get_process_start(process.pid) == start
    assert is_alive(process.pid, start)
    assert not is_alive(process.pid, start + "0")
    assert not is_alive(process.pid, None)
    assert not is_alive(None, start)


def test_an_ended_process_that_no_one_collected_is_gone(source: str, spawn: Spawn) -> None:
    process = spawn(SLEEP)
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: get_process_start(process.pid) is None)
    assert process.returncode is None, "still waits to be collected"
    process.wait()
    assert get_process_start(process.pid) is None


def test_numbers_that_are_no_process() -> None:
    assert [get_process_start(pid) for pid in (0, -1, 2**22 + 1)] == [None, None, None]


def test_a_name_with_parentheses_does_not_shift_the_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "stat").touch()
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "stat").write_text(f"77 (a) Z (b) S {fields}")
    boot = tmp_path / "sys" / "kernel" / "random"
    boot.mkdir(parents=True)
    (boot / "boot_id").write_text("boot\n")
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    assert get_process_start(77) == "boot:22", "the start is the 22nd field, counted from 1"


def test_a_signal_reaches_the_whole_group_of_the_job(spawn: Spawn, tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).wait()"
    process = spawn(child)
    start = get_process_start(process.pid) or ""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not list the children of a process")
    wait_until(lambda: children.read_text().split())
    (grandchild,) = map(int, children.read_text().split())
    assert signal_group(process.pid, start, signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    wait_until(lambda: get_process_start(grandchild) is None)


def test_a_number_that_was_given_out_again_gets_no_signal(spawn: Spawn) -> None:
    process = spawn(SLEEP)
    assert not signal_group(process.pid, "start of an earlier process", signal.SIGKILL)
    assert process.poll() is None


def test_a_process_that_leads_no_group_gets_no_signal() -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEP])  # in the group of this test
    try:
        with pytest.raises(InputError, match="shares a process group with other programs"):
            signal_group(process.pid, get_process_start(process.pid) or "", signal.SIGTERM)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_neither_the_first_process_nor_our_own_group_gets_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, number: sent.append(pid))
    assert not signal_group(1, get_process_start(1) or "", signal.SIGTERM)
    own = os.getpid()
    monkeypatch.setattr(os, "getpgid", lambda pid: own)
    with pytest.raises(InputError, match="shares a process group with other programs"):
        signal_group(own, get_process_start(own) or "", signal.SIGTERM)
    assert sent == []


def test_the_lock_keeps_out_other_threads_and_is_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    refused: list[str] = []

    def try_it() -> None:
        try:
            with hold_lock(path):
                refused.append("got it")
        except InputError as error:
            refused.append(str(error))

    with hold_lock(path):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        with pytest.raises(InputError, match="is already running"), hold_lock(path, timeout_seconds=0.1):
            pass
    assert "is already running. Stop it first" in refused[0]
    with hold_lock(path):
        pass


def test_the_lock_ends_with_its_process_however_it_ends(tmp_path: Path, spawn: Spawn) -> None:
    path, sign = tmp_path / "lock", tmp_path / "sign"
    process = spawn(HOLD_LOCK, str(path), str(sign))
    wait_until(sign.exists)
    with pytest.raises(InputError, match="is already running"), hold_lock(path):
        pass
    process.kill()
    process.wait()
    with hold_lock(path):
        pass


def test_a_started_program_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "lock"):
        process = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        with hold_lock(tmp_path / "lock"):
            pass
    finally:
        process.kill()
        process.wait()


def test_waiting_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with hold_lock(path):
            held.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    threading.Timer(0.2, leave.set).start()
    with hold_lock(path, timeout_seconds=10):
        assert leave.is_set()
    thread.join()
