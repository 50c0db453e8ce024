from __future__ import annotations

from xml.etree import ElementTree

from matplotlib.figure import Figure

from hart_studio.evaluation.charts import to_svg
from hart_studio.evaluation.figures import draw_area_shares, draw_iou_curves, draw_wrong_boxes, make_figures
from tests.unit.evaluation.questions import answer_result, evaluation, question

SVG = "{http://www.w3.org/2000/svg}"


def texts(chart: Figure) -> list[str]:
    root = ElementTree.fromstring(to_svg(chart))  # noqa: S314 - drawn by the test
    return [node.text or "" for node in root.iter(f"{SVG}text")]


def test_every_figure_says_n() -> None:
    found = {figure.name: figure for figure in make_figures([evaluation()])}
    assert list(found) == [
        "figure_3_treebench",
        "wrong_boxes_treebench",
        "area_treebench_20260102-030405-treebench-abcdef",
    ]
    assert "tiny, n = 8" in texts(found["figure_3_treebench"].chart), "gold boxes"
    bars = texts(found["wrong_boxes_treebench"].chart)
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
        assert "<script>" not in to_svg(figure.chart)
        assert "/" not in figure.name and ".." not in figure.name
        ElementTree.fromstring(to_svg(figure.chart))  # noqa: S314 - drawn by the test
