"""ML backend protocol: shapes, order, percent, interactive mode, and rejected requests."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from hart_studio.errors import InputError
from hart_studio.labeling import __main__ as command
from hart_studio.labeling.calibration import Calibration, CalibrationDomain, ScoreModel
from hart_studio.labeling.formats.label_studio import label_config, read_region
from hart_studio.labeling.formats.reading import FoundImage
from hart_studio.labeling.ml_backend import server
from hart_studio.labeling.ml_backend.images import ImageLoader
from hart_studio.labeling.ml_backend.server import HartBackend, build_app, read_credentials
from hart_studio.labeling.self_verify import ProposalSettings
from tests.examples import example_count
from tests.fakes import ScriptedModel
from tests.unit.labeling.conftest import draw_marked
from tests.unit.pipeline.conftest import boxes_text

WH = (400, 300)
DOMAIN = CalibrationDomain(images="needle", data_set="", answer_forms=("multiple_choice",))
CONFIG = label_config(("ROI",))
PIXELS = (100.0, 99.9, 200.0, 200.1)  # of WH, what the model points at in thousandths
TASK = {"id": 7, "data": {"image": "street.png", "question": "Which digit?", "choices": ["3", "7"], "answer": "B"}}
DRAWN = {
    "id": "drawn", "from_name": "label", "to_name": "image", "type": "rectanglelabels", "original_width": 400,
    "original_height": 300, "image_rotation": 0,
    "value": {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["ROI"]},
}  # fmt: skip


def scripted(**scripts: Any) -> ScriptedModel:
    return ScriptedModel(**{"grounding": boxes_text((250, 333, 500, 667)), "crops_only": "B", "direct": "B", **scripts})


def make_backend(root: Path, model: ScriptedModel | None = None, **more: Any) -> HartBackend:
    return HartBackend(model or scripted(), "hart-tiny", ImageLoader(root), ProposalSettings(rollouts=2), **more)


def make_client(root: Path, model: ScriptedModel | None = None, **more: Any) -> TestClient:
    return TestClient(build_app(make_backend(root, model, **more)), raise_server_exceptions=False)


@pytest.fixture
def client(image: Path) -> TestClient:
    return make_client(image.parent)


def task(image: str = "street.png", **data: Any) -> dict[str, Any]:
    return {"id": 1, "data": {**TASK["data"], "image": image, **data}}


def predict(client: TestClient, *tasks: Any, config: str = CONFIG, **more: Any) -> list[dict[str, Any]]:
    reply = client.post("/predict", json={"tasks": list(tasks), "label_config": config, **more})
    assert reply.status_code == 200, reply.text
    assert set(reply.json()) == {"results"}
    return reply.json()["results"]


def reason(prediction: dict[str, Any]) -> str:
    assert prediction["result"] == []
    return prediction["meta"]["reason"]


def test_the_small_calls(client: TestClient) -> None:
    for path in ("/", "/health"):
        assert client.get(path).json() == {"status": "UP", "model_class": "HartROI"}
    assert client.get("/metrics").json() == {}
    reply = client.post(
        "/setup",
        json={"project": "12.17", "schema": CONFIG, "hostname": "http://ls", "access_token": "x", "extra_params": None},
    )
    assert (reply.status_code, reply.json()) == (200, {"model_version": "hart-tiny"})
    reply = client.post("/webhook", json={"action": "ANNOTATION_CREATED", "project": {}, "annotation": {}, "task": {}})
    assert (reply.status_code, reply.json()) == (201, {"result": {}, "status": "ok"})
    assert client.get("/predict").status_code == 405
    assert client.get("/elsewhere").json() == {"error": "Not Found"}


def test_a_prediction(client: TestClient) -> None:
    (found,) = predict(client, TASK)
    region, answer = found["result"]
    assert found["model_version"] == "hart-tiny"
    assert "score" not in found, "there is no calibration"
    assert {key: region[key] for key in region if key not in ("id", "value")} == {
        "from_name": "label", "to_name": "image", "type": "rectanglelabels", "original_width": 400,
        "original_height": 300, "image_rotation": 0, "meta": {"text": ["crop answer: B"]},
        "readonly": False,
    }  # fmt: skip
    assert {key: region["value"][key] for key in ("rotation", "rectanglelabels")} == {
        "rotation": 0,
        "rectanglelabels": ["ROI"],
    }
    assert answer == {
        "id": answer["id"], "from_name": "answer", "to_name": "image", "type": "textarea", "value": {"text": ["B"]}
    }  # fmt: skip
    assert len({region["id"], answer["id"]}) == 2


def test_the_models_own_calibration_gives_the_score_inside_of_its_domain(image: Path) -> None:
    draw_marked(image.with_name("scene.jpg"))
    scene = {**TASK, "data": {**TASK["data"], "image": "scene.jpg"}}  # type: ignore[dict-item]
    curve = ScoreModel(
        weights=(0.0,) * 8, fitted_on=1, tested_on=1, scored=1, base_rate=1, threshold=None,
        precision=None, recall=None, brier=0, calibration_error=0, bins=(),
    )  # fmt: skip
    calibration = Calibration(
        model="m", data="d", domain=DOMAIN, rollouts=2, temperature=1, target_precision=0.9,
        curves={"known_answer": curve},
    )  # fmt: skip
    client = make_client(image.parent, calibration=calibration)
    (found,) = predict(client, scene)
    assert (found["score"], found["result"][0]["score"]) == (0.5, 0.5)
    (photograph,) = predict(client, TASK)
    assert "score" not in photograph and "score" not in photograph["result"][0]
    (other,) = predict(client, task("scene.jpg", answer=None))
    assert "score" not in other, "agreement was not calibrated"


def test_percent_is_exact_on_a_large_image(tmp_path: Path) -> None:
    wh = (8192, 5460)
    Image.new("L", wh).save(tmp_path / "large.png")
    model = scripted(grounding=boxes_text((123, 457, 391, 777)))
    (found,) = predict(make_client(tmp_path, model), task("large.png"))
    region = found["result"][0]
    back = read_region(json.loads(json.dumps(region)), FoundImage("large.png", "large.png", wh))
    expected = (0.123 * wh[0], 0.457 * wh[1], 0.391 * wh[0], 0.777 * wh[1])
    assert back.xyxy == pytest.approx(expected, abs=0.01)
    assert (region["original_width"], region["original_height"]) == wh


def test_one_batch_in_order_and_a_bad_task_takes_no_other_along(image: Path) -> None:
    cut = image.with_name("cut.jpg")
    Image.effect_noise((900, 900), 90).convert("RGB").save(cut)
    cut.write_bytes(cut.read_bytes()[:60_000])
    model = scripted()
    tasks = [
        task(question="First?"),
        task("gone.png"),
        task("cut.jpg"),
        {"id": 3},
        "no task",
        task(question=" "),
        task(answer="Z"),
        task(question="Last?"),
    ]
    found = predict(make_client(image.parent, model), *tasks)
    assert [bool(each["result"]) for each in found] == [True, False, False, False, False, False, False, True]
    why = [reason(each) for each in found[1:7]]
    assert "not found" in why[0] and "truncated" in why[1] and "'data'" in why[2] and "JSON object" in why[3]
    assert "question" in why[4] and "letters" in why[5]
    assert found[0]["result"][0]["id"] != found[7]["result"][0]["id"]
    grounding = [call for call, kinds in zip(model.calls, model.kinds(), strict=True) if "grounding" in kinds]
    assert [len(call.requests) for call in grounding] == [2], "one call for all that can be asked"


def test_a_task_that_breaks_the_model_takes_no_other_along(image: Path) -> None:
    def point(request: Any) -> str:
        if "Bad" in str(request.messages[-1].parts):
            raise RuntimeError("secret detail")
        return boxes_text((250, 333, 500, 667))

    client = make_client(image.parent, scripted(grounding=point))
    good, bad, last = predict(client, task(question="Good?"), task(question="Bad?"), task(question="Fine?"))
    assert good["result"] and last["result"]
    assert reason(bad) == "the model failed: RuntimeError"


def test_the_question_may_be_in_the_header(image: Path) -> None:
    model = scripted()
    config = CONFIG.replace("$question", "$ask")
    (found,) = predict(make_client(image.parent, model), task(question=None, ask="Where?"), config=config)
    assert found["result"]
    assert "Where?" in str(model.requests("grounding")[0].messages[-1].parts)
    assert "'question' or 'ask'" in reason(predict(make_client(image.parent), task(question=None), config=config)[0])


@pytest.mark.parametrize("answer", ["B", None])
def test_drawn_boxes_are_verified(image: Path, answer: str | None) -> None:
    model = scripted()
    client = make_client(image.parent, model)
    predict(client, task(answer=answer))
    model.calls.clear()
    (found,) = predict(client, task(answer=answer), params={"context": {"result": [DRAWN]}})
    assert model.requests("grounding") == []
    assert [(mark["type"], mark["value"]) for mark in found["result"]] == [
        ("textarea", {"text": ["B"]}),
        ("choices", {"choices": ["verified"]}),
    ]
    assert found["meta"]["text"] == ["crop answer: B", "verdict: verified"]


def test_verdicts_on_drawn_boxes(image: Path) -> None:
    context = {"params": {"context": {"result": [DRAWN]}}}
    client = make_client(image.parent, scripted(crops_only="A"))
    assert predict(client, TASK, **context)[0]["meta"]["text"][1] == "verdict: wrong box"
    assert "no verdict" in predict(client, task(answer=None), **context)[0]["meta"]["text"][1]
    turned = {**DRAWN, "value": {**DRAWN["value"], "rotation": 30}}
    assert "rotated" in reason(predict(client, TASK, params={"context": {"result": [turned]}})[0])
    other = {**DRAWN, "original_width": 100}
    assert "the file states" in reason(predict(client, TASK, params={"context": {"result": [other]}})[0])
    assert "not found" in reason(predict(client, task("gone.png"), **context)[0])
    reply = client.post("/predict", json={"tasks": [TASK, TASK], "label_config": CONFIG, **context})
    assert reply.status_code == 400 and "one task" in reply.json()["error"]


def test_tasks_left_at_the_time_limit(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_: Any) -> str:
        time.sleep(0.1)
        return boxes_text((250, 333, 500, 667))

    monkeypatch.setattr(server, "BATCH", 1)
    client = make_client(image.parent, scripted(grounding=slow), soft_timeout=0.5)
    found = predict(client, *[task() for _ in range(8)])
    assert len(found) == 8 and found[0]["result"]
    assert "time limit" in reason(found[-1])


def test_one_request_at_a_time(image: Path) -> None:
    busy, most = [0], [0]

    def point(_: Any) -> str:
        busy[0] += 1
        most[0] = max(most[0], busy[0])
        time.sleep(0.02)
        busy[0] -= 1
        return boxes_text((250, 333, 500, 667))

    backend = make_backend(image.parent, scripted(grounding=point))
    payload = {"tasks": [TASK], "label_config": CONFIG}
    calls = [threading.Thread(target=backend.predict, args=(payload, time.monotonic())) for _ in range(4)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert most == [1]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (None, "has no labeling configuration"),
        (12, "has no labeling configuration"),
        ("", "has no labeling configuration"),
        ("<View>", "not valid XML"),
        ("<View/>", "RectangleLabels"),
        ('<!DOCTYPE v [<!ENTITY a "b">]><View>&a;</View>', "document type"),
        ('<!DOCTYPE v SYSTEM "http://169.254.169.254/">' + CONFIG, "document type"),
        ("<View>&a;</View>", "not valid XML"),
        ("<View>" + " " * (1 << 18) + "</View>", "the limit is"),
        (CONFIG.replace('toName="image"', 'toName="other"'), "RectangleLabels"),
        (CONFIG.replace("$image", "http://x/a.png"), "RectangleLabels"),
        (CONFIG.replace('<Label value="ROI" />', ""), "RectangleLabels"),
        ("\ud800" + CONFIG, "not valid XML"),
        ("<a>" * 30_000 + "</a>" * 7_000, "not valid XML"),
        ("<a>" * 30_000 + "</a>" * 30_000, "RectangleLabels"),
    ],
)  # fmt: skip
def test_hostile_labeling_configurations(client: TestClient, config: Any, why: str) -> None:
    for path, body in (("/predict", {"tasks": [TASK], "label_config": config}), ("/setup", {"schema": config})):
        reply = client.post(path, content=json.dumps(body))
        assert reply.status_code == 400
        assert why in reply.json()["error"]


def test_other_labeling_configurations(client: TestClient) -> None:
    config = (
        '<View><Image name="img" value="$image"/><RectangleLabels name="b" toName="img"><Label value="car"/>'
        '<Label value="SIGN" alias="Sign"/></RectangleLabels><TextArea name="notes" toName="img"/>'
        '<TextArea name="more" toName="img"/><Choices name="c" toName="img"><Choice value="day"/></Choices></View>'
    )
    (region,) = predict(client, TASK, config=config)[0]["result"]
    assert (region["from_name"], region["to_name"]) == ("b", "img")
    assert region["value"]["rectanglelabels"] == ["Sign"], "what the model called it, by the label's alias"
    plain = '<View><Image name="img" value="$image"/><Rectangle name="b" toName="img"/></View>'
    (region,) = predict(client, TASK, config=plain)[0]["result"]
    assert region["type"] == "rectangle" and "rectanglelabels" not in region["value"]


def test_basic_authentication(image: Path) -> None:
    app = build_app(make_backend(image.parent), ("mila", "geheim: ü"))
    client = TestClient(app)
    good = base64.b64encode("mila:geheim: ü".encode()).decode()
    for header in (None, "Basic", "Basic ???", f"Bearer {good}", "Basic " + base64.b64encode(b"mila:x").decode()):
        reply = client.get("/health", headers={"Authorization": header} if header else {})
        assert reply.status_code == 401 and reply.headers["www-authenticate"].startswith("Basic")
    assert client.get("/health", headers={"Authorization": f"Basic {good}"}).status_code == 200


def test_who_may_be_let_in() -> None:
    both = {"BASIC_AUTH_USER": "u", "BASIC_AUTH_PASS": "p"}
    assert read_credentials({}, "127.0.0.1") is read_credentials({}, "::1") is read_credentials({}, "localhost") is None
    assert read_credentials(both, "0.0.0.0") == ("u", "p")  # noqa: S104
    for environ, host in (({}, "0.0.0.0"), ({}, "example.org"), ({}, ""), ({"BASIC_AUTH_USER": "u"}, "127.0.0.1")):  # noqa: S104
        with pytest.raises(InputError, match="BASIC_AUTH_PASS"):
            read_credentials(environ, host)


def test_a_page_is_refused(client: TestClient) -> None:
    reply = client.post("/predict", json={}, headers={"Origin": "http://testserver"})
    assert (reply.status_code, "page" in reply.json()["error"]) == (403, True)


def test_a_large_body_is_refused(image: Path) -> None:
    client = TestClient(build_app(make_backend(image.parent), max_body_bytes=1000))
    assert client.post("/predict", content=b" " * 1001).status_code == 413
    assert client.post("/predict", content=iter([b" " * 600, b" " * 600])).status_code == 413
    assert client.post("/predict", content=b" " * 1000).status_code == 400


def test_the_command(image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    served: list[Any] = []
    monkeypatch.setattr(command, "load_chat_model", lambda name, device, **_: scripted())
    monkeypatch.setattr(server, "serve", lambda *given: served.append(given))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret-token")
    for name in ("BASIC_AUTH_USER", "BASIC_AUTH_PASS"):
        monkeypatch.delenv(name, raising=False)
    options = ["serve-ml-backend", "--rollouts", "2", "--image-root", str(image.parent), "--port", "9091"]
    assert command.main([*options, "--label-studio-url", "http://localhost:8080"]) == 0
    app, host, port = served[0]
    assert (host, port) == ("127.0.0.1", 9091)
    (found,) = predict(TestClient(app), TASK)
    assert found["model_version"] == "hart-tiny" and "score" not in found, "it is no needle scene"
    for more in (["--host", "0.0.0.0"], ["--label-studio-url", "file:///etc"], ["--image-root", "/nowhere"]):  # noqa: S104
        assert command.main([*options, *more]) == 2
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret\ntoken")
    assert command.main(options) == 2
    reported = capsys.readouterr()
    assert "LABEL_STUDIO_API_KEY" in reported.err and "secret" not in reported.err + reported.out


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
IMAGES = st.sampled_from(["street.png", "data:image/png;base64,AA==", "http://[", "//x", "../a", "\0", "\ud800"])
DATA = st.fixed_dictionaries(
    {}, optional={"image": IMAGES | JSON, "question": st.text() | JSON, "choices": JSON, "answer": JSON}
)
REGION = st.fixed_dictionaries(
    {"type": st.just("rectanglelabels")},
    optional={
        "to_name": st.just("image") | JSON,
        "original_width": JSON,
        "image_rotation": JSON,
        "value": JSON
        | st.fixed_dictionaries({side: st.floats() | st.integers() for side in ("x", "y", "width", "height")}),
    },
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "tasks": JSON | st.lists(JSON | st.fixed_dictionaries({"data": DATA | JSON}), max_size=3),
        "label_config": st.just(CONFIG) | st.text() | JSON,
        "params": JSON | st.fixed_dictionaries({"context": JSON | st.fixed_dictionaries({"result": st.lists(REGION)})}),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODY.map(json.dumps).map(str.encode) | st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode))
def test_no_body_breaks_the_server(client: TestClient, body: bytes) -> None:
    for path in ("/predict", "/setup"):
        reply = client.post(path, content=body)
        assert reply.status_code in (200, 400, 401, 413), reply.text
        assert isinstance(reply.json(), dict)


@settings(max_examples=example_count(cost=4), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=DATA, regions=st.lists(REGION, max_size=2))
def test_no_task_breaks_the_server(client: TestClient, data: dict[str, Any], regions: list[Any]) -> None:
    for context in (None, {"result": regions}):
        body = {"tasks": [{"data": data}], "label_config": CONFIG, "params": {"context": context}}
        reply = client.post("/predict", content=json.dumps(body))
        assert (reply.status_code, len(reply.json()["results"])) == (200, 1)
