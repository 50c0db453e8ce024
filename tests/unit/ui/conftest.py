"""Fixtures for tests of the pages: sessions of visitors, and an Evaluate page with an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hart_studio.runs.layout import RunLayout
from hart_studio.ui.api import labels as labels_module
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.evaluation_results import EvaluationResultsApi
from hart_studio.ui.api.evaluations import EvaluationApi
from hart_studio.ui.api.launch import RunLauncher
from hart_studio.ui.api.runs import RunMonitor
from hart_studio.ui.security.model_allowlist import ModelAllowlist
from hart_studio.ui.spaces.sessions import SessionStore
from tests.evaluations import draw_image, make_records, write_evaluation
from tests.fakes import ScriptedModel
from tests.space_sessions import Clock, call, import_source, make_session_token, sleep_instead, upload_zip


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
def sessions(tmp_path: Path, uploads: Path, clock: Clock) -> Iterator[SessionStore]:
    (tmp_path / "private").mkdir()
    service = AskService(uploads / "work", lambda name: ScriptedModel(crops_only="\\boxed{red}", direct="\\boxed{red}"))
    found = SessionStore(
        tmp_path / "private", service, ModelAllowlist(("built-in", "built-in-hart"), None, "x"), 3, clock
    )
    yield found
    found.close()


@pytest.fixture
def session_token(sessions: SessionStore) -> str:
    made = make_session_token()
    assert call(sessions, made, "create", name="Signs") == {"id": "signs"}
    return made


@pytest.fixture
def running(
    sessions: SessionStore, session_token: str, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], dict[str, str]]:
    """``running(token)``: a run of that visitor, which sleeps."""
    monkeypatch.setattr(labels_module, "start_run", sleep_instead)

    def start(visitor: str) -> dict[str, str]:
        if visitor != session_token:
            call(sessions, visitor, "create", name="Signs")
        import_source(sessions, visitor, upload_zip(uploads, 1))
        return dict(call(sessions, visitor, "start", project="signs", rollouts=2))

    return start


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationApi:
    """An Evaluate page over a queue that starts nothing."""
    monkeypatch.setattr(RunLauncher, "gpus", lambda self: [])
    return make_api(tmp_path, is_open=True, monkeypatch=monkeypatch)


def make_api(folder: Path, *, is_open: bool, monkeypatch: pytest.MonkeyPatch) -> EvaluationApi:
    """Another one, whose runs lie below a folder."""
    monkeypatch.setattr("hart_studio.runs.queue.RunQueue.open", lambda self: None)
    launch = RunLauncher(folder / "runs", is_open=is_open, find_gpus=list)
    return EvaluationApi(launch, RunMonitor(launch.runs_root, folder / "served" / "runs"))


@pytest.fixture
def outputs(api: EvaluationApi, tmp_path: Path) -> EvaluationResultsApi:
    return EvaluationResultsApi(api, AskService(tmp_path / "served"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return draw_image(tmp_path / "sign.png")


@pytest.fixture
def layout(api: EvaluationApi, image: Path) -> RunLayout:
    """A complete evaluation of twelve questions."""
    return write_evaluation(api.launch.runs_root, make_records(image), title="Made up")
