from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.errors import DataError, HartError, InputError, ModelError
from hart_studio.records import RolloutGroup, Sample
from hart_studio.runs import writer as writer_module
from hart_studio.runs.checkpoints import list_checkpoints
from hart_studio.runs.config import RunConfig
from hart_studio.runs.events import (
    CheckpointSaved,
    Evaluated,
    Finished,
    Payload,
    RolloutsSaved,
    Started,
    StepDone,
    Warned,
)
from hart_studio.runs.layout import RunLayout, is_run_id
from hart_studio.runs.overrides import load_config
from hart_studio.runs.processes import get_process_start
from hart_studio.runs.provenance import Provenance
from hart_studio.runs.reader import read_events
from hart_studio.runs.rollouts import GroupImages, read_groups
from hart_studio.runs.status import RunStatus, get_state, read_status, record_signal, write_status
from hart_studio.runs.writer import (
    ATTEMPT_VARIABLE,
    KILLED_ON_REQUEST,
    RunWriter,
    create_run,
    has_done_work,
    removing_empty_run,
)
from tests.unit.runs.conftest import PROVENANCE, wait_until

KILLED_JOB = """
import sys
from pathlib import Path
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.writer import RunWriter
with RunWriter(RunLayout(Path(sys.argv[1])), total=0) as run:
    step = 0
    while True:
        step += 1
        run.log_step(step, "ap_grpo", {f"metric_{number}": number / 3 for number in range(200)})
"""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_LOCK_TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(writer_module, "STATUS_PERIOD_SECONDS", 0.0)


def payloads(layout: RunLayout) -> list[Payload]:
    return [event.payload for event in read_events(layout).events]


# --- the folder -----------------------------------------------------------------------------------------------------


def test_a_new_run_is_queued_with_its_settings(tmp_path: Path) -> None:
    config = RunConfig(name="first", seed=3)
    layout = create_run(tmp_path / "deep" / "runs", "training", config, "ap_grpo+sft", total=120)
    assert is_run_id(layout.run_id)
    assert "-ap_grpo-sft-" in layout.run_id
    assert layout.folder.is_absolute()
    assert load_config(layout.config) == config
    assert read_status(layout) == RunStatus(job="training", state="queued", total=120)
    assert {path.name for path in layout.folder.iterdir()} == {
        "config.json",
        "status.json",
        "rollouts",
        "checkpoints",
        "logs",
    }


def test_two_runs_of_one_second_do_not_share_a_folder(tmp_path: Path) -> None:
    layouts = [create_run(tmp_path, "evaluation", RunConfig(), "evaluation", total=0) for _ in range(3)]
    assert len({layout.folder for layout in layouts}) == 3


# --- an attempt -----------------------------------------------------------------------------------------------------


def test_an_attempt_from_start_to_end(layout: RunLayout) -> None:
    settings = layout.config.read_bytes()
    with RunWriter(layout, total=2) as run:
        running = read_status(layout)
        assert (running.state, running.attempt, running.total, running.exit_code) == ("running", 1, 2, None)
        assert (running.pid, running.pid_start) == (os.getpid(), get_process_start(os.getpid()))
        run.start(PROVENANCE)
        run.log_step(1, "ap_grpo", {"reward": 0.5})
        assert (read_status(layout).step, get_state(layout)[0]) == (1, "running")
        run.log_evaluation(1, {"accuracy": 0.25}, samples=4, fingerprint="a1b2c3")
        run.log_step(2, "sft", {"loss": 1.5})
        assert not run.is_stop_requested
    ended = read_status(layout)
    assert (ended.state, ended.exit_code, ended.error, ended.step) == ("completed", 0, "", 2)
    assert payloads(layout) == [
        Started(attempt=1, provenance=PROVENANCE),
        StepDone(stage="ap_grpo", metrics={"reward": 0.5}),
        Evaluated(metrics={"accuracy": 0.25}, samples=4, fingerprint="a1b2c3"),
        StepDone(stage="sft", metrics={"loss": 1.5}),
        Finished(state="completed", exit_code=0),
    ]
    assert [event.step for event in read_events(layout).events] == [0, 1, 1, 2, 2]
    assert Provenance.model_validate_json(layout.provenance.read_bytes()) == PROVENANCE
    assert layout.config.read_bytes() == settings


def test_a_completed_run_is_not_started_again(layout: RunLayout) -> None:
    with RunWriter(layout, total=1):
        pass
    with pytest.raises(InputError, match="is completed"), RunWriter(layout, total=1):
        pass


