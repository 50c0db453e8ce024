import json
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from hart_studio.errors import ModelError
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.api.labels import LabelApi
from hart_studio.ui.api.launch import RunLauncher
from hart_studio.ui.app import build_app, launch_options
from hart_studio.ui.security.access import LOOPBACK_HOSTS
from tests.fakes import ScriptedModel

pytestmark = pytest.mark.integration
PROJECT_ROOT = Path(__file__).parents[2]
EDGES = {"x_min": 10, "y_min": 10, "x_max": 50, "y_max": 60}
BOX = '[{"bbox_2d": [250, 500, 375, 750], "label": "sign"}]'


def load(name):
    if name == "absent":
        raise ModelError("expected a folder or a hub id, got 'absent': there is no such folder")
    if name == "broken":
        raise RuntimeError("secret detail")
    return ScriptedModel(
        name=name, grounding=BOX, crops_only="\\boxed{A}", direct=lambda _: "\\boxed{B}", full_and_crops="\\boxed{A}"
    )


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        launcher = RunLauncher(cache / "runs", is_open=False)
        labels = LabelApi(cache / "labels")
        app = build_app(AskService(cache / "work", load), (), [("Scripted", "scripted")], launcher, labels)
        _, url, _ = app.launch(
            server_name="127.0.0.1",
            prevent_thread_lock=True,
            quiet=True,
            **launch_options(PROJECT_ROOT, LOOPBACK_HOSTS),
        )
        yield url
        app.close(verbose=False)


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def image_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "street.png"
    Image.new("RGB", (1600, 900), (40, 60, 80)).save(path)
    return path


@pytest.mark.core
def test_ask_returns_the_object_of_the_command_line(client, image_path):
    reply = client.predict(
        handle_file(image_path), "Which number?", ["five", "six", "seven"], "five", "scripted", api_name="/ask"
    )
    assert reply["image"] == {"name": "street.png", "width": 1600, "height": 900}
    assert reply["model"] == "scripted"
    assert reply["outcome"] == "ok"
    assert reply["boxes"] == [{"x_min": 400, "y_min": 450, "x_max": 600, "y_max": 675, "label": "sign"}]
    assert set(reply["protocols"]) == {"crops_only", "direct", "full_and_crops"}
    assert reply["protocols"]["crops_only"]["answer"] == "A"
    assert reply["protocols"]["crops_only"]["value"] == 1.0
    assert reply["protocols"]["direct"] == {
        "answer": "B",
        "text": "\\boxed{B}",
        "value": 0.0,
        "used_fallback": False,
        "visual_tokens": reply["protocols"]["direct"]["visual_tokens"],
        "seconds": 0.25,
    }
    json.dumps(reply, allow_nan=False)


def test_choices_may_be_lines_and_the_rest_may_be_left_out(client, image_path):
    reply = client.predict(
        handle_file(image_path), "Which number?", "five\n six \n\nseven", protocols=["direct"], api_name="/ask"
    )
    assert set(reply["protocols"]) == {"direct"}
    assert reply["protocols"]["direct"]["answer"] == "B"
    assert reply["protocols"]["direct"]["value"] is None
    assert reply["boxes"] == []


def test_locate_returns_only_regions(client, image_path):
    reply = client.predict(handle_file(image_path), "Which number?", "five\nsix", "scripted", api_name="/locate")
    assert {"seconds": 0.25, "visual_tokens": reply["visual_tokens"]}.items() <= reply.items()
    assert {name: reply[name] for name in ("image", "model", "outcome", "boxes", "text")} == {
        "image": {"name": "street.png", "width": 1600, "height": 900},
        "model": "scripted",
        "outcome": "ok",
        "boxes": [{"x_min": 400, "y_min": 450, "x_max": 600, "y_max": 675, "label": "sign"}],
        "text": BOX,
    }
    json.dumps(reply, allow_nan=False)


def test_what_locate_found_can_be_verified(client, image_path):
    found = client.predict(handle_file(image_path), "Which number?", api_name="/locate")
    reply = client.predict(
        handle_file(image_path),
        "Which number?",
        found["boxes"],
        ["five", "six"],
        "five",
        "scripted",
        api_name="/verify",
    )
    assert reply == {
        "image": found["image"],
        "model": "scripted",
        "boxes": found["boxes"],
        "evidence": "known_answer",
        "crops_answer": "A",
        "full_answer": "B",
        "masked_answer": "B",
        "crops_correct": True,
        "full_correct": False,
        "sufficient": True,
        "necessary": None,
        "area_share": 0.03125,
        "cautions": [],
        "warnings": [],
    }
    open_question = client.predict(handle_file(image_path), "Which?", found["boxes"], api_name="/verify")
    assert (open_question["evidence"], open_question["crops_correct"]) == ("agreement", None)
    assert open_question["sufficient"] is False, "the crops and the full image disagree"


