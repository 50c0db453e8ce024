from __future__ import annotations

import io
from xml.etree import ElementTree

import pytest
from PIL import Image, ImageFont

from hart_studio.evaluation import png
from hart_studio.evaluation.figures import draw_area_shares, draw_iou_curves, draw_wrong_boxes, make_figures
from hart_studio.evaluation.interval_chart import IntervalBar, draw_intervals
from hart_studio.evaluation.line_chart import Axis
from hart_studio.evaluation.png import SCALE, to_png
from tests.unit.evaluation.questions import answer_result, evaluation, question

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)  # noqa: S314 - drawn by the test
    return [node.text or "" for node in root.iter(f"{SVG}text")]


def test_every_figure_says_n() -> None:
    found = {figure.name: figure for figure in make_figures([evaluation()])}
    assert list(found) == [
        "figure_3_treebench",
        "wrong_boxes_treebench",
        "area_treebench_20260102-030405-treebench-abcdef",
    ]
    assert "tiny, n = 8" in texts(found["figure_3_treebench"].svg), "gold boxes"
    bars = texts(found["wrong_boxes_treebench"].svg)
    assert "66.7 %, n = 3" in bars and "tiny, crops_only" in bars, "right answers"
    assert "n = 6 questions" in list(found.values())[2].caption, "g and h have no box"
    assert all("measured" in figure.caption.lower() for figure in found.values())


def test_without_gold_boxes_there_is_only_the_area() -> None:
    plain = evaluation((question("a", answer_result(1.0), None, (), gold_boxes=()),))
    assert draw_iou_curves([plain], "vstar") is None
    assert draw_wrong_boxes([plain], "vstar") is None
    assert draw_area_shares(plain) is None
    assert make_figures([]) == []


def test_hostile_names_stay_text() -> None:
    hostile = evaluation(title="<script>\x00&", model="<script>\x00&", benchmark="../../x")
    for figure in make_figures([hostile]):
        assert "<script>" not in figure.svg
        assert "/" not in figure.name and ".." not in figure.name
        ElementTree.fromstring(figure.svg)  # noqa: S314 - drawn by the test


def test_a_figure_as_png_is_on_light_paper_and_has_its_text() -> None:
    svg = draw_wrong_boxes([evaluation()], "treebench")
    assert svg is not None
    with Image.open(io.BytesIO(to_png(svg.svg))) as image:
        assert image.width == 860 * SCALE
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
        title = image.convert("L").crop((100, 20, 700, 70))
        assert min(title.tobytes()) < 128, "the title is drawn"


def test_a_bar_ends_at_its_value() -> None:
    text = draw_intervals("t", "x", [IntervalBar("a", 25, 10, 200, "25, n = 4")], Axis(0, 100))
    (bar,) = [node for node in ElementTree.fromstring(text).iter(f"{SVG}rect") if node.get("fill")]  # noqa: S314
    assert (bar.get("x"), bar.get("width")) == ("300.0", "90.0")  # a quarter of the 360 between the ends
    assert "H660.0" in text, "what lies beyond the axis ends with it"
    assert "nothing was measured" in draw_intervals("t", "x", [], Axis(0, 1))


def test_without_any_font_of_the_system_text_is_drawn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "load_font", lambda size_px: ImageFont.load_default(size_px))
    svg = draw_intervals("Title", "x", [], Axis(0, 1))
    with Image.open(io.BytesIO(to_png(svg))) as image:
        assert min(image.convert("L").crop((100, 20, 300, 70)).tobytes()) < 128
