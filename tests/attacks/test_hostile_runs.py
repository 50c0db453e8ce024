"""Run directories made by others: paths, links and requests in them have no effect."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hart_studio.files import write_json
from hart_studio.runs.layout import RunLayout, make_run_id
from hart_studio.runs.queue import LaunchPlan, RunQueue, enqueue_launch, load_verified_plan
from hart_studio.runs.signing import KEY_FILE
from hart_studio.runs.status import read_status
from tests.attacks.targets import SECRET, Target, leaks

pytestmark = pytest.mark.integration
NEVER_SECONDS = 60.0
"""Time limit of a call that takes milliseconds."""


@pytest.fixture
def hostile(target: Target) -> Iterator[RunLayout]:
    """A copy of an ordinary run, to be changed by a test."""
    folder = target.root / "runs" / make_run_id("ap_grpo", datetime(2026, 1, 1, tzinfo=UTC))
    shutil.copytree(target.root / "runs" / target.run, folder)
    yield RunLayout(folder)
    shutil.rmtree(folder, ignore_errors=True)


def ask_everything(target: Target, run: str, *names: str) -> str:
    """Read everything that pages show of a run, or parts of it, within a time limit."""
    requests: dict[str, dict[str, Any]] = {
        "list_runs": {}, "poll": {"run": run}, "rollouts": {"run": run, "step": 1},
        "gold_boxes": {"run": run, "sample": "q1"},
        "track_question": {"run": run, "sample": "q1"}, "compare": {"runs": [run]}, "evaluations": {},
        "tables": {"runs": [run]},
        "failures": {"run": run, "protocol": "crops_only"}, "failure": {"run": run, "sample": "q000"},
    }  # fmt: skip
    started = time.monotonic()
    reported = ""
    for name, data in requests.items():
        if names and name not in names:
            continue
        answer = target.call(name, data, beside="rollouts" if name == "poll" else "")  # the Label page has a poll, too
        assert answer.status_code == 200, (name, answer.text)
        reported += answer.text
    assert time.monotonic() - started < NEVER_SECONDS
    return reported


def test_a_command_that_comes_with_a_run_is_not_started(target: Target, hostile: RunLayout, tmp_path: Path) -> None:
    """A queued run starts half a second after it is seen, but only if this page signed its plan."""
    touched = tmp_path / "touched"
    plan = {"argv": ["/bin/sh", "-c", f"touch {touched}"], "gpus": []}
    status = json.loads(hostile.status.read_text())
    for signature in ({}, {"signature": ""}, {"signature": "0" * 64}, {"signature": 7}, {"signature": None}):
        write_json(hostile.launch, {**plan, **signature})
        write_json(hostile.status, {**status, "state": "queued", "pid": None, "pid_start": None})
        assert load_verified_plan(hostile) is None
        end = time.monotonic() + NEVER_SECONDS
        while read_status(hostile).state != "failed":  # the page's own queue may have the lock
            assert time.monotonic() < end
            RunQueue(hostile.folder.parent).start_next()
        assert "was not queued by this server" in read_status(hostile).error
    time.sleep(1.2)  # the page's own queue polls twice
    assert not touched.exists()
    assert SECRET not in ask_everything(target, hostile.run_id)


def test_a_signed_plan_is_invalid_for_another_run_or_root(target: Target, hostile: RunLayout) -> None:
    root = target.root / "elsewhere"
    other = RunLayout(root / hostile.run_id)
    shutil.copytree(hostile.folder, other.folder)
    write_json(other.status, {**json.loads(other.status.read_text()), "state": "stopped"})
    enqueue_launch(other, LaunchPlan(argv=("/bin/true",)))
    assert load_verified_plan(other) is not None and (root / KEY_FILE).stat().st_mode & 0o077 == 0
    shutil.copyfile(other.launch, hostile.launch)
    assert load_verified_plan(hostile) is None, "signed with the key of another root"
    changed = json.loads(other.launch.read_text())
    write_json(other.launch, {**changed, "argv": ["/bin/false"]})
    assert load_verified_plan(other) is None, "changed after it was signed"
    shutil.rmtree(root)


@pytest.mark.parametrize("name", ["config.json", "status.json", "events.jsonl", "provenance.json", "launch.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "huge", "deep", "words"])
def test_files_of_a_run_that_are_none(target: Target, hostile: RunLayout, name: str, kind: str) -> None:
    spoil(hostile.folder / name, kind, target)
    reported = ask_everything(target, hostile.run_id, "list_runs", "poll", "compare", "tables")
    assert leaks(reported, target, names_roots=True) == []
    assert target.run in reported, "the others are still shown"


@pytest.mark.parametrize("name", ["logs/attempt_1.log", "rollouts/step_000001.jsonl", "rollouts/held_out_000000.jsonl"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "deep", "words"])
def test_numbered_files_of_a_run_that_are_none(target: Target, hostile: RunLayout, name: str, kind: str) -> None:
    path = hostile.folder / name
    path.parent.mkdir(exist_ok=True)
    spoil(path, kind, target)
    reported = ask_everything(target, hostile.run_id, "poll", "rollouts", "track_question")
    assert leaks(reported, target, names_roots=True) == []


def spoil(path: Path, kind: str, target: Target) -> None:
    """Replace a file by something else."""
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(target.secret)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(40 * 2**30)  # a sparse file, which takes no space
    elif kind == "deep":
        path.write_text('{"a":' * 200_000 + "\n")
    else:
        path.write_text('{"state": NaN, "a": 1, "a": 1e999, "b": 1' + "0" * 9000 + "}\n")


@pytest.mark.parametrize(
    "place", ["../../../../private/secret.png", "/private/secret.png", "link.jpg", "\0", "a" * 5000]
)
def test_images_that_a_run_names_lie_in_it(target: Target, hostile: RunLayout, place: str) -> None:
    secret = target.root / "private" / "secret.png"
    if place == "link.jpg":
        (hostile.images / place).symlink_to(secret)
    place = str(secret) if place.startswith("/") else place
    path = hostile.rollouts_of(1)
    saved = json.loads(path.read_text())
    saved["overview"] = place
    saved["crops"] = [[place for _ in crops] for crops in saved["crops"]]
    path.write_text(json.dumps(saved) + "\n")
    (group,) = target.call("rollouts", {"run": hostile.run_id, "step": 1}).json()
    assert group["overview"] is None
    served = [path.read_bytes() for path in target.cache.rglob("*") if path.is_file()]
    assert secret.read_bytes() not in served


@pytest.mark.parametrize("name", ["rollouts", "logs", "checkpoints"])
def test_a_run_that_links_a_folder_is_deleted_without_it(target: Target, hostile: RunLayout, name: str) -> None:
    shutil.rmtree(hostile.folder / name, ignore_errors=True)
    (hostile.folder / name).symlink_to(target.secret.parent)
    ask_everything(target, hostile.run_id)
    assert target.call("delete", {"run": hostile.run_id}).status_code == 200
    assert not hostile.folder.exists() or target.call("delete", {"run": hostile.run_id}).json()
    assert target.secret.read_text() == SECRET


def test_a_run_that_is_a_link_is_no_run(target: Target) -> None:
    link = target.root / "runs" / make_run_id("ap_grpo", datetime(2026, 1, 2, tzinfo=UTC))
    link.symlink_to(target.secret.parent)
    try:
        assert link.name not in target.call("list_runs", {}).text
        assert SECRET not in ask_everything(target, link.name)
    finally:
        link.unlink()


def test_records_of_an_evaluation_serve_images_only(target: Target) -> None:
    layout = RunLayout(target.root / "runs" / target.evaluation)
    shard = next((layout.folder / "records").glob("shard_*.jsonl"))
    whole = shard.read_text()
    lines = whole.splitlines()
    try:
        for place in (
            str(target.secret),
            "/etc/passwd",
            "/dev/zero",
            "../../private/secret.txt",
            "\0",
            "http://x/y.png",
        ):
            first = json.loads(lines[0])
            first["image"] = place
            shard.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
            reported = target.call("failure", {"run": target.evaluation, "sample": first["sample_id"]})
            assert reported.status_code == 200 and reported.json()["image"] is None, place
            assert SECRET not in reported.text and "root:x" not in reported.text
        served = [path.read_bytes() for path in target.cache.rglob("*") if path.is_file()]
        assert not any(SECRET.encode() in content for content in served)
    finally:
        shard.write_text(whole)


def test_a_pipe_does_not_stop_the_page(target: Target, hostile: RunLayout) -> None:
    """Many concurrent reads of a run whose files would block their reader forever."""
    for name in ("events.jsonl", "status.json"):
        spoil(hostile.folder / name, "pipe", target)
    threads = [threading.Thread(target=ask_everything, args=(target, hostile.run_id)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(NEVER_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
