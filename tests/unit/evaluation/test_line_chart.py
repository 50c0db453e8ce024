from __future__ import annotations

import re
from xml.etree import ElementTree

from hart_studio.evaluation.line_chart import Axis, Series, draw_chart, shorten

SVG = "{http://www.w3.org/2000/svg}"


def test_a_chart_is_valid_xml_with_all_that_is_needed_to_read_it() -> None:
    lines = [Series("a <b> & c", [(0, 0.2, 0.1, 0.3), (10, 0.8, 0.7, 0.9)]), Series("empty", ())]
    text = draw_chart("Reward < 1", "step", "reward & more", lines)
    root = ElementTree.fromstring(text)  # noqa: S314 - made a line above
    assert root.attrib["viewBox"] == "0 0 860 440"
    texts = [node.text for node in root.iter(f"{SVG}text")]
    assert {"Reward < 1", "step", "reward & more", "a <b> & c", "0", "10"} <= set(texts)
    assert "empty" not in texts, "a method without a figure has no line and no place in the legend"
    assert "prefers-color-scheme:dark" in text
    (polyline,) = root.iter(f"{SVG}polyline")
    (start, end) = [tuple(map(float, point.split(","))) for point in polyline.attrib["points"].split()]
    assert (start[0], end[0]) == (64.0, 600.0)
    assert start[1] > end[1], "greater values are further up"
    (band,) = root.iter(f"{SVG}polygon")
    assert len(band.attrib["points"].split()) == 4


def test_a_line_that_does_not_move_and_no_line_at_all() -> None:
    flat = draw_chart("t", "x", "y", [Series("a", [(0, 0.5, 0.5, 0.5)])])
    assert not re.search("nan|inf", flat)
    nothing = ElementTree.fromstring(draw_chart("t", "x", "y", []))  # noqa: S314 - as above
    assert "nothing was measured" in [node.text for node in nothing.iter(f"{SVG}text")]


def test_given_ends_of_the_axes_are_kept() -> None:
    lines = [Series("a", [(0.0, 1.0, 1.0, 1.0), (0.5, 0.0, 0.0, 0.0)])]
    text = draw_chart("t", "x", "y", lines, x_axis=Axis(0, 1, digits=1), y_axis=Axis(0, 1, digits=1))
    root = ElementTree.fromstring(text)  # noqa: S314 - as above
    (polyline,) = root.iter(f"{SVG}polyline")
    assert polyline.attrib["points"] == "64.0,48.0 332.0,384.0", "half the way, and from the top to the bottom"
    assert [node.text for node in root.iter(f"{SVG}text")].count("0.2") == 2


def test_a_long_name_keeps_its_ends() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcd…ghijk"
    assert len(shorten("a" * 200, 28)) == 28
