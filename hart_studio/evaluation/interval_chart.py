"""Charts of many models as SVG: one bar with its interval per row."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final, NamedTuple

from hart_studio.evaluation.line_chart import SERIES_STYLES, Axis, shorten
from hart_studio.evaluation.svg import write_svg

_WIDTH: Final = 860
_LEFT: Final = 300.0
_RIGHT: Final = 660.0
_TOP: Final = 52.0
_STEP: Final = 34.0
_MAX_LABEL_CHARS: Final = 38
"""Maximum characters of a label beside the bars."""


class IntervalBar(NamedTuple):
    """One bar."""

    label: str
    """Label on the left."""
    value: float
    """Value of the bar."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    note: str
    """Note on the right: the value and n."""
    series: int = 0
    """Bars of one series share a color."""


def draw_intervals(title: str, x_label: str, bars: Sequence[IntervalBar], axis: Axis) -> str:
    """Draw horizontal bars with intervals as an SVG document.

    Args:
        title: Title of the figure.
        x_label: Label of the axis.
        bars: Bars from top to bottom.
        axis: Range of the axis.
    """
    bottom = _TOP + _STEP * len(bars)
    if not bars:
        return write_svg(title, (_WIDTH, 120), [])
    body = []
    for index in range(6):
        value = axis.tick(index)
        x = _place(value, axis)
        body += [
            f'<line class="grid" x1="{x:.1f}" y1="{_TOP:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"/>',
            f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{value:.{axis.digits}f}</text>',
        ]
    for index, bar in enumerate(bars):
        body += _draw_bar(bar, _TOP + _STEP * index, axis)
    body.append(
        f'<text x="{(_LEFT + _RIGHT) / 2:.1f}" y="{bottom + 40:.1f}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    return write_svg(title, (_WIDTH, round(bottom + 56)), body)


def _draw_bar(bar: IntervalBar, top: float, axis: Axis) -> list[str]:
    middle = top + _STEP / 2
    start, end = _place(max(axis.low, 0.0), axis), _place(bar.value, axis)
    low, high = _place(bar.low, axis), _place(bar.high, axis)
    color = SERIES_STYLES[bar.series % len(SERIES_STYLES)][0]
    return [
        f'<text x="{_LEFT - 10:.1f}" y="{middle + 4:.1f}" text-anchor="end">'
        f"{html.escape(shorten(bar.label, _MAX_LABEL_CHARS))}</text>",
        f'<rect fill="{color}" fill-opacity="0.75" x="{start:.1f}" y="{middle - 9:.1f}" '
        f'width="{max(0.0, end - start):.1f}" height="18"/>',
        f'<path class="axis" fill="none" stroke-width="1.5" d="M{low:.1f} {middle - 5:.1f}V{middle + 5:.1f}'
        f'M{low:.1f} {middle:.1f}H{high:.1f}M{high:.1f} {middle - 5:.1f}V{middle + 5:.1f}"/>',
        f'<text x="{_RIGHT + 14:.1f}" y="{middle + 4:.1f}">{html.escape(bar.note)}</text>',
    ]


def _place(value: float, axis: Axis) -> float:
    return _LEFT + min(1.0, max(0.0, axis.share(value))) * (_RIGHT - _LEFT)
