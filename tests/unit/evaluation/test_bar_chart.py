from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from hart_studio.evaluation.bar_chart import Bar, draw_bars

SVG = "{http://www.w3.org/2000/svg}"


def bar_heights(root: ET.Element) -> list[float]:
    return [float(rect.get("height", "0")) for rect in root.iter(f"{SVG}rect") if rect.get("fill")]


def ticks_of(root: ET.Element) -> list[ET.Element]:
    """Labels of the vertical axis, from bottom to top."""
    return [text for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "end"]


def axis_height(root: ET.Element) -> float:
    lowest, *_, highest = (float(tick.get("y", "0")) for tick in ticks_of(root))
    return lowest - highest


def test_a_mark_lies_at_its_value() -> None:
    root = ET.fromstring(draw_bars("Scores", "score", "labels", [Bar("a", 2), Bar("b", 4, mark=2)]))  # noqa: S314 - our own
    half, whole = (rect for rect in root.iter(f"{SVG}rect") if rect.get("fill"))
    (mark,) = [line for line in root.iter(f"{SVG}line") if line.get("stroke-width") == "3"]
    assert mark.get("y1") == mark.get("y2") == half.get("y"), "as high as the bar of the same value"
    assert float(whole.get("height", "0")) == pytest.approx(2 * float(half.get("height", "0")), abs=0.1)


@pytest.mark.parametrize(
    ("counts", "ticks"),
    [
        ([38, 4], ["0", "10", "20", "30", "40"]),
        ([1], ["0", "1"]),
        ([3, 2], ["0", "1", "2", "3"]),
        ([5], ["0", "2", "4", "6"]),
        ([55], ["0", "20", "40", "60"]),
        ([4000], ["0", "1,000", "2,000", "3,000", "4,000"]),
        ([4001], ["0", "2,000", "4,000", "6,000"]),
    ],
)
def test_the_axis_of_counts_has_whole_numbers_and_no_bar_leaves_it(counts: list[int], ticks: list[str]) -> None:
    bars = [Bar("a", count) for count in counts]
    root = ET.fromstring(draw_bars("Scores", "score", "labels", bars))  # noqa: S314 - our own
    assert [tick.text for tick in ticks_of(root)] == ticks
    top = float(ticks[-1].replace(",", ""))
    assert bar_heights(root) == pytest.approx([axis_height(root) * count / top for count in counts], abs=0.1)


def test_the_axis_of_shares_ends_where_it_should() -> None:
    root = ET.fromstring(draw_bars("t", "x", "y", [Bar("a", 0.3)], top=1.0))  # noqa: S314 - our own
    assert [tick.text for tick in ticks_of(root)] == ["0", "0.25", "0.5", "0.75", "1"]


def test_text_is_escaped() -> None:
    text = draw_bars("<script>", "&", '"', [Bar("<b>", 1)])
    assert "<script>" not in text and "<b>" not in text
    ET.fromstring(text)  # noqa: S314 - our own


def test_nothing_to_draw() -> None:
    assert "nothing was measured" in draw_bars("t", "x", "y", [])
    assert "nothing was measured" in draw_bars("t", "x", "y", [Bar("a", 0)])
