import base64
import io
import re
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hart_studio.errors import HartError, ImageError, InputError
from hart_studio.records import Box
from hart_studio.ui.api.ask import AskService
from hart_studio.ui.mcp.tools import (
    MAX_IMAGE_BYTES,
    MAX_SHOWN,
    MAX_TEXT,
    SHOWN_SIDE,
    TOOLS,
    Tool,
    Toolbox,
    cut_crops,
    open_base64_image,
)
from tests.fakes import ScriptedModel
from tests.images import encoded

BOX = '[{"bbox_2d": [250, 500, 375, 750], "label": "sign"}]'
EDGES = {"x_min": 400, "y_min": 450, "x_max": 600, "y_max": 675}
ASK, LOCATE, VERIFY = TOOLS


def draw() -> str:
    image = Image.new("RGB", (1600, 900), (40, 60, 80))
    image.paste((255, 0, 200), (400, 450, 600, 675))
    return base64.b64encode(encoded(image, "PNG")).decode("ascii")


QUESTION = {"image": draw(), "question": "Which number?"}


def quiet(fraction: float, stage: str) -> None:
    pass


class ToolClient:
    """A toolbox over a scripted model."""

    def __init__(self, folder: Path) -> None:
        self.model = ScriptedModel(grounding=BOX, crops_only="\\boxed{A}", direct="\\boxed{B}", full_and_crops="A")
        self.loaded: list[str] = []
        self.folder = folder
        self.toolbox = Toolbox(AskService(folder, self._load), ["mine", "built-in", "mine"])

    def __call__(self, tool: Tool, **arguments: Any) -> Any:
        return self.toolbox.call(tool, arguments, quiet)

    def _load(self, name: str) -> ScriptedModel:
        self.loaded.append(name)
        return self.model


@pytest.fixture
def client(tmp_path: Path) -> ToolClient:
    return ToolClient(tmp_path / "work")


def test_locate_asks_one_turn(client: ToolClient) -> None:
    reply = client(LOCATE, **QUESTION)
    assert client.model.kinds() == [["grounding"]]
    assert reply.found["boxes"] == [{**EDGES, "label": "sign"}]
    assert (reply.found["outcome"], reply.found["model"]) == ("ok", "mine")
    assert reply.found["image"] == {"name": "image", "width": 1600, "height": 900}
    (crop,) = reply.crops
    assert Image.open(io.BytesIO(crop)).size == (200, 225)
    assert Image.open(io.BytesIO(crop)).getpixel((100, 100))[0] > 230


def test_every_tool_warns_of_a_model_that_was_not_made_for_the_image(client: ToolClient) -> None:
    client.model.name = "built-in"
    box = {"x_min": 100, "y_min": 10, "x_max": 150, "y_max": 50}
    for tool, more in ((ASK, {}), (LOCATE, {}), (VERIFY, {"boxes": [box]})):
        (warning,) = client(tool, **QUESTION, **more, model="built-in").found["warnings"]
        assert warning.startswith("hart-tiny-base was trained only on synthetic needle scenes;")
    client.model.name = "mine"
    for tool, more in ((ASK, {}), (LOCATE, {}), (VERIFY, {"boxes": [box]})):
        assert client(tool, **QUESTION, **more).found["warnings"] == []


def test_ask_answers_from_the_crops_beside_the_full_image(client: ToolClient) -> None:
    reply = client(ASK, **QUESTION, choices=["five", "six"], answer="five")
    assert {name: result["answer"] for name, result in reply.found["protocols"].items()} == {
        "crops_only": "A",
        "direct": "B",
    }
    assert reply.found["verification"]["sufficiency"] == 1.0
    assert len(reply.crops) == 1
    assert set(client(ASK, **QUESTION, protocols=["full_and_crops"]).found["protocols"]) == {"full_and_crops"}


