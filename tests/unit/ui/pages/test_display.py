import json
from pathlib import Path

import pytest

from hart_studio.records import Box
from hart_studio.ui.pages.answer_displays import (
    AnswerCard,
    AnswerCards,
    AnswersPanel,
    BoxViewer,
    Crop,
    CropStrip,
    ImageCopy,
    ModelInputs,
    Overview,
    SelfCheckBadge,
    TranscriptTurn,
    ViewerImage,
)
from hart_studio.ui.pages.display import Failed, ProgressStatus, Running
from hart_studio.ui.pages.evaluate import EvaluateChoices, EvaluatePage
from hart_studio.ui.pages.train import LaunchReport, SampleCards
from hart_studio.ui.pages.train_form import LaunchState
from hart_studio.ui.pages.watch import RunChoice, RunsTable, RunView
from hart_studio.ui.theme import ASSETS

EVIL = "<script>${alert(1)}</script>{{7*7}}"
SCENE = ViewerImage(
    name=EVIL,
    width=4000,
    height=3000,
    preview=ImageCopy(Path("/cache/preview.jpg"), 2048),
    detail=ImageCopy(Path("/cache/detail.jpg"), 4000),
    boxes=(Box.from_xyxy((10.5, 20.0, 300.0, 400.0), EVIL, 0.5),),
    crops=(Box.from_xyxy((0.0, 10.0, 310.0, 410.0)),),
)
SHOWN = ModelInputs(
    (4000, 3000), Overview(Path("/cache/o.png"), 256, 192), (Crop(Path("/cache/c.png"), SCENE.crops[0]),)
)
BOARD = AnswersPanel(
    model=EVIL,
    expected="",
    checks=(SelfCheckBadge("Region necessary (masking test)", "yes", "good", "because"),),
    cards=(
        AnswerCard(
            "direct", "Full image", "", "", EVIL, "", EVIL, "", 48, 0.5, (TranscriptTurn("Answer", EVIL),), False
        ),
    ),
)
VALUES = [
    (BoxViewer, SCENE),
    (CropStrip, SHOWN),
    (AnswerCards, BOARD),
    (ProgressStatus, Running(0.5, EVIL)),
    (ProgressStatus, Failed("No", EVIL)),
]


@pytest.mark.parametrize(("component", "value"), VALUES)
def test_values_are_plain_json_and_never_reach_a_template(component, value):
    display = component()
    payload = display.postprocess(value)
    json.dumps(payload, allow_nan=False)
    config = display.get_config()
    assert "${" not in config["html_template"] and "{{" not in config["html_template"]
    assert EVIL not in config["html_template"]
    assert display.preprocess(payload) is None


def test_displays_of_runs_have_constant_templates_and_call_only_what_they_are_given(tmp_path):
    def poll(request):
        return request

    displays = [
        LaunchReport(LaunchState(EVIL)),
        SampleCards(),
        RunView(tmp_path / "marker.txt", RunChoice(""), [poll], is_open=True),
        RunsTable({}, server_functions=[poll]),
    ]
    for display in displays:
        config = display.get_config()
        assert "${" not in config["html_template"] and "{{" not in config["html_template"]
        assert EVIL not in config["html_template"]
    assert [display.get_config().get("server_fns") for display in displays] == [None, None, ["poll"], ["poll"]]
    first, second = RunChoice("a"), RunChoice("a")
    shown = displays[2].postprocess(first)
    assert (shown["run"], shown["is_open"]) == ("a", True) and first != second, "the same run can be chosen again"
    assert {chart["title"] for chart in shown["charts"]} >= {"Reward", "Held-out grounding", "Loss"}


def test_the_evaluate_page_gets_its_choices_as_values(tmp_path):
    def tables(request):
        return request

    choices = EvaluateChoices(
        [{"name": "needle", "title": EVIL}], "needle", [(EVIL, EVIL)], EVIL, [("direct", EVIL)], []
    )
    page = EvaluatePage(tmp_path / "marker.txt", choices, [tables], is_open=False)
    config = page.get_config()
    assert "${" not in config["html_template"] and "{{" not in config["html_template"]
    assert EVIL not in config["html_template"] and config["server_fns"] == ["tables"]
    payload = page.postprocess(choices)
    json.dumps(payload, allow_nan=False)
    assert (payload["models"], payload["is_open"]) == ([(EVIL, EVIL)], False)
    assert payload["marker"]["path"] == str(tmp_path / "marker.txt")


@pytest.mark.parametrize("component", [BoxViewer, CropStrip, AnswerCards, ProgressStatus])
def test_nothing_is_drawn_from_nothing(component):
    assert component().postprocess(None) is None


def test_the_viewer_gets_original_pixels():
    payload = BoxViewer().postprocess(SCENE)
    assert (payload["width"], payload["height"]) == (4000, 3000)
    assert payload["boxes"] == [{"x_min": 10.5, "y_min": 20.0, "x_max": 300.0, "y_max": 400.0, "label": EVIL}]
    assert payload["crops"] == [{"x_min": 0.0, "y_min": 10.0, "x_max": 310.0, "y_max": 410.0, "label": ""}]
    assert payload["preview"]["path"]["path"] == "/cache/preview.jpg"
    assert payload["preview"]["path"]["meta"] == {"_type": "gradio.FileData"}


@pytest.mark.parametrize("script", sorted(path.name for path in (ASSETS / "js").glob("*.js")))
def test_no_script_turns_text_into_markup(script):
    source = (ASSETS / "js" / script).read_text("utf-8")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser"):
        assert way not in source
    assert "http://" not in source.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in source


def test_the_style_sheet_fetches_nothing():
    source = (ASSETS / "css" / "studio.css").read_text("utf-8")
    assert "url(" not in source
    assert "@import" not in source
