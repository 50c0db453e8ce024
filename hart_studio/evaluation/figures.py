"""Figures of evaluations: boxes by IoU (Fig. 3), answers with wrong boxes, box areas, and one question (Fig. 4)."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from hart_studio.evaluation.charts import (
    FONT_FILE,
    SERIES_STYLES,
    Bar,
    IntervalBar,
    Series,
    draw_bars,
    draw_intervals,
    draw_lines,
)
from hart_studio.evaluation.failures import ModelAnswer
from hart_studio.evaluation.grounding_metrics import IOU_THRESHOLDS, list_area_shares, share_by_iou
from hart_studio.evaluation.joint import measure_joint
from hart_studio.evaluation.records import Evaluation, SampleResult
from hart_studio.evaluation.tables.table import each_protocol, file_stem, of_benchmark
from hart_studio.formatting import shorten
from hart_studio.geometry import BoxFrame, from_original
from hart_studio.records import Box

AREA_EDGES: Final = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Bins of the histogram of area shares; most boxes are small, so the bins are narrow."""

GOLD: Final = "#e8c400"
"""Color of the dashed gold boxes."""

_INK: Final = "#1b2230"
_QUIET: Final = "#677285"
_HALO: Final = "#ffffff"
_MIN_BOX_PX: Final = 8
_PANEL_PX: Final = 460
_JPEG_QUALITY: Final = 82
_MAX_TEXT_CHARS: Final = 400
"""Maximum characters shown of a question, option or answer."""
_MAX_SERIES: Final = len(SERIES_STYLES)


class ReportFigure(NamedTuple):
    """A figure of a report."""

    name: str
    """File name without suffix."""
    caption: str
    """What is drawn, in sentences; says n."""
    chart: Figure
    """The drawing."""


def make_figures(evaluations: Sequence[Evaluation]) -> list[ReportFigure]:
    """The figures that some evaluations can fill; none without gold boxes and grounding turns."""
    found = []
    for benchmark in dict.fromkeys(evaluation.benchmark for evaluation in evaluations):
        same = of_benchmark(evaluations, benchmark)
        found += [draw_iou_curves(same, benchmark), draw_wrong_boxes(same, benchmark)]
        found += [draw_area_shares(evaluation) for evaluation in same]
    return [figure for figure in found if figure is not None]


def draw_iou_curves(evaluations: Sequence[Evaluation], benchmark: str) -> ReportFigure | None:
    """Fig. 3: share of the gold boxes by IoU threshold, a line for each of the first six models with gold boxes.

    None without gold boxes.
    """
    lines = []
    for evaluation in evaluations:
        shares = share_by_iou(evaluation.records)
        if shares:
            boxes = sum(len(record.gold_matches) for record in evaluation.records)
            points = [(at, share, share, share) for at, share in zip(IOU_THRESHOLDS, shares, strict=True)]
            lines.append(Series(f"{shorten(evaluation.label(evaluations), 17)}, n = {boxes}", points))
    if not lines:
        return None
    omitted = f" {len(lines) - _MAX_SERIES} more are in the table." if len(lines) > _MAX_SERIES else ""
    caption = (
        "Fig. 3: share of the gold boxes whose best IoU is at least the threshold; n is the number of gold boxes. All "
        f"lines are measured.{omitted}"
    )
    title = f"Grounding on {benchmark}"
    chart = draw_lines(title, "IoU threshold", "share of gold boxes", lines[:_MAX_SERIES], (0, 1), (0, 1))
    return ReportFigure(file_stem(f"figure_3_{benchmark}"), caption, chart)


def draw_wrong_boxes(evaluations: Sequence[Evaluation], benchmark: str) -> ReportFigure | None:
    """P(wrong box | correct answer) by model and protocol; None without correct answers and gold boxes."""
    names = [evaluation.label(evaluations) for evaluation in evaluations]
    bars = []
    for evaluation, protocol in each_protocol(evaluations):
        joint = measure_joint(evaluation.records, protocol)
        if joint is None or joint.wrong_box is None:
            continue
        value, low, high = (100 * each for each in joint.wrong_box)
        note = f"{value:.1f} %, n = {joint.counts[0] + joint.counts[1]}"
        name = evaluation.label(evaluations)
        bars.append(IntervalBar(f"{shorten(name, 22)}, {protocol}", value, low, high, note, names.index(name)))
    if not bars:
        return None
    caption = (
        "Share of the correct answers whose box is wrong (Table 1), with 95 % bootstrap intervals over questions; n is "
        "the number of correct answers. All bars are measured."
    )
    title = f"Correct answers with wrong boxes, {benchmark}"
    chart = draw_intervals(title, "P(wrong box | correct answer), %", bars, (0, 100))
    return ReportFigure(file_stem(f"wrong_boxes_{benchmark}"), caption, chart)