def test_verify_uses_all_boxes(client: ToolClient) -> None:
    boxes = [{"x_min": 100 * n, "y_min": 10, "x_max": 100 * n + 50, "y_max": 5000} for n in range(9)]
    reply = client(VERIFY, **QUESTION, choices=["five", "six"], answer="B", boxes=boxes)
    assert client.model.kinds() == [["crops_only"], ["direct"], ["direct"]]
    assert (
        len([part for part in client.model.requests("crops_only")[0].messages[0].parts if not isinstance(part, str)])
        == 9
    )
    assert (reply.found["sufficient"], reply.found["full_correct"], reply.found["masked_answer"]) == (False, True, "B")
    assert reply.found["necessary"] is False
    assert reply.found["boxes"][1] == {"x_min": 100, "y_min": 10, "x_max": 150, "y_max": 900, "label": ""}


def test_without_a_region_there_is_no_image(client: ToolClient) -> None:
    client.model.grounding = "I do not know."
    reply = client(LOCATE, **QUESTION)
    assert (reply.found["outcome"], reply.found["boxes"], reply.crops) == ("no_box", [], ())


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_only_the_models_of_the_operator_are_opened(client: ToolClient, tool: Tool) -> None:
    schema = client.toolbox.describe(tool)["properties"]["model"]
    assert (schema["enum"], schema["default"]) == (["mine", "built-in"], "mine")
    more = {"boxes": [EDGES]} if tool is VERIFY else {}
    for name in ("/etc", "someone/else", "served:http://127.0.0.1:1", " mine"):
        with pytest.raises(InputError, match="one of mine, built-in"):
            client(tool, **QUESTION, **more, model=name)
    assert client.loaded == []


