from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from hart_studio.training.miniature.curves import Line, draw_chart, join_seeds

SVG = "{http://www.w3.org/2000/svg}"


def test_seeds_are_joined_step_by_step() -> None:
    line = join_seeds("x", [{1: 0.0, 2: 1.0, 3: 0.5}, {1: 1.0, 2: 0.0}])
    assert line.points == [(1, 0.5, 0.0, 1.0), (2, 0.5, 0.0, 1.0)], "only steps that both have"
    assert join_seeds("x", []) == Line("x", ())


def test_smoothing_is_a_mean_of_neighbours() -> None:
    line = join_seeds("x", [{1: 0.0, 2: 3.0, 3: 6.0}], window=3)
    assert [mean for _, mean, *_ in line.points] == pytest.approx([1.5, 3.0, 4.5])


def test_a_chart_is_valid_xml_with_all_that_is_needed_to_read_it() -> None:
    lines = [Line("a <b> & c", [(0, 0.2, 0.1, 0.3), (10, 0.8, 0.7, 0.9)]), Line("empty", ())]
    text = draw_chart("Reward < 1", "step", "reward & more", lines)
    root = ElementTree.fromstring(text)  # noqa: S314 - made a line above
    assert root.attrib["viewBox"] == "0 0 860 440"
    texts = [node.text for node in root.iter(f"{SVG}text")]
    assert {"Reward < 1", "step", "reward & more", "a <b> & c", "0", "10"} <= set(texts)
    assert "empty" not in texts, "a method without a figure has no line and no place in the legend"
    assert "prefers-color-scheme:dark" in text
    (polyline,) = root.iter(f"{SVG}polyline")
    (start, end) = [tuple(map(float, point.split(","))) for point in polyline.attrib["points"].split()]
    assert (start[0], end[0]) == (64.0, 640.0)
    assert start[1] > end[1], "greater values are further up"
    (band,) = root.iter(f"{SVG}polygon")
    assert len(band.attrib["points"].split()) == 4


def test_a_line_that_does_not_move_and_no_line_at_all() -> None:
    flat = draw_chart("t", "x", "y", [Line("a", [(0, 0.5, 0.5, 0.5)])])
    assert not re.search("nan|inf", flat)
    nothing = ElementTree.fromstring(draw_chart("t", "x", "y", []))  # noqa: S314 - as above
    assert "nothing was measured" in [node.text for node in nothing.iter(f"{SVG}text")]
