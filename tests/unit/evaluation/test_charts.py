from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

from hart_studio.evaluation.charts import (
    Bar,
    IntervalBar,
    Series,
    draw_bars,
    draw_intervals,
    draw_lines,
    to_png,
    to_svg,
)

SVG = "{http://www.w3.org/2000/svg}"


def texts(figure: Figure) -> list[str]:
    root = ElementTree.fromstring(to_svg(figure))  # noqa: S314 - drawn by the test
    return [node.text or "" for node in root.iter(f"{SVG}text")]


def test_a_line_chart_has_all_that_is_needed_to_read_it() -> None:
    lines = [Series("a <b> & c", [(0, 0.2, 0.1, 0.3), (10, 0.8, 0.7, 0.9)]), Series("empty", ())]
    figure = draw_lines("Reward < 1", "step", "reward & more", lines)
    assert {"Reward < 1", "step", "reward & more", "a <b> & c", "0", "10"} <= set(texts(figure))
    assert "empty" not in texts(figure), "a method without a value has no line and no legend entry"
    (axes,) = figure.axes
    (line,) = axes.lines
    assert [list(values) for values in line.get_data()] == [[0, 10], [0.2, 0.8]]
    (band,) = axes.collections
    assert (band.get_datalim(axes.transData).ymin, band.get_datalim(axes.transData).ymax) == (0.1, 0.9)
    assert axes.get_xlim() == (0, 10)


def test_given_limits_are_kept() -> None:
    lines = [Series("a", [(0.0, 1.0, 1.0, 1.0), (0.5, 0.0, 0.0, 0.0)])]
    (axes,) = draw_lines("t", "x", "y", lines, (0, 1), (0, 1)).axes
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)
    (axes,) = draw_bars("t", "x", "y", [Bar("a", 0.3)], top=1.0).axes
    assert axes.get_ylim() == (0, 1)


@pytest.mark.parametrize("counts", [[38, 4], [1], [3, 2], [5], [55], [4000], [4001]])
def test_the_axis_of_counts_has_whole_numbers_and_no_bar_leaves_it(counts: list[int]) -> None:
    (axes,) = draw_bars("Scores", "score", "labels", [Bar("a", count) for count in counts]).axes
    assert [bar.get_height() for bar in axes.patches] == counts
    assert axes.get_ylim()[1] >= max(counts)
    assert all(float(tick).is_integer() for tick in axes.get_yticks())


def test_a_mark_lies_at_its_value() -> None:
    (axes,) = draw_bars("Scores", "score", "labels", [Bar("a", 2), Bar("b", 4, mark=3)]).axes
    (marks,) = axes.collections
    ((start, end),) = marks.get_segments()
    assert start[1] == end[1] == 3
    assert start[0] < 1 < end[0], "across the second bar"


def test_a_bar_ends_at_its_value_and_its_interval_at_the_axis() -> None:
    figure = draw_intervals(
        "t", "x", [IntervalBar("a", 25, 10, 200, "25, n = 4"), IntervalBar("b", 5, 4, 6, "")], (0, 100)
    )
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [25, 5]
    assert axes.get_xlim() == (0, 100)
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first bar is on top"
    assert {"a", "b", "25, n = 4"} <= set(texts(figure))


@pytest.mark.parametrize(
    "figure",
    [
        draw_lines("t", "x", "y", []),
        draw_bars("t", "x", "y", []),
        draw_bars("t", "x", "y", [Bar("a", 0)]),
        draw_intervals("t", "x", [], (0, 1)),
    ],
)
def test_nothing_to_draw_is_said(figure: Figure) -> None:
    assert texts(figure) == ["t", "nothing was measured"] or set(texts(figure)) == {"t", "nothing was measured"}


def test_a_line_that_does_not_move() -> None:
    text = to_svg(draw_lines("t", "x", "y", [Series("a", [(0, 0.5, 0.5, 0.5)])]))
    assert "nan" not in text and "inf" not in text


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "$\\frac{1}{0}$", "a\x00b", "画像 模型", "&amp; \"'", "x" * 500]
)
def test_any_name_stays_text(name: str) -> None:
    figures = [
        draw_lines(name, name, name, [Series(name, [(0, 1, 1, 1)])]),
        draw_bars(name, name, name, [Bar(name, 1)]),
        draw_intervals(name, name, [IntervalBar(name, 1, 0, 2, name)], (0, 2)),
    ]
    for figure in figures:
        assert "<script>" not in to_svg(figure)
        assert max(map(len, texts(figure))) <= 70
        to_png(figure)


def test_an_svg_follows_the_scheme_of_the_page_and_is_the_same_each_time() -> None:
    text = to_svg(draw_bars("Scores", "score", "labels", [Bar("a", 2)]))
    assert text.startswith('<svg role="img"') and "prefers-color-scheme:dark" in text
    assert "<title>Scores</title>" in text
    assert text == to_svg(draw_bars("Scores", "score", "labels", [Bar("a", 2)]))


def test_a_png_is_on_white_and_has_its_text() -> None:
    with Image.open(io.BytesIO(to_png(draw_bars("Title of it", "x", "y", [Bar("a", 1)])))) as image:
        assert image.width == 6.4 * 200
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
        assert min(image.convert("L").crop((20, 0, 400, 60)).tobytes()) < 128, "the title is drawn"


def test_figures_are_drawn_in_several_threads() -> None:
    def draw(count: int) -> str:
        return to_svg(draw_bars("t", "x", "y", [Bar("a", count)]))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, [1, 2] * 8)) == [draw(1), draw(2)] * 8
