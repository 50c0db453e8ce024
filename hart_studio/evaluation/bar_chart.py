"""Histograms and reliability diagrams as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from hart_studio.evaluation.svg import MARGIN_LEFT, write_svg

_WH: Final = (640, 320)
_TOP: Final = 48.0
_RIGHT: Final = 616.0
_BOTTOM: Final = 256.0
_TICKS: Final = 4
_BAR: Final = "#4f7df0"
_MARK: Final = "#d9730d"


class Bar(NamedTuple):
    """One bar."""

    label: str
    """Label below the bar."""
    value: float
    """Height, at least 0."""
    mark: float | None = None
    """Value of a second metric, drawn as a line across the bar."""


def draw_bars(title: str, x_label: str, y_label: str, bars: Sequence[Bar], top: float | None = None) -> str:
    """Draw a bar chart with values as an SVG document.

    Args:
        title: Title of the figure.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
        bars: Bars from left to right.
        top: Upper end of the axis. None: the values are counts, with integer ticks.
    """
    greatest = top or max((max(bar.value, bar.mark or 0.0) for bar in bars), default=0.0)
    if not bars or greatest <= 0:
        return write_svg(title, _WH, [])
    ticks = _count_ticks(greatest) if top is None else [top * tick / _TICKS for tick in range(_TICKS + 1)]
    highest = ticks[-1]
    step = (_RIGHT - MARGIN_LEFT) / len(bars)
    body = _draw_axes(x_label, y_label, ticks)
    for index, bar in enumerate(bars):
        left, height = MARGIN_LEFT + index * step, bar.value / highest * (_BOTTOM - _TOP)
        middle = left + step / 2
        body += [
            f'<rect fill="{_BAR}" x="{left + step * 0.12:.1f}" y="{_BOTTOM - height:.1f}" width="{step * 0.76:.1f}" '
            f'height="{height:.1f}"/>',
            f'<text x="{middle:.1f}" y="{_BOTTOM + 18:.1f}" text-anchor="middle">{html.escape(bar.label)}</text>',
        ]
        if bar.mark is not None:
            y = _BOTTOM - bar.mark / highest * (_BOTTOM - _TOP)
            body.append(
                f'<line stroke="{_MARK}" stroke-width="3" x1="{left + step * 0.04:.1f}" y1="{y:.1f}" '
                f'x2="{left + step * 0.96:.1f}" y2="{y:.1f}"/>'
            )
    return write_svg(title, _WH, body)


def _count_ticks(greatest: float) -> list[float]:
    """Integer ticks from 0 to at least the greatest count, with the smallest step of 1, 2, 5, 10, 20."""
    power = 10 ** max(0, math.floor(math.log10(greatest / _TICKS))) if greatest > _TICKS else 1
    step = next(each * power for each in (1, 2, 5, 10) if each * power * _TICKS >= greatest)
    return [float(step * tick) for tick in range(math.ceil(greatest / step) + 1)]


def _draw_axes(x_label: str, y_label: str, ticks: Sequence[float]) -> list[str]:
    body = []
    for value in ticks:
        y = _BOTTOM - (_BOTTOM - _TOP) * value / ticks[-1]
        shown = f"{value:,.0f}" if value.is_integer() else f"{value:.3g}"
        body += [
            f'<line class="grid" x1="{MARGIN_LEFT:.1f}" y1="{y:.1f}" x2="{_RIGHT:.1f}" y2="{y:.1f}"/>',
            f'<text x="{MARGIN_LEFT - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{shown}</text>',
        ]
    middle = (_TOP + _BOTTOM) / 2
    return [
        *body,
        f'<text x="{(MARGIN_LEFT + _RIGHT) / 2:.1f}" y="{_BOTTOM + 44:.1f}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>",
        f'<text x="16" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 16 {middle:.1f})">'
        f"{html.escape(y_label)}</text>",
    ]
