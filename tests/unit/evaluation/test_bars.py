from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from hart_studio.evaluation.bars import Bar, draw_bars

SVG = "{http://www.w3.org/2000/svg}"


def test_heights_are_the_values() -> None:
    root = ET.fromstring(draw_bars("Scores", "score", "labels", [Bar("a", 1), Bar("b", 4, mark=2)]))  # noqa: S314 - our own
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("fill")]
    heights = [float(rect.get("height", "0")) for rect in bars]
    assert heights == [52, 208]
    (mark,) = [line for line in root.iter(f"{SVG}line") if line.get("stroke-width") == "3"]
    assert mark.get("y1") == mark.get("y2") == "152.0"


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
    assert [text.text for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "end"] == ticks
    heights = [float(rect.get("height", "0")) for rect in root.iter(f"{SVG}rect") if rect.get("fill")]
    top = float(ticks[-1].replace(",", ""))
    assert heights == pytest.approx([208 * count / top for count in counts], abs=0.05)


def test_the_axis_of_shares_ends_where_it_is_told() -> None:
    root = ET.fromstring(draw_bars("t", "x", "y", [Bar("a", 0.3)], top=1.0))  # noqa: S314 - our own
    ticks = [text.text for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "end"]
    assert ticks == ["0", "0.25", "0.5", "0.75", "1"]


def test_text_is_escaped() -> None:
    text = draw_bars("<script>", "&", '"', [Bar("<b>", 1)])
    assert "<script>" not in text and "<b>" not in text
    ET.fromstring(text)  # noqa: S314 - our own


def test_nothing_to_draw() -> None:
    assert "nothing was measured" in draw_bars("t", "x", "y", [])
    assert "nothing was measured" in draw_bars("t", "x", "y", [Bar("a", 0)])
