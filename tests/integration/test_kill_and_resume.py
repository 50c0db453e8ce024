"""A run that is killed repeatedly gives the same result as an uninterrupted run; two processes give the result of one.

The kills happen in one process that has everything imported and forks an attempt each time:
``python -m tests.integration.test_kill_and_resume RUNS_ROOT RUN_ID KILLS``. It prints one line per kill.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hart_studio.runs import writer
from hart_studio.runs.checkpoints import MANIFEST_FILE, newest_checkpoint
from hart_studio.runs.events import Started, StepDone
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.reader import drop_superseded, read_events
from hart_studio.runs.status import read_status
from hart_studio.runs.writer import create_run
from hart_studio.training import __main__ as command
from hart_studio.training import hart_trainer
from tests.integration.test_processes import launch
from tests.integration.test_training_run import losses
from tests.integration.training_runs import ScriptedPolicy, small_config, write_jsonl

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

STEPS = {2: 2, 20: 20}
"""Kills -> steps of each of the two stages: more than the attempts make before they are killed."""


def attempt(layout: RunLayout, *, dies_before_marker: bool = False) -> int:
    """Resume with the run in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        sys.stdout.flush()
        os.dup2(os.open(layout.logs / "killed.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 1)
        os.dup2(1, 2)
        if dies_before_marker:
            writer.complete_checkpoint = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        code = command.main(["--runs-root", str(layout.folder.parent), "--resume", layout.run_id])
    except BaseException:
        traceback.print_exc()
        code = 99
    os._exit(code)


def newest_step(layout: RunLayout) -> int:
    found = newest_checkpoint(layout)
    return 0 if found is None else found.manifest.step


def report(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def kill_again_and_again(layout: RunLayout, kills: int) -> None:
    """Kill attempts at random times, then let the last one end."""
    hart_trainer.TrainableModel = ScriptedPolicy  # type: ignore[misc]
    chance = random.Random(kills)
    seconds_to_step = 5.0
    for number in range(kills):
        before, began = newest_step(layout), time.monotonic()
        how = ("before the marker", "after a step", "at any time")[number % 3]
        child = attempt(layout, dies_before_marker=how == "before the marker")
        if how == "after a step":  # and somewhere in the next one, or in its saving
            while newest_step(layout) == before and time.monotonic() < began + 300:
                time.sleep(0.005)
            seconds_to_step = time.monotonic() - began
            time.sleep(chance.random() * 0.1)
        elif how == "at any time":  # while it loads, mostly
            time.sleep(chance.random() * seconds_to_step)
        if how != "before the marker":
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        halves = [path.name for path in layout.checkpoints.glob("step_*") if not (path / MANIFEST_FILE).exists()]
        found = {"how": how, "signal": os.WTERMSIG(status), "newest": newest_step(layout), "halves": halves}
        report(found)
    _, status = os.waitpid(attempt(layout), 0)
    report({"exit_code": os.waitstatus_to_exitcode(status)})


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_is_the_one_that_was_not(
    tiny_folder: Callable[[str], Path], tmp_path: Path, kills: int
) -> None:
    config = small_config(
        tiny_folder("qwen2_5_vl"),
        "ap_grpo+sft",
        data={"source": "jsonl", "path": str(write_jsonl(tmp_path / "data", 10))},
        schedule={
            "rl_steps": STEPS[kills],
            "sft_steps": STEPS[kills],
            "rl_batch_size": 1,
            "save_steps": 1,
        },
    )
    whole, killed = (
        create_run(tmp_path, "training", config, config.method.stages, config.total_steps) for _ in range(2)
    )
    program = ["tests.integration.test_kill_and_resume", str(tmp_path)]
    kills_reported = []
    for layout, times in ((whole, 0), (killed, kills)):
        found, _ = launch([*program, layout.run_id, str(times)]).communicate(timeout=1700)
        *kills_reported, end = [json.loads(line) for line in found.splitlines() if line.startswith("{")]
        assert end == {"exit_code": 0}, found[-2000:] + (layout.logs / "killed.log").read_text()[-4000:]
        assert read_status(layout).state == "completed"
    assert [found["signal"] for found in kills_reported] == [signal.SIGKILL] * kills, "an attempt ended before its kill"
    assert any(found["halves"] for found in kills_reported), "no kill left half a checkpoint, so nothing was shown"
    events = read_events(killed).events
    assert [event.seq for event in events] == list(range(len(events)))
    assert read_events(killed).skipped == 0
    begun = [event.payload.resumed_from or 0 for event in events if isinstance(event.payload, Started)]
    left = iter([0, *(found["newest"] for found in kills_reported)])
    assert all(step in left for step in begun), "an attempt did not continue from the newest whole checkpoint"
    steps = [event.step for event in drop_superseded(events) if isinstance(event.payload, StepDone)]
    assert steps == list(range(1, config.total_steps + 1))
    assert losses(killed) == losses(whole)
    assert any(norm for _, _, norm in losses(whole)[: config.schedule.rl_steps]), "nothing was learned from rewards"
    one, other = (load_file(layout.folder / "model" / "model.safetensors") for layout in (whole, killed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def command_of(layout: RunLayout) -> list[str]:
    return ["hart_studio.training", "--runs-root", str(layout.folder.parent), "--resume", layout.run_id]


def launch_two(layout: RunLayout) -> list[subprocess.Popen[str]]:
    """Start the command in two processes; the first one is that which writes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    return [launch(command_of(layout), RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")]


@pytest.mark.slow  # one update in two processes, and the recipe for two machines, are in the tiers above
def test_the_command_in_two_processes_is_the_one_in_one(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    config = small_config(
        tiny_folder("qwen2_5_vl"),
        "sft",
        data={"source": "jsonl", "path": str(write_jsonl(tmp_path / "data", 8)), "eval_samples": 2},
        schedule={"eval_steps": 2},
    )
    alone, together = (create_run(tmp_path, "training", config, "sft", config.total_steps) for _ in range(2))
    for job in [launch(command_of(alone)), *launch_two(together)]:
        found, _ = job.communicate(timeout=900)
        assert job.returncode == 0, found[-4000:]
    assert read_status(together).state == "completed" and (together.folder / "model" / "model.safetensors").is_file()

    def figures(layout: RunLayout) -> list[Any]:
        return [pytest.approx(part, rel=1e-3) for step in losses(layout) for part in step]

    assert [part for step in losses(together) for part in step] == figures(alone)
    assert len(losses(alone)) == 2


@pytest.mark.slow  # how one process takes the word of another is tested in the default tier
def test_a_signal_to_one_process_stops_both_and_the_run_says_so(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    config = small_config(
        tiny_folder("qwen2_5_vl"),
        "sft",
        data={"source": "jsonl", "path": str(write_jsonl(tmp_path / "data", 8))},
        schedule={"sft_steps": 100_000},
    )
    layout = create_run(tmp_path, "training", config, "sft", config.total_steps)
    jobs = launch_two(layout)
    while not any(isinstance(event.payload, StepDone) for event in read_events(layout).events):
        assert all(job.poll() is None for job in jobs)
        time.sleep(0.05)
    jobs[1].send_signal(signal.SIGTERM)
    for job in jobs:
        found, _ = job.communicate(timeout=900)
        assert job.returncode == 0, found[-4000:]
    status = read_status(layout)
    assert (status.state, status.exit_code) == ("stopped", 0) and 0 < status.step < config.total_steps
    assert status.error == "another process of the run received a stop signal"
    assert newest_step(layout) == status.step


if __name__ == "__main__":
    kill_again_and_again(RunLayout(Path(sys.argv[1]) / sys.argv[2]), int(sys.argv[3]))
