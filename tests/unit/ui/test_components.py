import json
from pathlib import Path

import pytest

from hart_studio.records import Box
from hart_studio.ui.components.answer_cards import AnswerCard, AnswerCards, AnswersPanel, SelfCheckBadge, TranscriptTurn
from hart_studio.ui.components.box_viewer import BoxViewer, ImageCopy, ViewerImage
from hart_studio.ui.components.crop_strip import Crop, CropStrip, ModelInputs, Overview
from hart_studio.ui.components.example_picker import Example, ExamplePicker
from hart_studio.ui.components.launch_report import LaunchReport, LaunchState, SampleCards
from hart_studio.ui.components.progress_status import Failed, ProgressStatus, Running
from hart_studio.ui.components.run_view import RunChoice, RunView
from hart_studio.ui.components.runs_table import RunsTable
from hart_studio.ui.pages.evaluate import EvaluateChoices, EvaluatePage
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
        RunView(tmp_path / "marker.txt", [poll]),
        RunsTable([poll]),
    ]
    for display in displays:
        config = display.get_config()
        assert "${" not in config["html_template"] and "{{" not in config["html_template"]
        assert EVIL not in config["html_template"]
    assert [display.get_config().get("server_fns") for display in displays] == [None, None, ["poll"], ["poll"]]
    first, second = RunChoice("a"), RunChoice("a")
    shown = displays[2].postprocess(first)
    assert (shown["run"], shown["can_control"]) == ("a", True) and first != second, "the same run can be chosen again"
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
    assert payload["crops"] == [{"x_min": 0.0, "y_min": 10.0, "x_max": 310.0, "y_max": 410.0}]
    assert payload["preview"]["image"]["path"] == "/cache/preview.jpg"
    assert payload["preview"]["image"]["meta"] == {"_type": "gradio.FileData"}


def test_the_strip_states_sizes_and_shares():
    payload = CropStrip().postprocess(SHOWN)
    assert payload["overview"]["pixel_share"] == pytest.approx(256 * 192 / 12e6)
    assert (payload["crops"][0]["width"], payload["crops"][0]["height"]) == (310.0, 400.0)
    assert payload["crops"][0]["area_share"] == pytest.approx(310 * 400 / 12e6)


def test_examples_show_a_thumbnail_and_hide_the_answer(tmp_path):
    thumbnail = tmp_path / "t.jpg"
    thumbnail.write_bytes(b"x")
    picker = ExamplePicker((Example(EVIL, tmp_path / "big.jpg", thumbnail, "Which?", ("a", "b"), "B"),))
    (entry,) = picker.postprocess((Example(EVIL, tmp_path / "big.jpg", thumbnail, "Which?", ("a", "b"), "B"),))
    assert set(entry) == {"title", "question", "image"}
    assert entry["image"]["path"] == str(thumbnail)


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
