"""Draw one question under several models (Fig. 4): the image with gold and predicted boxes, and the answers."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from hart_studio.evaluation.charts import FONT_FILE, SERIES_STYLES
from hart_studio.evaluation.failures import Verdict, get_verdict
from hart_studio.evaluation.records import SampleResult
from hart_studio.formatting import shorten
from hart_studio.geometry import BoxFrame, from_original
from hart_studio.records import Box, Protocol

GOLD: Final = "#e8c400"
"""Color of the dashed gold boxes."""

_INK: Final = "#1b2230"
_QUIET: Final = "#677285"
_HALO: Final = "#ffffff"
_MIN_BOX_PX: Final = 8
_PANEL_PX: Final = 460
_MAX_TEXT_CHARS: Final = 400
"""Maximum characters shown of a question, option or answer."""


class ModelAnswer(NamedTuple):
    """A question with the answer of one model."""

    name: str
    """Name of the model."""
    protocol: Protocol
    """Protocol of the answer."""
    record: SampleResult
    """Record of the question."""

    @property
    def verdict(self) -> Verdict:
        """Verdict of the question."""
        return get_verdict(self.record, self.protocol)

    @property
    def answer(self) -> str:
        """Extracted answer, or the text if nothing could be extracted."""
        answer_result = self.record.answers.get(self.protocol)
        if answer_result is None:
            return ""
        return answer_result.score.extracted or " ".join(answer_result.text.split())

    @property
    def expected(self) -> str:
        """Known answer."""
        answer_result = self.record.answers.get(self.protocol)
        return (answer_result.score.expected if answer_result else None) or ""


def color_of(index: int) -> str:
    """Color of a model's boxes, by its index."""
    return SERIES_STYLES[index % len(SERIES_STYLES)][0]


def draw_boxes(image: Image.Image, shown: Sequence[ModelAnswer]) -> Image.Image:
    """Draw a copy of the image with dashed gold boxes and the boxes of each model in its color.

    Args:
        image: RGB, upright, of any size; boxes refer to the size in the records.
        shown: The same question with the answers of several models.
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
    """Fig. 4: draw the image with its boxes, and question, answers and verdicts to the right.

    Args:
        image: As for ``draw_boxes``.
        shown: As for ``draw_boxes``, at least one.
    """
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


def write_sample(image: Image.Image | None, shown: Sequence[ModelAnswer], note: str = "", quality: int = 82) -> str:
    """Write the same as an HTML block with escaped texts.

    Args:
        image: As for ``draw_boxes``, downscaled; None if unreadable.
        shown: As for ``draw_boxes``, at least one.
        note: Why the image is missing.
        quality: JPEG quality of the image.
    """
    record = shown[0].record
    parts = ['<article class="sample">']
    if image is None:
        parts.append(f'<p class="quiet">{html.escape(note or "no image")}</p>')
    else:
        stream = io.BytesIO()
        draw_boxes(image, shown).save(stream, "JPEG", quality=quality)
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