def draw_area_shares(evaluation: Evaluation) -> ReportFigure | None:
    """How much of the image the predicted boxes cover together; None without a valid box."""
    shares = list_area_shares(evaluation.records)
    if not shares:
        return None
    counts = [sum(low < share <= high for share in shares) for low, high in pairwise(AREA_EDGES)]
    bars = [
        Bar(f"{100 * low:g}-{100 * high:g} %", count)
        for (low, high), count in zip(pairwise(AREA_EDGES), counts, strict=True)
    ]
    name = f"{evaluation.name}, {evaluation.benchmark}"
    chart = draw_bars(f"Box area: {shorten(name, 40)}", "share of the image", "questions", bars)
    caption = (
        f"{name}: share of the image that the predicted boxes of a question cover together; "
        f"n = {len(shares)} questions with a valid box. Measured."
    )
    return ReportFigure(file_stem(f"area_{evaluation.benchmark}_{evaluation.run_id}"), caption, chart)


def color_of(index: int) -> str:
    """Color of a model's boxes, by its index."""
    return SERIES_STYLES[index % len(SERIES_STYLES)][0]


def draw_boxes(image: Image.Image, shown: Sequence[ModelAnswer]) -> Image.Image:
    """Draw a copy of the image with dashed gold boxes and the boxes of each model in its color.

    The image is RGB and upright, of any size; boxes refer to the size in the records. All answers are to one question.
    """
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    width = max(3, round(max(image.size) / 280))
    for index, each in reversed(list(enumerate(shown))):
        for box in each.record.boxes:
            edges = _place(box, each.record, image.size)
            pen.rectangle([edges[0] - 1, edges[1] - 1, edges[2] + 1, edges[3] + 1], outline=_HALO, width=width + 2)
            pen.rectangle(edges, outline=color_of(index), width=width)
    if shown:
        for box in shown[0].record.gold_boxes:
            _draw_dashed(pen, _place(box, shown[0].record, image.size), width + 1)
    return drawn


def draw_sample(image: Image.Image, shown: Sequence[ModelAnswer]) -> Image.Image:
    """Fig. 4: draw the image with its boxes, and question, answers and verdicts to the right; see ``draw_boxes``."""
    drawn = draw_boxes(image, shown)
    lines = _describe(shown)
    height = max(drawn.height, 32 + sum(size + 8 for _, _, size, _ in lines))
    page = Image.new("RGB", (drawn.width + _PANEL_PX, height), _HALO)
    page.paste(drawn, (0, 0))
    pen, y = ImageDraw.Draw(page), 16
    left = drawn.width + 20
    for text, color, size, swatch in lines:
        if swatch:
            pen.rectangle([left, y + 2, left + size - 2, y + size], fill=swatch)
        pen.text((left + (size + 6 if swatch else 0), y), text, fill=color, font=_load_font(size))
        y += size + 8
    return page


