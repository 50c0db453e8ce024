from __future__ import annotations

import xml.etree.ElementTree as ET

from hart_studio.evaluation.bars import Bar, draw_bars

SVG = "{http://www.w3.org/2000/svg}"


def test_heights_are_the_values() -> None:
    root = ET.fromstring(draw_bars("Scores", "score", "labels", [Bar("a", 1), Bar("b", 4, mark=2)]))  # noqa: S314 - our own
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("fill")]
    heights = [float(rect.get("height", "0")) for rect in bars]
    assert heights == [52, 208]
    (mark,) = [line for line in root.iter(f"{SVG}line") if line.get("stroke-width") == "3"]
    assert mark.get("y1") == mark.get("y2") == "152.0"


def test_text_is_escaped() -> None:
    text = draw_bars("<script>", "&", '"', [Bar("<b>", 1)])
    assert "<script>" not in text and "<b>" not in text
    ET.fromstring(text)  # noqa: S314 - our own


def test_nothing_to_draw() -> None:
    assert "nothing was measured" in draw_bars("t", "x", "y", [])
    assert "nothing was measured" in draw_bars("t", "x", "y", [Bar("a", 0)])
