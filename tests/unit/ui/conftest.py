"""Rooms of visitors for the tests of the pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hart_studio.ui import label_desk
from hart_studio.ui.allowed_models import AllowedModels
from hart_studio.ui.services import AskService
from hart_studio.ui.visitors import Visitors
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
