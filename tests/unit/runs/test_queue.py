"""Queued runs are started when their device is free, and stay queued across restarts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import InputError
from hart_studio.runs import launcher
from hart_studio.runs import queue as queue_module
from hart_studio.runs.config import RunConfig
from hart_studio.runs.config_file import CONFIG_VARIABLE, hash_config
from hart_studio.runs.launcher import request_stop, start_run, stop_run
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.processes import hold_lock
from hart_studio.runs.queue import (
    LaunchPlan,
    RunQueue,
    enqueue_launch,
    load_verified_plan,
    read_unverified_plan,
    write_plan,
)
from hart_studio.runs.reader import summarize_run
from hart_studio.runs.signing import KEY_FILE
from hart_studio.runs.status import RunStatus, read_status
from hart_studio.runs.writer import create_run
from tests.unit.runs.conftest import wait_until

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
END = (sys.executable, "-c", "pass")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "runs"
    yield folder
    for run in folder.iterdir() if folder.is_dir() else []:
        if run.is_dir():
            stop_run(RunLayout(run), save_seconds=0.0)


def make(root: Path, plan: LaunchPlan | None) -> RunLayout:
    layout = create_run(root, "training", RunConfig(), "ap_grpo", total=10)
    if plan is not None:
        enqueue_launch(layout, plan)
    return layout


def test_one_run_at_a_time_on_the_cpu(root: Path) -> None:
    first, second = sorted((make(root, LaunchPlan(argv=SLEEP)) for _ in range(2)), key=lambda layout: layout.run_id)
    queue = RunQueue(root)
    assert (queue.position_of(first), queue.position_of(second)) == (0, 1)
    assert queue.start_next() == [first.run_id]
    assert queue.start_next() == [], "the device is taken"
    assert queue.position_of(second) == 1 and queue.position_of(first) is None
    stop_run(first, save_seconds=0.0)
    assert RunQueue(root).start_next() == [second.run_id], "another server continues with the queue"


def test_a_stop_that_an_earlier_server_was_asked_for_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = make(root, LaunchPlan(argv=SLEEP))
    RunQueue(root).start_next()
    request_stop(layout)
    monkeypatch.setitem(launcher.SAVE_SECONDS, "training", 0.0)
    RunQueue(root).start_next()
    wait_until(lambda: not read_status(layout).is_active)


def test_other_processors_are_not_waited_for(root: Path) -> None:
    plans = [LaunchPlan(argv=SLEEP, gpus=gpus) for gpus in ((), (0, 1), (2,), (1, 2))]
    runs = [make(root, plan) for plan in plans]
    by_age = sorted(zip((run.run_id for run in runs), plans, strict=True))
    started = RunQueue(root).start_next()
    taken: list[LaunchPlan] = []
    for run_id, plan in by_age:
        assert (run_id in started) == (not any(plan.shares_device(other) for other in taken))
        taken.append(plan)


def test_no_one_overtakes_a_run_that_waits_for_two_processors(root: Path) -> None:
    ids = sorted(make(root, None).run_id for _ in range(4))
    one, both, other, third = (RunLayout(root / run_id) for run_id in ids)
    for layout, gpus in ((one, (0,)), (both, (0, 1)), (other, (1,)), (third, (2,))):
        enqueue_launch(layout, LaunchPlan(argv=SLEEP, gpus=gpus))
    queue = RunQueue(root)
    assert set(queue.start_next()) == {one.run_id, third.run_id}
    assert (queue.position_of(both), queue.position_of(other)) == (1, 1), "processor 1 is kept for the pair"
    stop_run(one, save_seconds=0.0)
    assert queue.start_next() == [both.run_id]


def test_a_run_that_is_stopped_after_it_was_read_is_not_started(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = make(root, LaunchPlan(argv=SLEEP))

    def stop_first(*arguments: Any, **named: Any) -> RunStatus:
        stop_run(layout)
        return start_run(*arguments, **named)

    monkeypatch.setattr(queue_module, "start_run", stop_first)
    assert RunQueue(root).start_next() == []
    assert read_status(layout).state == "stopped" and read_status(layout).attempt == 0


def test_a_job_sees_its_processors_and_its_run(root: Path) -> None:
    code = "import os; print('sees', os.environ['CUDA_VISIBLE_DEVICES'] + ';', os.environ['HART_STUDIO_RUN'])"
    layout = make(root, LaunchPlan(argv=(sys.executable, "-c", code), gpus=(3, 5)))
    RunQueue(root).start_next()
    deadline = time.monotonic() + 20
    while read_status(layout).is_active and time.monotonic() < deadline:
        time.sleep(0.05)
    assert f"sees 3,5; {layout.run_id}\n" in layout.log_of(1).read_text()
    assert LaunchPlan(argv=END, gpus=(1,)).environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", "numbers of the driver"
    assert LaunchPlan(argv=END).environment == {"CUDA_VISIBLE_DEVICES": ""}, "a CPU job must not take a processor"


def test_what_is_not_waiting_is_left_alone(root: Path) -> None:
    unplanned, stopped = make(root, None), make(root, LaunchPlan(argv=SLEEP))
    stop_run(stopped)
    broken = make(root, LaunchPlan(argv=SLEEP))
    broken.launch.write_text("{}")
    assert load_verified_plan(broken) is None
    assert RunQueue(root).start_next() == []
    assert summarize_run(unplanned).state == "queued" and summarize_run(stopped).state == "stopped"
    assert RunQueue(root / "missing").start_next() == []


def test_a_program_that_is_not_there_is_reported_and_does_not_stop_the_queue(root: Path) -> None:
    bad, good = sorted((make(root, LaunchPlan(argv=SLEEP)) for _ in range(2)), key=lambda layout: layout.run_id)
    enqueue_launch(bad, LaunchPlan(argv=("/no/such/program",)))
    queue = RunQueue(root)
    assert queue.start_next() == [good.run_id]
    assert read_status(bad).state == "failed" and "/no/such/program" in read_status(bad).error


def test_a_run_that_ended_is_put_into_the_queue_again(root: Path) -> None:
    layout = make(root, LaunchPlan(argv=SLEEP))
    queue = RunQueue(root)
    queue.start_next()
    with pytest.raises(InputError, match="is already running"):
        enqueue_launch(layout, LaunchPlan(argv=SLEEP))
    stop_run(layout, save_seconds=0.0)
    enqueue_launch(layout, LaunchPlan(argv=SLEEP))
    assert summarize_run(layout).state == "queued" and not layout.stop.exists()
    assert queue.start_next() == [layout.run_id]
    assert read_status(layout).attempt == 2


def test_two_servers_do_not_start_a_run_twice(root: Path) -> None:
    make(root, LaunchPlan(argv=SLEEP))
    with hold_lock(root / ".queue.lock"):
        assert RunQueue(root).start_next() == []
    assert len(RunQueue(root).start_next()) == 1


def test_the_thread_starts_what_comes(root: Path) -> None:
    queue = RunQueue(root)
    queue.open()
    layout = make(root, LaunchPlan(argv=SLEEP))
    deadline = time.monotonic() + 10
    while read_status(layout).pid is None and time.monotonic() < deadline:
        time.sleep(0.05)
    queue.close()
    assert read_status(layout).pid is not None


def test_a_key_that_cannot_be_read_lets_runs_wait(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = make(root, LaunchPlan(argv=SLEEP, gpus=(3,)))

    def refuse(*_: Any) -> bool:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(queue_module, "is_signed", refuse)
        assert RunQueue(root).start_next() == []
        assert RunQueue(root).position_of(layout) == 0
    assert summarize_run(layout).state == "queued", "a server that can read the key starts it"
    assert RunQueue(root).start_next() == [layout.run_id]


def test_settings_that_were_changed_while_a_run_waits_are_not_started(root: Path) -> None:
    changed, gone, same = (make(root, LaunchPlan(argv=END, gpus=(number,))) for number in range(3))
    changed.config.write_text(changed.config.read_text() + " ")
    gone.config.unlink()
    assert RunQueue(root).start_next() == [same.run_id]
    for layout in (changed, gone):
        assert (
            read_status(layout).state == "failed" and "settings of this run were changed" in read_status(layout).error
        )


def test_a_job_knows_which_config_was_checked(root: Path) -> None:
    code = f"import os; print(os.environ['{CONFIG_VARIABLE}'])"
    layout = make(root, LaunchPlan(argv=(sys.executable, "-c", code)))
    sha256 = hash_config(layout.config.read_bytes())
    RunQueue(root).start_next()
    deadline = time.monotonic() + 20
    while f"{layout.run_id} {sha256}" not in layout.log_of(1).read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert f"\n{layout.run_id} {sha256}\n" in layout.log_of(1).read_text()


def test_a_plan_is_for_the_config_that_was_checked_not_for_the_one_that_lies_there(root: Path) -> None:
    layout = make(root, None)
    enqueue_launch(layout, LaunchPlan(argv=END, config_sha256=hash_config(b"another")))
    assert RunQueue(root).start_next() == []
    assert "settings of this run were changed" in read_status(layout).error


def test_a_plan_can_be_signed_in_a_folder_above(root: Path) -> None:
    layout = make(root, None)
    write_plan(layout, LaunchPlan(argv=END), root.parent)
    assert load_verified_plan(layout, root.parent) is not None and load_verified_plan(layout) is None
    assert (root.parent / KEY_FILE).is_file() and not (root / KEY_FILE).exists()
    with pytest.raises(InputError, match="outside of"):
        load_verified_plan(layout, root / "elsewhere")


def test_a_plan_of_other_making_shows_its_devices_and_is_not_started(root: Path) -> None:
    layout = make(root, LaunchPlan(argv=SLEEP, gpus=(1, 2)))
    (root / KEY_FILE).unlink()
    assert load_verified_plan(layout) is None
    plan = read_unverified_plan(layout)
    assert plan is not None and plan.gpus == (1, 2)
    assert RunQueue(root).start_next() == [] and "Click Resume to queue it here" in read_status(layout).error