def test_a_failure_is_reported_in_words(layout: RunLayout) -> None:
    with pytest.raises(ModelError), RunWriter(layout, total=9) as run:
        run.log_step(4, "ap_grpo", {})
        raise ModelError("expected a folder, got none")
    assert read_status(layout).error == "expected a folder, got none"
    with pytest.raises(ZeroDivisionError), RunWriter(layout, total=9):
        _ = 1 / 0
    status = read_status(layout)
    assert (status.state, status.exit_code, status.attempt) == ("failed", 1, 2)
    assert status.error == "ZeroDivisionError: division by zero"
    assert payloads(layout)[-1] == Finished(state="failed", exit_code=1, error=status.error)


def test_a_number_that_is_not_finite_is_null_and_a_warning(layout: RunLayout) -> None:
    with RunWriter(layout, total=9) as run:
        run.log_step(3, "ap_grpo", {"loss": math.nan, "reward": 1.0, "grad_norm": math.inf})
        run.log_evaluation(3, {"accuracy": math.nan}, samples=0, fingerprint="a1b2c3")
    assert payloads(layout)[:4] == [
        StepDone(stage="ap_grpo", metrics={"loss": None, "reward": 1.0, "grad_norm": None}),
        Warned(message="not a finite number at step 3: loss, grad_norm"),
        Evaluated(metrics={"accuracy": None}, samples=0, fingerprint="a1b2c3"),
        Warned(message="not a finite number at step 3: accuracy"),
    ]
    assert b"NaN" not in layout.events.read_bytes()


def test_short_steps_do_not_each_rewrite_the_status(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunWriter(layout, total=9) as run:
        monkeypatch.setattr(writer_module, "STATUS_PERIOD_SECONDS", 1e9)
        run.log_step(1, "", {})
        before = read_status(layout)
        assert before.step == 1, "the first step is shown at once, whatever was written a moment before"
        run.log_step(2, "", {})
        run.heartbeat()
        assert read_status(layout) == before
        monkeypatch.setattr(writer_module, "STATUS_PERIOD_SECONDS", 0.0)
        run.heartbeat()
        after = read_status(layout)
        assert after.step == 2
        assert before.heartbeat
        assert after.heartbeat
        assert after.heartbeat > before.heartbeat


def test_a_slow_step_is_written_although_a_phase_or_heartbeat_was_written_a_moment_before(layout: RunLayout) -> None:
    with RunWriter(layout, total=30) as run:
        run.log_step(1, "", {})
        time.sleep(1.01 * writer_module.STATUS_PERIOD_SECONDS)
        run.set_phase("asking the next questions")
        run.set_phase("")
        run.log_step(16, "", {})
        assert read_status(layout).step == 16


def test_a_phase_is_reported_at_once_and_its_count_when_it_is_time(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "STATUS_PERIOD_SECONDS", 1e9)
    with RunWriter(layout, total=9) as run:
        run.set_phase("loading the model")
        assert read_status(layout).phase == "loading the model"
        run.set_phase("evaluating held-out questions, 0 of 40")
        assert read_status(layout).phase == "evaluating held-out questions, 0 of 40"
        run.set_phase("evaluating held-out questions, 16 of 40")
        assert read_status(layout).phase == "evaluating held-out questions, 0 of 40", "a moment ago it was written"
        monkeypatch.setattr(writer_module, "STATUS_PERIOD_SECONDS", 0.0)
        run.set_phase("evaluating held-out questions, 32 of 40")
        assert read_status(layout).phase == "evaluating held-out questions, 32 of 40"
        run.set_phase("")
        assert read_status(layout).phase == ""
        with run.saving_checkpoint(1, "ap_grpo"):
            assert read_status(layout).phase == "saving a checkpoint"
        assert read_status(layout).phase == ""
        run.set_phase("writing the model")
    assert read_status(layout).phase == "", "a run that is over does nothing"


# --- stopping -------------------------------------------------------------------------------------------------------


def test_a_stop_is_seen_and_reported(layout: RunLayout) -> None:
    with RunWriter(layout, total=9) as run:
        run.log_step(1, "ap_grpo", {})
        layout.stop.touch()
        assert run.is_stop_requested
        assert read_status(layout).state == "stopping"
    status = read_status(layout)
    assert (status.state, status.exit_code) == ("stopped", 0)
    with RunWriter(layout, total=9) as run:
        assert not run.is_stop_requested, "a new attempt is not stopped by an old request"


def test_a_stop_at_the_last_step_stops_nothing(layout: RunLayout) -> None:
    with RunWriter(layout, total=2) as run:
        layout.stop.touch()
        run.log_step(2, "ap_grpo", {})
        assert run.is_stop_requested
    assert read_status(layout).state == "completed"


def test_ctrl_c_stops(layout: RunLayout) -> None:
    with pytest.raises(KeyboardInterrupt), RunWriter(layout, total=9):
        raise KeyboardInterrupt
    status = read_status(layout)
    assert (status.state, status.exit_code, status.error) == ("stopped", 130, "interrupted from the keyboard")


def test_sigterm_leaves_a_record_and_its_handler_does_not_outlive_the_run(layout: RunLayout) -> None:
    def own(number: int, frame: object) -> None:
        raise AssertionError("the handler of the run should have been called")

    before = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(SystemExit) as caught, RunWriter(layout, total=9):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)  # the handler runs before this is over
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143
    status = read_status(layout)
    assert (status.state, status.exit_code, status.error) == ("stopped", 143, "ended by SIGTERM")


