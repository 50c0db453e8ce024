"""Model queue under load: positions are reported, excess questions are refused, disconnected clients are skipped."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks.studio import Page
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.launch import RunLauncher
from hart_studio.ui.app import build_app, launch_options
from hart_studio.ui.model_calls import MAX_WAITING
from hart_studio.ui.security.access import LOOPBACK_HOSTS
from tests.fakes import ScriptedModel

pytestmark = pytest.mark.integration
PROJECT_ROOT = Path(__file__).parents[2]
FIELDS = {"ask-question": "Which number?", "ask-model-a": "scripted", "ask-model-b": ""}


class GatedModel(ScriptedModel):
    """Answers once the gate is open."""

    gate = threading.Event()

    def generate(self, requests: Any, sampling: Any, group_size: int = 1) -> Any:
        assert self.gate.wait(60)
        return super().generate(requests, sampling, group_size)


@pytest.fixture(scope="module")
def model() -> ScriptedModel:
    return GatedModel(grounding="nowhere", crops_only="x", direct="\\boxed{5}", full_and_crops="x")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, model: ScriptedModel) -> AskService:
    return AskService(tmp_path_factory.mktemp("cache") / "work", lambda name: model)


@pytest.fixture(scope="module")
def page(service: AskService) -> Iterator[Page]:
    cache = service.folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        launcher = RunLauncher(cache / "runs", is_open=False)
        app = build_app(service, (), [("Scripted", "scripted")], launcher, LabelApi(cache / "labels"))
        options = launch_options(PROJECT_ROOT, LOOPBACK_HOSTS)
        _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options)
        yield Page(url.rstrip("/"))
        app.close(verbose=False)


@pytest.fixture
def image(page: Page, tmp_path: Path) -> dict[str, Any]:
    GatedModel.gate.clear()
    Image.new("RGB", (320, 240), "white").save(tmp_path / "street.png")
    return page.upload("street.png", (tmp_path / "street.png").read_bytes())


def count_in_line(service: AskService) -> int:
    return len(service._model_queue._entries)


def wait_for(service: AskService, count: int) -> None:
    deadline = time.monotonic() + 60
    while count_in_line(service) != count:
        assert time.monotonic() < deadline, f"{count_in_line(service)} in line, not {count}"
        time.sleep(0.02)


def test_places_are_reported_and_the_one_too_many_is_refused(
    page: Page, service: AskService, image: dict[str, Any]
) -> None:
    with ThreadPoolExecutor(MAX_WAITING + 1) as pool:
        waiting = [pool.submit(page.ask, image, "Which number?") for _ in range(MAX_WAITING)]
        wait_for(service, MAX_WAITING)
        pressed = pool.submit(page.press, "ask-button", {**FIELDS, "ask-image": image})
        wait_for(service, MAX_WAITING + 1)
        began = time.monotonic()
        name, refusal = page.ask(image, "Which number?")
        assert (name, refusal["title"]) == ("error", "Server busy")
        assert f"Queue full ({MAX_WAITING} waiting" in refusal["error"] and "Try again later" in refusal["error"]
        reply = page.press("ask-button", {**FIELDS, "ask-image": image})
        assert '"title": "Server busy"' in json.dumps(reply), "the page says it in its own line, too"
        assert page.client.get("/").status_code == page.client.get("/config").status_code == 200
        assert page.call("list_runs", {}) is not None, "other tabs are not held up"
        assert time.monotonic() - began < 20
        GatedModel.gate.set()
        answers = [each.result(60) for each in waiting]
        statuses = json.dumps(pressed.result(60))
    assert [name for name, _ in answers] == ["complete"] * MAX_WAITING
    assert f"Queued: {MAX_WAITING} questions ahead" in statuses
    assert "\\\\boxed{5}" in statuses or "boxed{5}" in statuses, "and then it has its answer"
    assert count_in_line(service) == 0


def test_who_has_gone_is_not_waited_for(
    page: Page, service: AskService, model: ScriptedModel, image: dict[str, Any]
) -> None:
    before = len(model.requests("direct"))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(page.ask, image, "Which number?")
        wait_for(service, 1)
        clients = [httpx.Client(base_url=page.url, timeout=0.5) for _ in range(6)]
        for client in clients:
            body = {"data": [image, "Which number?", "", "", "", None]}
            event = client.post("/gradio_api/call/ask", json=body, timeout=30).json()["event_id"]
            with pytest.raises(httpx.ReadTimeout):
                client.get(f"/gradio_api/call/ask/{event}")
            client.close()
        wait_for(service, 1)
        last = pool.submit(page.ask, image, "Which number?")
        wait_for(service, 2)
        GatedModel.gate.set()
        assert [first.result(60)[0], last.result(60)[0]] == ["complete"] * 2
    assert len(model.requests("direct")) - before == 2, "the model was not asked for no one"


def test_who_goes_away_during_an_answer_does_not_keep_the_next_from_theirs(
    page: Page, service: AskService, image: dict[str, Any]
) -> None:
    with httpx.Client(base_url=page.url, timeout=0.5) as client:
        body = {"data": [image, "Which number?", "", "", "", None]}
        event = client.post("/gradio_api/call/ask", json=body, timeout=30).json()["event_id"]
        with pytest.raises(httpx.ReadTimeout):  # nothing is asked before someone listens
            client.get(f"/gradio_api/call/ask/{event}", timeout=5)
        wait_for(service, 1)
    GatedModel.gate.set()
    assert page.ask(image, "Which number?")[0] == "complete"
    wait_for(service, 0)