@pytest.mark.parametrize(
    ("tool", "changes", "text"),
    [
        (ASK, {"image": None}, "argument image: "),
        (ASK, {"image": {"path": "/etc/passwd"}}, "argument image: "),
        (ASK, {"question": " "}, "No question"),
        (ASK, {"question": "x" * 20_001}, "argument question: "),
        (ASK, {"question": "\ud800"}, "argument question: "),
        (ASK, {"choices": ["one"]}, "2 to 26"),
        (ASK, {"choices": ["a"] * 27}, "argument choices: "),
        (ASK, {"choices": ["a", "b"], "answer": "z"}, "'z'"),
        (ASK, {"protocols": ["sideways"]}, "argument protocols.0: "),
        (ASK, {"protocols": []}, "at least one"),
        (ASK, {"folder": "/etc"}, "argument folder: "),
        (LOCATE, {"answer": "a"}, "argument answer: "),
        (VERIFY, {}, "argument boxes: "),
        (VERIFY, {"boxes": []}, "argument boxes: "),
        (VERIFY, {"boxes": [EDGES] * 17}, "argument boxes: "),
        (VERIFY, {"boxes": [{**EDGES, "x_min": 1e400}]}, "argument boxes.0.x_min: "),
        (VERIFY, {"boxes": [{**EDGES, "x_max": 1}]}, "box 1: expected x_min < x_max"),
        (VERIFY, {"boxes": [{**EDGES, "x_min": 2000, "x_max": 3000}]}, "is outside the image of 1600 x 900 pixels"),
    ],
)
def test_arguments_that_cannot_be_used_are_named_and_not_repeated(
    client: ToolClient, tool: Tool, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(HartError) as caught:
        client(tool, **{**QUESTION, **changes})
    assert text in str(caught.value)
    assert len(str(caught.value)) < 500
    assert str(client.folder) not in str(caught.value)
    assert client.model.calls == []


def test_nothing_stays_on_the_disk(client: ToolClient) -> None:
    before = sorted(client.folder.rglob("*"))
    client(ASK, **QUESTION)
    with pytest.raises(HartError):
        client(ASK, **{**QUESTION, "image": "AAAA"})
    assert sorted(client.folder.rglob("*")) == before


def test_the_schema_has_limits_and_descriptions_of_every_argument(client: ToolClient) -> None:
    for tool in TOOLS:
        schema = client.toolbox.describe(tool)
        assert f"at most {MAX_IMAGE_BYTES >> 20} MiB" in schema["properties"]["image"]["description"]
        assert all(field["description"] for field in schema["properties"].values())
        assert schema["additionalProperties"] is False
    assert VERIFY.arguments.model_json_schema()["properties"]["boxes"]["maxItems"] == 16


IMAGE = base64.b64encode(encoded(Image.new("RGB", (40, 30), (200, 10, 10)), "PNG")).decode("ascii")


@pytest.mark.parametrize(
    "text",
    [
        IMAGE,
        f"data:image/png;base64,{IMAGE}",
        f"data:image/svg+xml;base64,{IMAGE}",
        f"data:;base64,{IMAGE}",
        f"DATA:image/png;name=x.png;BASE64,{IMAGE}",
        re.sub("(.{7})", "\\1\r\n\t ", IMAGE),
    ],
)
def test_the_bytes_come_as_they_were_sent_and_the_file_goes(tmp_path: Path, text: str) -> None:
    with open_base64_image(text, tmp_path) as path:
        assert path.read_bytes() == base64.b64decode(IMAGE)
        assert tmp_path in path.parents
    assert not list(tmp_path.iterdir())


def test_the_file_goes_when_the_question_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_base64_image(IMAGE, tmp_path):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd.",
        "../../secret.png",
        "C:\\images\\a.png",
        "file:///etc/passwd",
        "http://127.0.0.1:1/a.png",
        "https://example.org/a.png",
        "data:image/png,%89PNG",
        "data:image/png;base64;" + IMAGE,
        "data:" + "x" * 100 + ";base64," + IMAGE,
        IMAGE[:-3],
        IMAGE + "=",
        "=" + IMAGE,
        "ß" * 8,
        "\ud800" * 4,
        "\0" * 8,
        IMAGE.replace("/", "_").replace("+", "-") + "__-_",
    ],
)
def test_what_is_no_base64_is_refused_and_nothing_is_opened(tmp_path: Path, text: str) -> None:
    with pytest.raises(ImageError, match="Paths and URLs are not opened"), open_base64_image(text, tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_too_much_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    largest = base64.b64encode(bytes(MAX_IMAGE_BYTES)).decode("ascii")
    assert len(largest) <= MAX_TEXT
    with open_base64_image(largest, tmp_path) as path:
        assert path.stat().st_size == MAX_IMAGE_BYTES
    with pytest.raises(ImageError, match="at most 24 MiB"), open_base64_image("A" * (MAX_TEXT + 4), tmp_path):
        pass


@pytest.mark.parametrize("text", [" " * MAX_TEXT, " " * (MAX_TEXT - 1) + "!", "data:" * (MAX_TEXT // 5)])
def test_no_text_takes_long(tmp_path: Path, text: str) -> None:
    began = time.process_time()
    try:
        with open_base64_image(text, tmp_path):
            pass
    except ImageError:
        pass
    assert time.process_time() - began < 5


def test_crops_are_cut_from_the_original_few_and_small(tmp_path: Path) -> None:
    image = Image.new("RGB", (3000, 200))
    image.paste((250, 0, 0), (100, 50, 140, 90))
    image.save(tmp_path / "wide.png")
    sign, wide = Box.from_xyxy((100, 50, 140, 90)), Box.from_xyxy((0, 0, 3000, 200))
    crops = [Image.open(io.BytesIO(data)) for data in cut_crops(tmp_path / "wide.png", [sign, wide, *[sign] * 9])]
    assert len(crops) == MAX_SHOWN
    assert crops[0].size == (40, 40) and crops[0].getpixel((20, 20))[0] > 230
    assert crops[1].size[0] == SHOWN_SIDE and crops[1].format == "JPEG"
    assert cut_crops(tmp_path / "wide.png", []) == []