@pytest.mark.parametrize(("is_noted", "error"), [(True, KILLED_ON_REQUEST), (False, "ended by SIGTERM")])
def test_an_end_is_reported_as_asked_for_when_who_asked_sent_the_signal(
    layout: RunLayout, is_noted: bool, error: str
) -> None:
    with pytest.raises(SystemExit), RunWriter(layout, total=9):
        layout.stop.touch()
        if is_noted:
            record_signal(layout, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    status = read_status(layout)
    assert (status.state, status.exit_code, status.error) == ("stopped", 143, error)


def test_a_signal_from_elsewhere_stops_without_an_order(layout: RunLayout) -> None:
    with RunWriter(layout, total=9) as run:
        run.log_step(1, "ap_grpo", {})
        run.mark_stopping()
        assert run.is_stop_requested and read_status(layout).state == "stopping"
    assert read_status(layout).state == "stopped" and not layout.stop.exists()


def test_a_thread_can_write_a_run_too(layout: RunLayout) -> None:
    def work() -> None:
        with RunWriter(layout, total=1) as run:
            run.log_step(1, "", {})

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert read_status(layout).state == "completed"


# --- several attempts -----------------------------------------------------------------------------------------------


def test_the_next_attempt_goes_on_in_the_same_folder(layout: RunLayout) -> None:
    with pytest.raises(OSError, match="disk"), RunWriter(layout, total=9) as run:
        run.log_step(5, "ap_grpo", {})
        raise OSError("disk")
    with RunWriter(layout, total=9) as run:
        assert run.attempt == 2
        assert read_status(layout).error == ""
        run.start(PROVENANCE, resumed_from=4)
        assert read_status(layout).step == 4
        run.log_step(5, "ap_grpo", {})
    events = read_events(layout).events
    assert [event.seq for event in events] == list(range(5))
    assert [event.step for event in events] == [5, 5, 4, 5, 5]
    assert Started(attempt=2, resumed_from=4, provenance=PROVENANCE) in payloads(layout)


def test_two_writers_never_work_at_once(layout: RunLayout) -> None:
    with RunWriter(layout, total=9) as first:
        first.log_step(1, "", {})
        before = layout.events.read_bytes(), layout.status.read_bytes()
        with pytest.raises(InputError, match=r"is already running. Stop it first"), RunWriter(layout, total=9):
            pass
        assert (layout.events.read_bytes(), layout.status.read_bytes()) == before
    assert read_status(layout).attempt == 1


def test_the_job_of_a_launcher_keeps_its_attempt_its_group_and_a_stop(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = os.getppid()
    queued = RunStatus(
        job="training", state="queued", pid=leader, pid_start=get_process_start(leader), attempt=4, step=3, total=0
    )
    write_status(layout, queued)
    with pytest.raises(InputError, match="is already running"), RunWriter(layout, total=9):
        pass
    monkeypatch.setenv(ATTEMPT_VARIABLE, "3")
    with pytest.raises(InputError, match="is already running"), RunWriter(layout, total=9):
        pass
    monkeypatch.setenv(ATTEMPT_VARIABLE, "4")
    layout.stop.touch()
    with RunWriter(layout, total=9) as run:
        status = read_status(layout)
        assert (status.state, status.attempt, status.pid, status.total) == ("running", 4, leader, 9)
        assert run.is_stop_requested, "a stop between start and first step stands"


def test_a_job_started_by_hand_inside_of_another_is_its_own(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ATTEMPT_VARIABLE, "0")
    with RunWriter(layout, total=1) as run:
        assert (run.attempt, read_status(layout).pid) == (1, os.getpid())


# --- checkpoints and rollouts ---------------------------------------------------------------------------------------


def test_checkpoints_count_when_they_are_whole_and_old_ones_go(layout: RunLayout) -> None:
    with RunWriter(layout, total=9, save_total_limit=1) as run:
        for step in (1, 2, 3):
            with run.saving_checkpoint(step, "ap_grpo", is_kept=step == 1) as folder:
                (folder / "model.safetensors").write_bytes(b"x")
        with pytest.raises(OSError, match="disk"), run.saving_checkpoint(4, "ap_grpo") as folder:
            raise OSError("disk")
    assert [found.manifest.step for found in list_checkpoints(layout)] == [1, 3]
    saved = [event for event in read_events(layout).events if isinstance(event.payload, CheckpointSaved)]
    assert [(event.step, event.payload) for event in saved] == [
        (1, CheckpointSaved(stage="ap_grpo", is_kept=True)),
        (2, CheckpointSaved(stage="ap_grpo", is_kept=False)),
        (3, CheckpointSaved(stage="ap_grpo", is_kept=False)),
    ]


def test_full_images_are_reported_once(layout: RunLayout, sample: Sample, group: RolloutGroup) -> None:
    images = GroupImages(sample, group, (8, 8), Image.new("RGB", (8, 8)), ((), ()))
    with RunWriter(layout, total=9, image_mb=0) as run:
        for step in (1, 2):
            run.log_rollouts(step, [images])
    assert payloads(layout)[:3] == [
        RolloutsSaved(groups=1),
        Warned(message="rollout images have reached 0 MB; recording continues without images"),
        RolloutsSaved(groups=1),
    ]
    assert read_groups(layout, 2)[0].overview is None


# --- crashes and secrets --------------------------------------------------------------------------------------------


def test_a_writer_that_is_killed_while_it_writes_leaves_a_run_that_can_go_on(
    layout: RunLayout, spawn: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = spawn(KILLED_JOB, str(layout.folder))
    wait_until(lambda: layout.events.exists() and layout.events.stat().st_size > 50_000)
    assert get_state(layout)[0] == "running"
    process.kill()
    process.wait()
    assert get_state(layout)[0] == "lost"
    batch = read_events(layout)
    assert batch.skipped == 0
    assert [event.seq for event in batch.events] == list(range(len(batch.events)))
    with layout.events.open("ab") as file:  # the kill may have hit between two lines; this one is torn for certain
        file.write(b'{"seq": 99999, "at": "2026')
    assert read_events(layout, batch.offset).events == []
    with RunWriter(layout, total=9) as run:
        assert run.attempt == 2
        run.log_step(1, "ap_grpo", {})
    after = read_events(layout, batch.offset)
    assert [event.seq for event in after.events] == [len(batch.events), len(batch.events) + 1]
    assert after.skipped == 0


def test_no_file_of_a_run_holds_a_secret(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    token, key = "hf_" + "aB3" * 8, "0123456789abcdef"
    monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.raises(RuntimeError), RunWriter(layout, total=9) as run:
        run.warn(f"login with {key} failed")
        raise RuntimeError(f"401 for https://me:{token}@hub with {key}")
    for path in layout.folder.rglob("*"):
        if path.is_file():
            assert token not in path.read_text()
            assert key not in path.read_text()
    assert read_status(layout).error == "RuntimeError: 401 for https://***@hub with ***"


def fail(layout: RunLayout, work: Callable[[RunWriter], object], error: BaseException) -> list[str]:
    """Let an attempt fail after some work; gives what was reported."""
    messages: list[str] = []
    with pytest.raises(type(error)), removing_empty_run(layout, messages.append), RunWriter(layout, 10) as run:
        run.start(PROVENANCE)
        run.warn("3 rows are left out")
        work(run)
        raise error
    return messages


def test_a_run_that_failed_before_it_did_anything_is_removed(layout: RunLayout) -> None:
    messages = fail(layout, lambda _: None, ModelError("no such model"))
    assert messages == [f"Run {layout.run_id} had done no work and was removed"]
    assert not layout.folder.exists()


def test_a_run_that_never_began_is_removed(layout: RunLayout) -> None:
    with pytest.raises(HartError), removing_empty_run(layout, lambda _: None):
        raise DataError("no such file")
    assert not layout.folder.exists()


@pytest.mark.parametrize(
    "work",
    [
        lambda run: run.log_step(1, "", {"questions": 1.0}),
        lambda run: run.log_evaluation(0, {"iou": 0.5}, 3, "a1b2c3"),
        lambda run: run.log_rollouts(1, []),
        lambda run: run.saving_checkpoint(1, "sft").__enter__(),
    ],
    ids=["step", "evaluation", "rollouts", "an unfinished checkpoint"],
)
def test_a_run_that_did_something_stays(
    layout: RunLayout, work: Callable[[RunWriter], object], request: pytest.FixtureRequest
) -> None:
    is_work = "unfinished" not in request.node.callspec.id
    assert bool(fail(layout, work, ModelError("later"))) != is_work
    assert layout.folder.exists() == is_work
    if is_work:
        assert has_done_work(layout) and read_status(layout).state == "failed"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a fault of the program"), OSError("full")])
def test_only_what_a_user_can_repair_removes_a_run(layout: RunLayout, error: BaseException) -> None:
    assert fail(layout, lambda _: None, error) == []
    assert layout.folder.exists()
