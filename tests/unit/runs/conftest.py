"""Runs in a temporary folder, records, and fake job processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hart_studio.records import Outcome, Rollout, RolloutGroup, Sample, Score
from hart_studio.runs.config import RunConfig
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.provenance import Provenance
from hart_studio.runs.writer import create_run

PROVENANCE = Provenance(
    git_commit=None,
    has_local_changes=None,
    versions={"python": "3.10"},
    platform="test",
    argv=("python",),
    environment={},
    device="cpu",
    data_fingerprint="",
)


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    """A new training run of 10 steps that no one has started."""
    return create_run(tmp_path / "runs", "training", RunConfig(), "ap_grpo+sft", total=10)


@pytest.fixture
def group() -> RolloutGroup:
    """A group of two rollouts without turns."""
    outcomes: tuple[Outcome, ...] = ("ok", "no_box")
    score = Score(value=0.0, extracted=None, expected="A", rule="none")
    rollouts = tuple(
        Rollout(sample_id="s1", protocol="crops_only", outcome=outcome, score=score) for outcome in outcomes
    )
    return RolloutGroup(sample_id="s1", protocol="crops_only", rollouts=rollouts)


@pytest.fixture
def sample() -> Sample:
    """The question of ``group``."""
    return Sample(id="s1", image="/data/a.jpg", question="Which sign?", choices=("3", "7"), answer="A")


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start Python code as a process, ``spawn(code, *arguments)``; what still runs when the test ends is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def run(code: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], start_new_session=True)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_until(is_so: Callable[[], object], seconds: float = 240.0) -> None:
    """Wait for another process; fails when it takes too long."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