def write_sample(image: Image.Image | None, shown: Sequence[ModelAnswer]) -> str:
    """Write the same as an HTML block with escaped texts; the image is None if unreadable."""
    record = shown[0].record
    parts = ['<article class="sample">']
    if image is None:
        parts.append('<p class="quiet">The image can no longer be read.</p>')
    else:
        stream = io.BytesIO()
        draw_boxes(image, shown).save(stream, "JPEG", quality=_JPEG_QUALITY)
        data = base64.b64encode(stream.getvalue()).decode()
        text = html.escape(f"Image of {record.sample_id} with its boxes")
        parts.append(f'<img alt="{text}" loading="lazy" src="data:image/jpeg;base64,{data}">')
    question = _cut(record.question) or "no question was kept"
    meta = html.escape(" · ".join(part for part in (record.sample_id, record.category) if part))
    parts.append(f'<div><p class="quiet">{meta}</p><p><strong>{html.escape(question)}</strong></p>')
    if record.choices:
        options = "".join(f"<li>{html.escape(_cut(choice))}</li>" for choice in record.choices)
        parts.append(f'<ol type="A">{options}</ol>')
    gold = f'<span class="swatch gold"></span>{_count_boxes(len(record.gold_boxes), "gold box")}'
    parts.append(f"<p>Expected: <strong>{html.escape(_expected(shown) or 'not known')}</strong> · {gold}</p><ul>")
    for index, each in enumerate(shown):
        swatch = f'<span class="swatch" style="background:{color_of(index)}"></span>'
        said = html.escape(_cut(each.answer) or "nothing")
        text = f"{html.escape(each.name)}, {each.protocol}: <strong>{said}</strong>"
        boxes = _count_boxes(len(each.record.boxes), "box") if each.record.has_grounding_turn else "no grounding turn"
        error = f" ({html.escape(_cut(each.record.error))})" if each.record.error else ""
        parts.append(f"<li>{swatch}{text} - {each.verdict}{error}, {boxes}</li>")
    return "".join([*parts, "</ul></div></article>"])


def _describe(shown: Sequence[ModelAnswer]) -> list[tuple[str, str, int, str]]:
    """Lines beside the image: text, color, size, and color of the swatch, if any."""
    record = shown[0].record
    lines = [(line, _INK, 18, "") for line in _wrap(_cut(record.question), 18)]
    for letter, choice in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", record.choices, strict=False):
        lines += [(line, _INK, 15, "") for line in _wrap(f"{letter}  {_cut(choice)}", 15)]
    lines += [("", _INK, 8, ""), (f"Expected: {_cut(_expected(shown)) or 'not known'}", _INK, 16, "")]
    lines.append((_count_boxes(len(record.gold_boxes), "gold box"), _QUIET, 14, GOLD))
    for index, each in enumerate(shown):
        lines += [("", _INK, 8, ""), (f"{shorten(each.name, 30)}, {each.protocol}", _INK, 15, color_of(index))]
        for line in _wrap(f"{_cut(each.answer) or 'nothing'} - {each.verdict}", 15):
            lines.append((line, _QUIET, 15, ""))
    return lines


@lru_cache(maxsize=16)
def _load_font(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONT_FILE, size_px)


def _wrap(text: str, size: int) -> list[str]:
    font, limit = _load_font(size), _PANEL_PX - 40
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= limit:
            lines[-1] = joined
        else:
            lines.append(word if font.getlength(word) <= limit else shorten(word, 40))
    return lines


def _place(box: Box, record: SampleResult, wh: tuple[int, int]) -> tuple[float, float, float, float]:
    """Edges in the drawn image, with a minimum size so that small boxes are visible."""
    left, top, right, bottom = from_original(box.xyxy, BoxFrame.MODEL_PIXELS, record.image_wh or wh, wh)
    across, down = max(0.0, _MIN_BOX_PX - (right - left)) / 2, max(0.0, _MIN_BOX_PX - (bottom - top)) / 2
    return left - across, top - down, right + across, bottom + down


def _draw_dashed(pen: ImageDraw.ImageDraw, edges: tuple[float, float, float, float], width: int) -> None:
    left, top, right, bottom = edges
    sides = (
        (left, top, right, top),
        (right, top, right, bottom),
        (right, bottom, left, bottom),
        (left, bottom, left, top),
    )
    for x, y, x_end, y_end in sides:
        dashes = max(1, round(max(abs(x_end - x), abs(y_end - y)) / (4 * width)))
        for index in range(dashes):
            start, end = index / dashes, (index + 0.6) / dashes
            line = [x + (x_end - x) * start, y + (y_end - y) * start, x + (x_end - x) * end, y + (y_end - y) * end]
            pen.line(line, fill=_INK, width=width + 2)
            pen.line(line, fill=GOLD, width=width)


def _expected(shown: Sequence[ModelAnswer]) -> str:
    return next((each.expected for each in shown if each.expected), "")


def _count_boxes(count: int, name: str) -> str:
    return f"{count or 'no'} {name}{'es' if count > 1 else ''}"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT_CHARS else f"{text[:_MAX_TEXT_CHARS]}…"
