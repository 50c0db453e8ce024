"""Labeling and review processes are killed at random: nothing is lost or repeated."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.data.rows import LoadedSamples
from hart_studio.labeling.importing import import_samples
from hart_studio.labeling.job import LabelingConfig, count_items, prepare_run
from hart_studio.labeling.project import Project
from hart_studio.labeling.project_lifecycle import create_project
from hart_studio.labeling.self_verify import ProposalSettings
from hart_studio.records import Sample
from hart_studio.runs.events import StepDone
from hart_studio.runs.reader import read_events
from hart_studio.runs.status import get_state
from tests.unit.labeling.conftest import add_label

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
KILLS = 8
MANY_KILLS = 50


def make_project(folder: Path, count: int) -> Project:
    Image.new("RGB", (400, 300), "white").save(folder / "street.png")
    project = create_project(folder / "project")
    samples = [
        Sample(id=f"s{n}", image=str(folder / "street.png"), question=f"Sign {n}?", choices=("3", "7"), answer="B")
        for n in range(count)
    ]
    import_samples(project, LoadedSamples("streets", tuple(samples)))
    return project


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.integration.labeling_work", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Whether it was still running."""
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def check_labeling(folder: Path, kills: int) -> None:
    project = make_project(folder, 12 * kills)
    config = LabelingConfig(batch=1, proposals=ProposalSettings(rollouts=2), model="m")
    layout = prepare_run(project, config)
    rng = random.Random(kills)
    killed = 0
    while count_items(project, layout.run_id, is_left=True):
        before = count_items(project, layout.run_id, is_left=True)
        process = start("label", layout.folder)
        target = before - rng.randint(1, 12) if killed < kills else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and count_items(project, layout.run_id, is_left=True) > max(0, target):
            assert time.monotonic() < deadline
            time.sleep(rng.uniform(0, 0.004))
        if killed < kills and kill(process):
            killed += 1
            assert get_state(layout)[0] == "lost"
        else:
            assert process.wait() == 0
        assert count_items(project, layout.run_id, is_left=True) < before
    assert killed >= kills - 1
    assert all(item.label.revision == 1 and item.label.status == "proposed" for item in project.items())
    done = Counter(event.step for event in read_events(layout).events if isinstance(event.payload, StepDone))
    assert max(done.values()) == 1, "no step is reported twice"
    assert get_state(layout)[0] == "completed"


def check_review(folder: Path, kills: int) -> None:
    project = make_project(folder, 60 * kills)
    for item in list(project.items()):
        add_label(project, item.id, score=0.5)
    rng = random.Random(kills)
    journal = folder / "journal.txt"
    for _ in range(kills):
        before = journal.stat().st_size if journal.exists() else 0
        process = start("review", project.folder, "Ada", journal)
        while process.poll() is None and (not journal.exists() or journal.stat().st_size == before):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        assert kill(process), "the queue ran empty before the kill"
    entries = [line.split() for line in journal.read_text().splitlines()]
    assert len(entries) > kills
    for item_id, revision in entries:
        label = project.revision(item_id, int(revision))
        assert (label.reviewer, label.status != "proposed") == ("Ada", True), "an action that was answered is there"
    for index, (item_id, revision) in enumerate(entries):
        if item_id in {earlier for earlier, _ in entries[:index]}:
            before_it = project.revision(item_id, int(revision) - 1)
            assert before_it.status == "proposed", "only what the kill left taken back was given out again"
    for item in project.items(with_history=True):
        assert [label.revision for label in (*item.history, item.label)] == list(range(item.label.revision + 1))


def test_a_labeling_run_that_is_killed(tmp_path: Path) -> None:
    check_labeling(tmp_path, KILLS)


def test_a_review_that_is_killed(tmp_path: Path) -> None:
    check_review(tmp_path, KILLS)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_labeling_run_that_is_killed_fifty_times(tmp_path: Path) -> None:
    check_labeling(tmp_path, MANY_KILLS)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_review_that_is_killed_fifty_times(tmp_path: Path) -> None:
    check_review(tmp_path, MANY_KILLS)


def test_four_processes_review_one_project(tmp_path: Path) -> None:
    project = make_project(tmp_path, 120)
    for item in list(project.items()):
        add_label(project, item.id, score=0.5)
    journals = [tmp_path / f"journal{number}.txt" for number in range(4)]
    processes = [start("review", project.folder, f"reviewer {number}", file) for number, file in enumerate(journals)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    entries = [line.split()[0] for file in journals for line in file.read_text().splitlines()]
    assert Counter(entries) == Counter({item.id: 1 for item in project.items()}), "each item went to one of them, once"


def test_a_labeling_run_and_a_reviewer_at_once(tmp_path: Path) -> None:
    project = make_project(tmp_path, 40)
    for item in list(project.items()):
        add_label(project, item.id, score=0.5)
    config = LabelingConfig(batch=4, proposals=ProposalSettings(rollouts=2), model="m", item_filter={"statuses": ()})
    layout = prepare_run(project, config)
    journal = tmp_path / "journal.txt"
    processes = [start("review", project.folder, "Ada", journal), start("label", layout.folder)]
    codes = [process.wait(timeout=120) for process in processes]
    assert codes[1] == 0
    assert count_items(project, layout.run_id, is_left=True) == 0
    decided = {line.split()[0] for line in journal.read_text().splitlines()}
    assert all(project.item(item_id).label.reviewer == "Ada" for item_id in decided), "a run changes no decision"
