"""Full disk: every call reports it, existing files are kept, no partial files are left, and it works again with space.

No byte can be written to a file while ``full_disk`` holds: the limit of this process on the size of files is 0.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.errors import DataError
from hart_studio.labeling.connection_pool import CONNECTION_POOL
from hart_studio.labeling.exporting import export_labels
from hart_studio.labeling.project import Project
from hart_studio.labeling.review import ReviewQueue
from hart_studio.runs.config import RunConfig
from hart_studio.runs.reader import list_runs, read_events
from hart_studio.runs.writer import RunWriter, create_run
from hart_studio.ui.api import labels as labels_module
from hart_studio.ui.api.ask import AskService, read_form
from hart_studio.ui.api.evaluations import EvaluationApi
from hart_studio.ui.api.handler import api_handler
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.launch import LaunchRequest, RunLauncher
from hart_studio.ui.api.runs import RunMonitor
from hart_studio.ui.error_reporting import describe
from tests.fakes import ScriptedModel
from tests.integration.test_labeling_kills import make_project
from tests.unit.labeling.conftest import add_label
from tests.unit.ui.api.test_evaluations import WANTED
from tests.unit.ui.api.test_labels import import_source
from tests.unit.ui.api.test_launch import DEMO

pytestmark = pytest.mark.integration
FULL = "The disk of the server is full. Saved data is intact. Free some space and try again."


@contextmanager
def full_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder except those that SQLite recreates."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal", "lock"))
    }


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.effect_noise((640, 480), 60).convert("RGB").save(tmp_path / "street.png")
    return tmp_path / "street.png"


def test_the_limit_is_what_it_is_said_to_be(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(OSError, match="File too large"):
        (tmp_path / "a").write_text("x")
    (tmp_path / "a").write_text("x")


def test_a_question(tmp_path: Path, image: Path) -> None:
    model = ScriptedModel(
        grounding='[{"bbox_2d": [250, 500, 375, 750], "label": "sign"}]', crops_only="A", direct="A", full_and_crops="A"
    )
    service = AskService(tmp_path / "work", lambda name: model)
    form = read_form(image, "Which?")
    with full_disk():
        with pytest.raises(OSError) as caught:
            service.ask(form, "m", lambda fraction, stage: None)
        assert describe(caught.value).title == "Disk full"
        assert describe(caught.value).message == FULL
    assert contents(tmp_path / "work").keys() == set() or all(
        not data for data in contents(tmp_path / "work").values()
    ), "half an image would be shown for ever"
    reply = service.ask(form, "m", lambda fraction, stage: None)
    with Image.open(reply.scene.preview.path) as preview, Image.open(reply.scene.detail.path) as detail:
        preview.load()
        detail.load()
    assert reply.archive.stat().st_size > 1000


def test_a_training_and_an_evaluation_that_cannot_be_written_are_in_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hart_studio.runs.queue.RunQueue.open", lambda self: None)
    launch = RunLauncher(tmp_path / "runs", find_gpus=list)
    evaluation = EvaluationApi(launch, RunMonitor(launch.runs_root, tmp_path / "served" / "runs"))

    def order() -> Any:
        return api_handler(lambda: {"run": launch.enqueue(LaunchRequest(DEMO, "cpu-demo"))})({})

    def start() -> Any:
        return api_handler(evaluation.start)(WANTED)

    launch.enqueue(LaunchRequest(DEMO.model_copy(update={"name": "earlier"}), "cpu-demo"))
    before = contents(launch.runs_root)
    for make in (order, start):
        with full_disk():
            answer = make()
        assert "File too large" in answer["error"], answer
        assert contents(launch.runs_root) == before
        assert [run.state for run in list_runs(launch.runs_root)] == ["queued"]
    assert [path.name for path in launch.runs_root.iterdir() if path.is_dir()] == [
        run.layout.run_id for run in list_runs(launch.runs_root)
    ], "no folder without a run"
    assert {*order(), *start()} == {"run"}
    assert len(list_runs(launch.runs_root)) == 3


def test_labeling_from_the_import_to_the_start_of_a_run(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_api = LabelApi(tmp_path / "labels")
    table = tmp_path / "t.csv"
    table.write_text("image,question,answer\nstreet.png,What?,red\nstreet.png,Why?,\n")
    with full_disk():
        assert api_handler(label_api.create)({"name": "signs"}).keys() == {"error"}
    assert api_handler(label_api.create)({"name": "signs"}) == {"id": "signs"}, "what failed leaves no name taken"
    CONNECTION_POOL.close_idle(label_api.root)
    with full_disk():
        assert "disk is full" in api_handler(label_api.poll)({"project": "signs"})["error"]
    assert api_handler(label_api.poll)({"project": "signs"})["name"] == "signs", "opened like before an import"
    with full_disk():
        state = import_source(label_api, "signs", table)
    assert "full" in state["error"], state
    assert import_source(label_api, "signs", table)["error"] == ""
    project = Project(tmp_path / "labels" / "signs")
    assert project.count() == 2
    runs = project.runs
    with full_disk():
        answer = api_handler(label_api.start)({"project": "signs"})
    assert answer.keys() == {"error"}
    assert not runs.exists() or not [path for path in runs.iterdir() if path.is_dir()]

    def cannot_start(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(labels_module, "start_run", cannot_start)
        assert api_handler(label_api.start)({"project": "signs"}) == {"error": FULL}
    assert list_runs(runs) == [], "a run that never began would keep all others from beginning"
    monkeypatch.setattr(labels_module, "start_run", lambda *arguments: None)
    assert api_handler(label_api.start)({"project": "signs"}).keys() == {"run"}
    assert project.count_by("status") == {"new": 2}


def test_a_decision_and_an_export(tmp_path: Path) -> None:
    project = make_project(tmp_path, 3)
    for item in list(project.items()):
        add_label(project, item.id, score=0.5)
    queue = ReviewQueue(project)
    item = queue.next_item("Ada")
    assert item is not None
    with full_disk(), pytest.raises(DataError, match="Saved data is kept"):
        queue.decide("Ada", item.id, item.label.revision, "accept")
    assert project.item(item.id).label == item.label
    queue.decide("Ada", item.id, item.label.revision, "accept")
    assert project.item(item.id).label.status == "accepted"
    folder = tmp_path / "exported"
    with full_disk(), pytest.raises(OSError) as caught:
        export_labels(project.items(), "native", folder)
    assert describe(caught.value).title == "Disk full"
    assert not folder.exists() and not list(tmp_path.glob(".exported*")), "nothing half is left"
    assert export_labels(project.items(), "native", folder).items == 1
    assert project.item(item.id).label.reviewer == "Ada"


def test_a_run_that_meets_a_full_disk_ends_and_can_go_on(tmp_path: Path) -> None:
    layout = create_run(tmp_path, "training", RunConfig(), "ap_grpo", 3)
    with pytest.raises(OSError, match="File too large"), RunWriter(layout, total=3) as run:
        run.log_step(1, "ap_grpo", {"loss": 1.0})
        with full_disk():
            run.log_step(2, "ap_grpo", {"loss": 1.0})
    (summary,) = list_runs(tmp_path)
    assert summary.state == "failed" and summary.status is not None and "File too large" in summary.status.error
    began = time.monotonic()
    with RunWriter(layout, total=3) as run:
        run.log_step(2, "ap_grpo", {"loss": 1.0})
        run.log_step(3, "ap_grpo", {"loss": 1.0})
    assert time.monotonic() - began < 30
    assert list_runs(tmp_path)[0].state == "completed"
    batch = read_events(layout)
    assert batch.skipped == 0 and [event.seq for event in batch.events] == list(range(len(batch.events)))
