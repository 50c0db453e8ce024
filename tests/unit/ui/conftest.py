"""Rooms of visitors, and an Evaluate page with an evaluation, for the tests of the pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hart_studio.runs.layout import RunLayout
from hart_studio.ui import label_desk
from hart_studio.ui.allowed_models import AllowedModels
from hart_studio.ui.evaluation_desk import EvaluationDesk
from hart_studio.ui.evaluation_outputs import EvaluationOutputs
from hart_studio.ui.launch_desk import LaunchDesk
from hart_studio.ui.run_watch import RunWatch
from hart_studio.ui.services import AskService
from hart_studio.ui.visitors import Visitors
from tests.evaluations import draw_image, make_records, write_evaluation
from tests.fakes import ScriptedModel
from tests.visitors import Clock, bring, call, make_ticket, sleep_instead, upload_zip


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


@pytest.fixture
def rooms(tmp_path: Path, uploads: Path, clock: Clock) -> Iterator[Visitors]:
    (tmp_path / "private").mkdir()
    service = AskService(uploads / "work", lambda name: ScriptedModel(crops_only="\\boxed{red}", direct="\\boxed{red}"))
    found = Visitors(tmp_path / "private", service, AllowedModels(("built-in", "built-in-hart"), None, "x"), 3, clock)
    yield found
    found.close()


@pytest.fixture
def ticket(rooms: Visitors) -> str:
    made = make_ticket()
    assert call(rooms, made, "create", name="Signs") == {"id": "signs"}
    return made


@pytest.fixture
def running(
    rooms: Visitors, ticket: str, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], dict[str, str]]:
    """``running(ticket)``: a run of that visitor, which sleeps."""
    monkeypatch.setattr(label_desk, "start_run", sleep_instead)

    def start(visitor: str) -> dict[str, str]:
        if visitor != ticket:
            call(rooms, visitor, "create", name="Signs")
        bring(rooms, visitor, upload_zip(uploads, 1))
        return dict(call(rooms, visitor, "start", project="signs", rollouts=2))

    return start


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationDesk:
    """An Evaluate page over a queue that starts nothing."""
    monkeypatch.setattr(LaunchDesk, "gpus", lambda self: [])
    return make_desk(tmp_path, is_open=True, monkeypatch=monkeypatch)


def make_desk(folder: Path, *, is_open: bool, monkeypatch: pytest.MonkeyPatch) -> EvaluationDesk:
    """Another one, whose runs lie below a folder."""
    monkeypatch.setattr("hart_studio.runs.queue.RunQueue.open", lambda self: None)
    launch = LaunchDesk(folder / "runs", is_open=is_open, find_gpus=list)
    return EvaluationDesk(launch, RunWatch(launch.runs_root, folder / "served" / "runs"))


@pytest.fixture
def outputs(desk: EvaluationDesk, tmp_path: Path) -> EvaluationOutputs:
    return EvaluationOutputs(desk, AskService(tmp_path / "served"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return draw_image(tmp_path / "sign.png")


@pytest.fixture
def layout(desk: EvaluationDesk, picture: Path) -> RunLayout:
    """A complete evaluation of twelve questions."""
    return write_evaluation(desk.launch.runs_root, make_records(picture), title="Made up")
