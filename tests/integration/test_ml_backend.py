"""The ML backend, called by the Label Studio client.

Label Studio is a Django application. Its client needs little of it, so what it imports is replaced by stand-ins here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import uvicorn
from PIL import Image

from hart_studio.labeling.formats.label_studio import label_config, read_region
from hart_studio.labeling.formats.reading import FoundImage
from hart_studio.labeling.ml_backend.images import ImageLoader
from hart_studio.labeling.ml_backend.server import HartBackend, build_app
from hart_studio.labeling.self_verify import ProposalSettings
from tests.fakes import ScriptedModel
from tests.unit.pipeline.conftest import boxes_text

pytestmark = pytest.mark.integration

WH = (8192, 5460)
PERMILLE = (123, 457, 391, 777)
STAND_INS: dict[str, dict[str, Any]] = {
    "core": {},
    "core.feature_flags": {"flag_set": lambda *_, **__: True},
    "core.utils": {},
    "core.utils.common": {"load_func": None},
    "core.utils.exceptions": {"SsrfBlockedUrlError": type("SsrfBlockedUrlError", (Exception,), {})},
    "core.utils.io": {"SsrfSafeHTTPAdapter": None},
    "core.version": {"get_git_version": lambda: "test"},
    "data_export": {},
    "data_export.serializers": {"ExportDataSerializer": None},
    "django": {},
    "django.conf": {"settings": SimpleNamespace(HOSTNAME="http://ls:8080", INTERNAL_PORT="8080", ML_BLOCK_LOCAL_IP=0)},
    "django.contrib": {},
    "django.contrib.auth": {},
    "django.contrib.auth.models": {"AnonymousUser": None},
    "django.db": {},
    "django.db.models": {"Count": None, "F": None, "Q": None},
    "rest_framework": {},
    "rest_framework.exceptions": {"ValidationError": None},
    "users": {},
    "users.models": {"Token": None},
}


@pytest.fixture
def client_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Label Studio's ``MLApi``."""
    if importlib.util.find_spec("label_studio") is None:
        pytest.skip("label-studio is not installed: pip install label-studio, or put its unpacked wheel on PYTHONPATH")
    for name, members in STAND_INS.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return importlib.import_module("label_studio.ml.api_connector").MLApi


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "imgs").mkdir()
    Image.new("L", WH).save(tmp_path / "imgs" / "a.png")
    model = ScriptedModel(grounding=boxes_text(PERMILLE), crops_only="B", direct="B")
    backend = HartBackend(model, "hart-tiny", ImageLoader(tmp_path), ProposalSettings(rollouts=2))
    app = build_app(backend, ("mila", "geheim"))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def client(client_class: Any, url: str) -> Any:
    return client_class(url=url, auth_method="BASIC_AUTH", basic_auth_user="mila", basic_auth_pass="geheim")  # noqa: S106


def make_project(config: str) -> SimpleNamespace:
    return SimpleNamespace(
        id=12,
        created_at=datetime(2026, 11, 23, tzinfo=UTC),
        label_config=config,
        task_data_login=None,
        task_data_password=None,
        created_by=SimpleNamespace(auth_token=SimpleNamespace(key="token")),
    )


PROJECT = make_project(label_config(("ROI",)))


def task(number: int, image: str = "/data/local-files/?d=imgs/a.png") -> dict[str, Any]:
    data = {"image": image, "question": f"Which digit is on sign {number}?", "choices": ["3", "7"], "answer": "B"}
    return {"id": number, "data": data, "annotations": [], "predictions": []}


def test_health_and_setup(client: Any) -> None:
    health = client.health()
    assert (health.is_error, health.response) == (False, {"status": "UP", "model_class": "HartROI"})
    setup = client.setup(PROJECT)
    assert (setup.is_error, setup.response) == (False, {"model_version": "hart-tiny"})
    refused = client.setup(make_project("<View/>"))
    assert (refused.is_error, refused.status_code) == (True, 400)


def test_predictions(client: Any) -> None:
    answer = client.make_predictions([task(1), task(2, "/data/local-files/?d=imgs/gone.png"), task(3)], PROJECT)
    assert not answer.is_error, answer.error_message
    first, gone, last = answer.response["results"]
    assert (gone["result"], "missing" in gone["meta"]["reason"]) == ([], True)
    for found in (first, last):
        region = found["result"][0]
        back = read_region(region, FoundImage("a.png", "a.png", WH))
        expected = tuple(edge / 1000 * side for edge, side in zip(PERMILLE, WH * 2, strict=True))
        assert back.xyxy == pytest.approx(expected, abs=0.01)
        assert "score" not in found and "score" not in region, "there is no calibration"


def test_interactive_mode(client: Any) -> None:
    predicted = client.make_predictions([task(1)], PROJECT).response["results"][0]
    context = {"annotation_id": 1, "draft_id": 0, "user_id": 1, "result": predicted["result"][:1]}
    answer = client.make_predictions([task(1)], PROJECT, context=context)
    assert not answer.is_error, answer.error_message
    (checked,) = answer.response["results"]
    assert [mark["value"] for mark in checked["result"]] == [{"text": ["B"]}, {"choices": ["verified"]}]


def test_a_wrong_password(client_class: Any, url: str) -> None:
    answer = client_class(url=url, basic_auth_user="mila", basic_auth_pass="x").health()  # noqa: S106
    assert (answer.is_error, answer.status_code) == (True, 401)
