"""Orders become commands that a terminal understands, and runs that the queue starts."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hart_studio.errors import InputError
from hart_studio.runs.devices import Gpu, list_gpus
from hart_studio.runs.layout import find_run
from hart_studio.runs.overrides import apply_overrides, load_config
from hart_studio.runs.presets import PRESETS
from hart_studio.runs.processes import get_process_start
from hart_studio.runs.queue import load_verified_plan
from hart_studio.runs.signing import KEY_FILE
from hart_studio.runs.status import read_status, write_status
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.ui.api import launch as launch_module
from hart_studio.ui.api.handler import call_handler
from hart_studio.ui.api.launch import SETUPS, LaunchRequest, RunLauncher
from tests.unit.runs.conftest import PROVENANCE

DEMO = PRESETS["cpu-demo"].config
CHANGED = apply_overrides(DEMO, ["rollout.group_size=4", "name=my run"])


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[RunLauncher]:
    """A launcher whose queue starts nothing."""
    launcher = RunLauncher(tmp_path / "runs", is_open=False, find_gpus=list)
    launcher.is_open = True
    yield launcher
    launcher.close()


def test_the_command_repeats_the_order(launcher: RunLauncher) -> None:
    argv = launcher.command(LaunchRequest(CHANGED, "cpu-demo"))
    assert argv[:5] == [sys.executable, "-m", "hart_studio.training", "--preset", "cpu-demo"]
    assert argv[5:] == ["--set", "rollout.group_size=4", "--set", "name=my run", "--runs-root", str(launcher.runs_root)]
    line = launcher.command_line(LaunchRequest(CHANGED, "cpu-demo"))
    assert shlex.split(line)[3:] == argv, "after cd, the folder, and &&"


def test_several_processors_are_started_together(launcher: RunLauncher) -> None:
    argv = launcher.command(LaunchRequest(DEMO, "cpu-demo", (0, 2), "fsdp"))
    start = argv.index("hart_studio.training")
    assert argv[1:3] == ["-m", "accelerate.commands.launch"] and argv[start - 1] == "-m"
    assert Path(argv[argv.index("--config_file") + 1]).is_file()
    assert argv[argv.index("--num_processes") + 1] == "2"
    line = launcher.command_line(LaunchRequest(DEMO, "cpu-demo", (0, 2))).split(" && ")[1]
    assert line.startswith("CUDA_VISIBLE_DEVICES=0,2 CUDA_DEVICE_ORDER=PCI_BUS_ID ")
    for setup in SETUPS:
        argv = launcher.command(LaunchRequest(DEMO, "cpu-demo", (0, 1), setup))
        assert Path(argv[argv.index("--config_file") + 1]).is_file()
    with pytest.raises(InputError, match="expected one of ddp"):
        launcher.command(LaunchRequest(DEMO, "cpu-demo", (0, 1), "../evil"))


def test_the_line_to_copy_hides_the_gpus_when_none_is_chosen(tmp_path: Path) -> None:
    launcher = RunLauncher(tmp_path / "runs", is_open=False, find_gpus=lambda: [Gpu(0, "A100", 80000, 0)])
    launcher.gpus()
    assert " && CUDA_VISIBLE_DEVICES='' " in launcher.command_line(LaunchRequest(DEMO, "cpu-demo"))


def test_the_line_to_copy_runs_where_the_page_would(
    launcher: RunLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = launcher.command_line(LaunchRequest(DEMO, "cpu-demo"))
    assert line.startswith(f"cd {tmp_path} && PYTHONPATH={launch_module.PACKAGE_PARENT} {sys.executable} -m ")


def test_a_check_reads_files_from_the_same_folder_as_the_run(
    launcher: RunLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = "dict(topic='in', state='good', text=str(pathlib.Path.cwd()), advice='')"
    code = f"import json, pathlib, hart_studio; print(json.dumps({found}))"
    monkeypatch.setattr(launcher, "command", lambda launch_request: [sys.executable, "-c", code])
    (finding,) = launcher.check(LaunchRequest(DEMO, "cpu-demo"))
    assert finding["text"] == str(tmp_path)


FINDING = "print(json.dumps(dict(topic='Settings', state='good', text='ok', advice='')), flush=True)"


def test_a_check_that_is_cut_short_is_no_good_check(launcher: RunLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import json, os; {FINDING}; print('out of memory', flush=True); os.abort()"
    monkeypatch.setattr(launcher, "command", lambda launch_request: [sys.executable, "-c", code])
    good, bad = launcher.check(LaunchRequest(DEMO, "cpu-demo"))
    assert (
        good["state"] == "good"
        and bad["state"] == "bad"
        and bad["text"].startswith("Preflight check ended early with exit code -6")
    )
    assert "out of memory" in bad["text"]
    code = "import os, time; print('boom', flush=True); os.close(1); os.close(2); time.sleep(0.3); os._exit(7)"
    with pytest.raises(InputError, match="Preflight check ended early with exit code 7: boom"):
        list(launcher.check(LaunchRequest(DEMO, "cpu-demo")))


def test_a_check_that_no_one_waits_for_ends_with_its_children(
    launcher: RunLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = "import time; time.sleep(600)"
    code = (
        f"import json, pathlib, subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {child!r}]); "
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid)); {FINDING}; child.wait()"
    )
    monkeypatch.setattr(launcher, "command", lambda launch_request: [sys.executable, "-c", code])
    findings = launcher.check(LaunchRequest(DEMO, "cpu-demo"))
    next(findings)
    pid = int((tmp_path / "child").read_text())
    assert get_process_start(pid)
    findings.close()  # type: ignore[attr-defined]
    for _ in range(100):
        if get_process_start(pid) is None:
            return
        time.sleep(0.05)
    pytest.fail("the child continues")


def test_an_order_becomes_a_run_that_waits(launcher: RunLauncher) -> None:
    run_id = launcher.enqueue(LaunchRequest(CHANGED, "cpu-demo"))
    layout = find_run(launcher.runs_root, run_id)
    assert load_config(layout.config) == CHANGED and read_status(layout).state == "queued"
    plan = load_verified_plan(layout)
    assert plan is not None and list(plan.argv) == launcher.command(LaunchRequest(CHANGED, "cpu-demo"))
    assert launcher.queue_position(run_id) == 0 and launcher.queue_position("nothing") is None


def test_a_double_click_is_one_run(launcher: RunLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    first = launcher.enqueue(LaunchRequest(DEMO, "cpu-demo"))
    assert launcher.enqueue(LaunchRequest(DEMO, "cpu-demo")) == first
    assert launcher.enqueue(LaunchRequest(CHANGED, "cpu-demo")) != first
    assert launcher.enqueue(LaunchRequest(CHANGED, "cpu-demo", (0,))) != launcher.enqueue(
        LaunchRequest(CHANGED, "cpu-demo", (1,))
    )
    monkeypatch.setattr(launch_module, "DOUBLE_CLICK_SECONDS", 0.0)
    assert launcher.enqueue(LaunchRequest(DEMO, "cpu-demo")) != first, "a wish that comes later is another one"


@pytest.mark.parametrize("is_of_this_key", [True, False])
def test_a_stopped_run_goes_on_as_it_was_started(launcher: RunLauncher, is_of_this_key: bool) -> None:
    run_id = launcher.enqueue(LaunchRequest(DEMO, "cpu-demo", (1, 3), "deepspeed_zero2"))
    layout = find_run(launcher.runs_root, run_id)
    write_status(layout, read_status(layout).replace(state="stopped"))
    if not is_of_this_key:  # moved from another folder of runs, or of an earlier version
        (launcher.runs_root / KEY_FILE).unlink()
    call_handler(launcher.resume, {"run": run_id})
    plan = load_verified_plan(layout)
    assert plan is not None and plan.gpus == (1, 3) and "deepspeed_zero2.yaml" in " ".join(plan.argv)
    assert list(plan.argv[-4:]) == ["--resume", run_id, "--runs-root", str(launcher.runs_root)]
    assert read_status(layout).state == "queued"


def test_a_run_of_a_terminals_gpu_is_not_put_on_the_cpu(launcher: RunLauncher) -> None:
    layout = create_run(launcher.runs_root, "training", DEMO, "ap_grpo", total=3)
    for device in ("1 x cuda: NVIDIA A100", "1 x cpu"):
        with RunWriter(layout, total=3) as run:
            run.start(PROVENANCE.model_copy(update={"device": device}))
            layout.stop.touch()
            assert run.is_stop_requested
        if "cuda" in device:
            with pytest.raises(InputError, match=f"in a terminal on 1 x cuda.*--resume {layout.run_id}"):
                call_handler(launcher.resume, {"run": layout.run_id})
    call_handler(launcher.resume, {"run": layout.run_id})
    assert read_status(layout).state == "queued"


def test_a_stop_waits_for_the_checkpoint_until_it_is_asked_again(
    launcher: RunLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(launch_module, "stop_in_background", lambda layout, now: asked.append(now))
    layout = find_run(launcher.runs_root, launcher.enqueue(LaunchRequest(DEMO, "cpu-demo")))
    with pytest.raises(InputError, match="now: Input should be a valid boolean"):
        call_handler(launcher.stop, {"run": layout.run_id, "now": "yes"})
    for request in ({}, {"now": True}):
        call_handler(launcher.stop, {"run": layout.run_id, **request})
    assert asked == [False, True]


def test_a_waiting_run_is_stopped_at_once(launcher: RunLauncher) -> None:
    layout = find_run(launcher.runs_root, launcher.enqueue(LaunchRequest(DEMO, "cpu-demo")))
    call_handler(launcher.stop, {"run": layout.run_id})
    for _ in range(100):
        if read_status(layout).state == "stopped":
            return
        time.sleep(0.05)
    pytest.fail("the run still waits")


def test_a_public_page_starts_nothing(tmp_path: Path) -> None:
    launcher = RunLauncher(tmp_path / "runs", is_open=False, find_gpus=list)
    for act in (
        lambda: launcher.enqueue(LaunchRequest(DEMO, "cpu-demo")),
        lambda: call_handler(launcher.stop, {"run": "x"}), lambda: call_handler(launcher.resume, {}),
                lambda: list(launcher.check(LaunchRequest(DEMO, "cpu-demo")))):  # fmt: skip
        with pytest.raises(InputError, match="disabled on a public Space"):
            act()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("run_id", ["..", "/etc", "", None])
def test_ids_are_checked(launcher: RunLauncher, run_id: object) -> None:
    for act in (launcher.stop, launcher.resume):
        with pytest.raises(InputError):
            call_handler(act, {"run": run_id})


def test_the_folder_of_runs_may_be_impossible(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    launcher = RunLauncher(tmp_path / "file", is_open=False, find_gpus=list)
    launcher.is_open = True
    with pytest.raises(InputError, match="Cannot create a run in"):
        launcher.enqueue(LaunchRequest(DEMO, "cpu-demo"))


def test_processors_are_read_from_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho '0, NVIDIA A100-SXM4-80GB, 81920, 512'\necho 'broken'\necho '1, Odd, name, 4, 2'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert list_gpus() == [Gpu(0, "NVIDIA A100-SXM4-80GB", 81920, 512), Gpu(1, "Odd, name", 4, 2)]
    program.write_text("#!/bin/sh\necho '0, A, 81920, 20480'\necho '1, A, 81920, 0'\necho '2, GB10, [N/A], [N/A]'\n")
    assert [gpu.title for gpu in list_gpus({})] == ["0: A (60 of 80 GB free)", "1: A (80 of 80 GB free)", "2: GB10"]
    for value, seen in (("1", [1]), ("2, 0", [0, 2]), ("", []), ("-1", [0, 1, 2]), ("GPU-5b1f", [0, 1, 2])):
        assert [gpu.index for gpu in list_gpus({"CUDA_VISIBLE_DEVICES": value})] == seen
    program.write_text("#!/bin/sh\nexit 9\n")
    assert list_gpus() == []
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert list_gpus() == []
