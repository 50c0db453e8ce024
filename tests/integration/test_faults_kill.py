"""The page's server is killed at random moments while people ask, label and train; the next one finds everything.

Jobs are meant to outlive the page: a kill of the server ends none. Some are killed with it, and are then shown as lost.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors import safe_open

from benchmarks.studio import Studio
from hart_studio.labeling.project import Project
from hart_studio.runs.checkpoints import list_checkpoints
from hart_studio.runs.processes import is_alive, signal_group
from hart_studio.runs.reader import RunSummary, list_runs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]
EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
TRAINING = {
    "set-data-rl-samples": 8,
    "set-data-eval-samples": 0,
    "set-data-needle-samples": 8,
    "set-rollout-group-size": 2,
    "set-schedule-rl-steps": 3,
    "set-schedule-rl-batch-size": 8,
    "set-schedule-eval-steps": 0,
    "set-schedule-save-steps": 1,
}
OVER = {"completed", "stopped", "failed", "lost"}


class Roots:
    """State that outlives the servers of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.labels = folder / "labels"
        self.orders = 0
        self.labeled = 0

    def start(self) -> Studio:
        return Studio("--runs-root", "runs", "--labels-root", "labels", folder=self.folder)

    @cached_property
    def project(self) -> Project:
        return Project(self.labels / "signs")

    def all_runs(self) -> list[RunSummary]:
        return [*list_runs(self.runs), *list_runs(self.labels / "signs" / "runs")]

    def check(self, known: set[str]) -> set[str]:
        """Nothing that was there is lost, nothing half is taken for whole; returns the ids of all runs."""
        check_files(self.folder)
        runs = self.all_runs()
        assert known <= {run.layout.run_id for run in runs}
        for run in runs:
            assert run.status is not None and run.state != "failed", (run.problem, run.status and run.status.error)
            lives = is_alive(run.status.pid, run.status.pid_start)
            assert lives or run.state not in {"running", "stopping"}, run.state
            assert not lives or run.state != "lost", run.state
        done = self.project.count() - self.project.count_by("status").get("new", 0)
        assert done >= self.labeled, "what was labeled stays labeled"
        self.labeled = done
        return {run.layout.run_id for run in runs}


def check_files(folder: Path) -> None:
    """Every file that a reader would take is whole."""
    for path in folder.rglob("*"):
        is_draft = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_draft or not path.is_file() or "hart-studio-" in str(path):
            continue
        with suppress(FileNotFoundError):  # a job continues writing
            if path.suffix == ".json" and "checkpoints" not in path.parts:
                json.loads(path.read_text("utf-8"))
            elif path.suffix == ".jsonl":
                *lines, _ = path.read_bytes().split(b"\n")  # readers leave out a last line without its end
                assert all(isinstance(json.loads(line), dict) for line in lines), path
    for run in list_runs(folder / "runs"):
        whole = [checkpoint.folder for checkpoint in list_checkpoints(run.layout)]
        if run.state == "completed":
            whole.append(run.layout.folder / "model")
        for place in whole:
            with suppress(FileNotFoundError):  # older checkpoints are removed by the job
                json.loads((place / "config.json").read_text("utf-8"))
                with safe_open(place / "model.safetensors", "pt") as weights:
                    assert list(weights.keys())


class Asking(threading.Thread):
    """Someone who asks one question after another, until the server is gone."""

    def __init__(self, studio: Studio) -> None:
        super().__init__(daemon=True)
        self.url, self.answered, self.wrong = studio.url, 0, []  # type: ignore[var-annotated]
        self.start()

    def run(self) -> None:
        with suppress(httpx.HTTPError, ValueError, IndexError), httpx.Client(base_url=self.url, timeout=120) as client:
            data = (EXAMPLES / "1-character.jpg").read_bytes()
            answer = client.post("/gradio_api/upload", files={"files": ("a.jpg", data)}).raise_for_status().json()
            image = {"path": answer[0], "meta": {"_type": "gradio.FileData"}}
            while True:
                body = {"data": [image, "Read the character on the red square.", "E\nZ", "", "", ["direct"]]}
                event = client.post("/gradio_api/call/ask", json=body).raise_for_status().json()["event_id"]
                text = client.get(f"/gradio_api/call/ask/{event}").text
                if "event: complete" in text:
                    self.answered += 1
                elif "event: error" in text:
                    self.wrong.append(text)