@pytest.mark.parametrize(
    ("boxes", "text"),
    [
        ([], "1 to 16 boxes, got 0"),
        ([EDGES] * 17, "1 to 16 boxes, got 17"),
        ("[0, 0, 9, 9]", "got str"),
        ([[0, 0, 9, 9]], "box 1"),
        ([EDGES, {**EDGES, "x_max": -1}], "box 2"),
        ([{**EDGES, "x_max": "wide"}], "box 1: x_max"),
        ([{**EDGES, "x_min": 1600, "x_max": 1700}], "outside the image of 1600 x 900 pixels"),
    ],
)
def test_boxes_that_cannot_be_are_one_clear_line(client, image_path, boxes, text):
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(image_path), "Which number?", boxes, api_name="/verify")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"question": " "}, "No question"),
        ({"model": "absent"}, "there is no such folder"),
        ({"protocols": ["sideways"]}, "got sideways"),
        ({"protocols": []}, "got none"),
        ({"choices": ["one"]}, "2 to 26"),
        ({"choices": ["a", "b"], "answer": "c"}, "'c'"),
        ({"model": "broken"}, "Search the log for"),
    ],
)
def test_bad_input_is_one_clear_line(client, image_path, changes, text):
    arguments = {"image": handle_file(image_path), "question": "Which number?", **changes}
    calls = {"/ask": {}, "/verify": {"boxes": [EDGES]}} if "protocols" not in changes else {"/ask": {}}
    for name, more in calls.items():
        with pytest.raises(AppError) as caught:
            client.predict(api_name=name, **arguments, **more)
        assert text in str(caught.value)
        assert "secret" not in str(caught.value)


def test_a_file_that_is_no_image_is_refused(client, tmp_path):
    (tmp_path / "notes.png").write_text("words", "utf-8")
    with pytest.raises(AppError, match=r"notes\.png"):
        client.predict(handle_file(tmp_path / "notes.png"), "What?", api_name="/ask")


REST = {
    "ask": ["What?", "", "", "scripted", None],
    "locate": ["What?", "", "scripted"],
    "verify": ["What?", [EDGES], "", "", "scripted"],
}


def call(url, image, name="ask"):
    """One call without the client, which would upload the file for us."""
    base = f"{url}gradio_api/call/{name}"
    started = httpx.post(base, json={"data": [image, *REST[name]]}, timeout=60)
    if started.status_code == 400:  # a URL is refused before there is an event
        return f"event: error {started.text}"
    event = started.json()["event_id"]
    return httpx.get(f"{base}/{event}", timeout=60).text


@pytest.mark.parametrize(
    "image",
    [
        {"path": str(PROJECT_ROOT / "pyproject.toml")},
        {"path": str(PROJECT_ROOT / "pyproject.toml"), "meta": {"_type": "gradio.FileData"}},
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"path": "http://127.0.0.1:1/x.png"},
        {"path": "../../etc/passwd"},
        {"path": 7},
        "/etc/passwd",
        None,
        [],
    ],
)
def test_only_uploaded_files_are_read(url, image):
    answer = call(url, image)
    assert "event: error" in answer
    assert "root:" not in answer
    assert "requires-python" not in answer


@pytest.mark.parametrize("name", ["locate", "verify"])
def test_the_other_calls_read_uploaded_files_only(url, name):
    answer = call(url, {"path": str(PROJECT_ROOT / "assets" / "examples" / "3-dots.jpg")}, name)
    assert "event: error" in answer and "The image was not uploaded to this server" in answer


def test_only_the_calls_for_programs_are_public(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(named) == ["/ask", "/locate", "/verify"]


def test_the_calls_are_described_as_openapi(url):
    paths = httpx.get(f"{url}gradio_api/openapi.json").json()["paths"]
    properties = {}
    for name in REST:
        operation = paths[f"/gradio_api/call/v2/{name}"]["post"]
        assert operation["summary"].startswith("Ask ")
        properties[name] = list(operation["requestBody"]["content"]["application/json"]["schema"]["properties"])
    assert properties == {
        "ask": ["image", "question", "choices", "answer", "model", "protocols"],
        "locate": ["image", "question", "choices", "model"],
        "verify": ["image", "question", "boxes", "choices", "answer", "model"],
    }


@pytest.mark.parametrize("path", ["pyproject.toml", "app.py", "assets/css/studio.css"])
def test_the_project_is_never_served(url, path):
    assert httpx.get(f"{url}gradio_api/file={PROJECT_ROOT / path}").status_code == 403


def test_foreign_hosts_and_pages_are_refused(url):
    assert httpx.get(url, headers={"host": "evil.example"}).status_code == 400
    assert (
        httpx.post(f"{url}gradio_api/call/ask", json={}, headers={"origin": "http://evil.example"}).status_code == 403
    )
    assert httpx.get(f"{url}openapi.json").status_code == 404
