from __future__ import annotations

from xml.etree import ElementTree

from matplotlib.figure import Figure
from PIL import Image

from hart_studio.evaluation.charts import to_svg
from hart_studio.evaluation.failures import ModelAnswer
from hart_studio.evaluation.figures import (
    GOLD,
    color_of,
    draw_area_shares,
    draw_boxes,
    draw_iou_curves,
    draw_sample,
    draw_wrong_boxes,
    make_figures,
    write_sample,
)
from hart_studio.records import Box
from tests.unit.evaluation.questions import answer_result, eight_questions, evaluation, question

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
    assert "66.7 %, n = 3" in bars and "tiny, crops_only" in bars, "correct answers"
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


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[index : index + 2], 16) for index in (1, 3, 5))


def test_every_model_has_its_color_in_the_frame_of_the_small_image() -> None:
    left = question(
        "x", answer_result(1.0), None, (Box.from_xyxy((10, 10, 30, 30)),), gold_boxes=(Box.from_xyxy((60, 10, 90, 90)),)
    )
    right = left.model_copy(update={"boxes": (Box.from_xyxy((10, 60, 30, 90)),)})
    shown = [ModelAnswer("one", "crops_only", left), ModelAnswer("two", "crops_only", right)]
    # The records say 100 x 100, the image is four times as large.
    drawn = draw_boxes(Image.new("RGB", (400, 400), "black"), shown)
    assert drawn.getpixel((41, 80)) == rgb(color_of(0))
    assert drawn.getpixel((41, 300)) == rgb(color_of(1))
    edge = {drawn.getpixel((240, y)) for y in range(40, 360)}
    assert rgb(GOLD) in edge and (0, 0, 0) in edge, "dashed: the image is seen between the strokes"


def test_a_tiny_box_is_still_seen() -> None:
    tiny = question("x", answer_result(1.0), None, (Box.from_xyxy((50, 50, 50.1, 50.1)),), gold_boxes=())
    drawn = draw_boxes(Image.new("RGB", (400, 400), "black"), [ModelAnswer("one", "crops_only", tiny)])
    assert rgb(color_of(0)) in {drawn.getpixel((x, y)) for x in range(190, 212) for y in range(190, 212)}


def test_question_and_verdicts_stand_beside_the_image() -> None:
    shown = [ModelAnswer("one", "crops_only", record) for record in eight_questions()[:2]]
    page = draw_sample(Image.new("RGB", (300, 200), "black"), shown)
    assert page.width > 300 and page.height >= 200
    assert min(page.convert("L").crop((300, 0, page.width, page.height)).tobytes()) < 128, "there is text"


def test_the_block_escapes_everything() -> None:
    hostile = "<script>alert(1)</script>"
    record = question(
        "x", answer_result(0.0), None, (), question=hostile, choices=(hostile, "b"), category=hostile, error=hostile
    )
    block = write_sample(None, [ModelAnswer(hostile, "crops_only", record)])
    assert "<script>" not in block and block.count("&lt;script&gt;") == 5
    b = eight_questions()[1]
    block = write_sample(Image.new("RGB", (40, 40)), [ModelAnswer("one", "crops_only", b)])
    assert "data:image/jpeg;base64," in block
    assert (
        "correct answer, wrong or no box, 1 box" in block
        and "1 gold box" in block
        and "Expected: <strong>A</strong>" in block
    )