def make_project(studio: Studio, roots: Roots, count: int) -> None:
    """A labeling project of some questions, made through the page."""
    table = roots.folder / "questions.jsonl"
    shutil.copy(EXAMPLES / "1-character.jpg", roots.folder)
    rows = [{"id": f"q{n}", "image": "1-character.jpg", "question": f"Which character is {n}?"} for n in range(count)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert studio.call("create", {"name": "signs"}) == {"id": "signs"}
    assert studio.call("start_import", {"project": "signs", "source": str(table)}) == {}
    wait(lambda: roots.project.count() == count, 60)


def wait(is_over: Any, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not is_over():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begin(studio: Studio, roots: Roots) -> set[str]:
    """Start a training run, and a labeling run if none runs; return the ids of both."""
    roots.orders += 1
    studio.press("train-start", {**TRAINING, "set-seed": roots.orders})
    reply = studio.call("start", {"project": "signs", "rollouts": 2}, beside="start_import")
    refused = reply.get("error", "")
    assert "run" in reply or "already working" in refused or "No item to label" in refused, reply
    return {run.layout.run_id for run in roots.all_runs()}


def processes_of(folder: Path) -> list[int]:
    """Processes started by a server of this test."""
    found = []
    for place in Path("/proc").iterdir():
        with suppress(OSError):
            if place.name.isdigit() and f"TMPDIR={folder}\0".encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
    return found


@pytest.fixture
def roots(tmp_path: Path) -> Iterator[Roots]:
    yield Roots(tmp_path)
    for run in Roots(tmp_path).all_runs():
        if run.status is not None and run.status.pid is not None and run.status.pid_start is not None:
            signal_group(run.status.pid, run.status.pid_start, signal.SIGKILL)
    for pid in processes_of(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 50])
def test_a_server_that_is_killed_at_random_loses_nothing(roots: Roots, kills: int) -> None:
    chance = random.Random(kills)
    studio = roots.start()
    make_project(studio, roots, 3 * kills)
    known: set[str] = set()
    lost = 0
    for number in range(kills):
        asking = Asking(studio)
        if number % 5 == 1:  # in the midst of ordering
            orderer = threading.Thread(target=suppress_http, args=(begin, studio, roots), daemon=True)
            orderer.start()
            time.sleep(chance.uniform(0, 12))
        else:
            if number % 5 == 0:
                known |= begin(studio, roots)
            time.sleep(chance.uniform(0, 4))
        studio.process.kill()
        studio.process.wait()
        asking.join(60)
        assert asking.wrong == [], "until the kill every question was answered"
        running = [run for run in roots.all_runs() if run.state == "running"]
        time.sleep(0.2)
        assert all(is_alive(run.status.pid, run.status.pid_start) or is_over(run) for run in running if run.status), (
            "jobs outlive the page"
        )
        if number % 2 == 0:  # a job dies with it
            wait(lambda: any(run.state == "running" for run in roots.all_runs()) or not at_work(roots))
            victims = [run for run in roots.all_runs() if run.state == "running"]
            for run in victims[:1]:
                assert run.status is not None and run.status.pid is not None and run.status.pid_start is not None
                if signal_group(run.status.pid, run.status.pid_start, signal.SIGKILL):
                    wait(lambda status=run.status: not is_alive(status.pid, status.pid_start))
                    lost += sum(again.state == "lost" for again in roots.all_runs())
        assert len(list(roots.folder.glob("hart-studio-*"))) == 1, "a kill leaves the served copies behind"
        left = next(roots.folder.glob("hart-studio-*"))
        studio = roots.start()
        assert not left.exists() and len(list(roots.folder.glob("hart-studio-*"))) == 1, "and the next server sweeps"
        known = roots.check(known)
        shown = {run["id"]: run["state"] for run in (studio.call("list_runs", {}) or {"runs": []})["runs"]}
        states = {run.layout.run_id: run.state for run in list_runs(roots.runs)}
        assert shown.keys() == states.keys()
        for run in roots.all_runs():
            if run.state == "lost":
                is_training = run.status is not None and run.status.job == "training"
                beside = "rollouts" if is_training else "start_import"
                reply = studio.call("resume", {"run": run.layout.run_id, "project": "signs"}, beside=beside)
                assert not (reply or {}).get("error"), reply
    assert lost, "no job died, so nothing was shown"
    wait(lambda: not at_work(roots), 1200)
    known = roots.check(known)
    for run in roots.all_runs():
        assert run.state == "completed", (run.state, run.layout.log_of(1).read_text()[-2000:])
    assert studio.ask(studio.upload("a.jpg", (EXAMPLES / "1-character.jpg").read_bytes()), "Which?")[0] == "complete"
    studio.close()
    wait(lambda: processes_of(roots.folder) == [], 60)
    assert not list(roots.folder.glob("hart-studio-*"))


def suppress_http(work: Any, *arguments: Any) -> None:
    """The server may be gone at any moment."""
    with suppress(httpx.HTTPError, ValueError, KeyError, AssertionError):
        work(*arguments)


def at_work(roots: Roots) -> bool:
    return any(run.state not in OVER for run in roots.all_runs())


def is_over(run: RunSummary) -> bool:
    return next(again for again in [*list_runs(run.layout.folder.parent)] if again.layout == run.layout).state in OVER
