"""Line charts as SVG: one line per series, with a band from minimum to maximum."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from hart_studio.evaluation.svg import write_svg

_WH: Final = (860, 440)
_PLOT: Final = (64.0, 48.0, 600.0, 384.0)
"""Left, top, right, bottom of the axes; the legend is to the right."""
_TICKS: Final = 5
_MAX_NAME_CHARS: Final = 28
"""Maximum characters of a name in the legend."""

SERIES_STYLES: Final = (
    # Mid-tones that stand out on white and on dark alike; dashes distinguish lines without color.
    ("#4f7df0", ""),
    ("#d9730d", "7 3"),
    ("#2f9e63", "2 3"),
    ("#d6449b", "9 3 2 3"),
    ("#8f5ce6", "4 4"),
    ("#1f94a8", "12 4"),
)
"""Color and dashes of each series, in order."""


@dataclass(frozen=True)
class Series:
    """One series in a chart.

    Attributes:
        name: Name in the legend.
        points: x, mean, minimum and maximum, sorted by x.
    """

    name: str
    points: Sequence[tuple[float, float, float, float]]


class Axis(NamedTuple):
    """Axis with a fixed range."""

    low: float
    """Lower end."""
    high: float
    """Upper end, greater than the lower."""
    digits: int = 0
    """Decimals of the tick labels."""

    def share(self, value: float) -> float:
        """Relative position of a value: 0 at the lower end, 1 at the upper end."""
        return (value - self.low) / (self.high - self.low)

    def tick(self, index: int) -> float:
        """Value of a tick."""
        return self.low + (self.high - self.low) * index / _TICKS


def draw_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    x_axis: Axis | None = None,
    y_axis: Axis | None = None,
) -> str:
    """Draw a line chart as an SVG document for light and dark pages.

    Args:
        title: Title of the chart.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
        series: At most six have different colors.
        x_axis: Range of the horizontal axis; None = from 0 to the last point.
        y_axis: Range of the vertical axis; None = all values with a margin.

    Returns:
        SVG document; states in it if there is no data.
    """
    drawn = [one for one in series if one.points]
    if not drawn:
        return write_svg(title, _WH, [])
    axes = x_axis or _fit_x(drawn), y_axis or _fit_y(drawn)
    return write_svg(title, _WH, _draw_axes(axes, x_label, y_label) + _draw_lines(drawn, axes))


def _fit_x(series: Sequence[Series]) -> Axis:
    return Axis(0.0, float(max(1, *(point[0] for one in series for point in one.points))))


def _fit_y(series: Sequence[Series]) -> Axis:
    low = min(point[2] for one in series for point in one.points)
    high = max(point[3] for one in series for point in one.points)
    air = 0.05 * (high - low) or 0.05
    return Axis(low - air, high + air, digits=2)


def _place(x: float, value: float, axes: tuple[Axis, Axis]) -> tuple[float, float]:
    left, top, right, bottom = _PLOT
    return left + axes[0].share(x) * (right - left), bottom - axes[1].share(value) * (bottom - top)


def _draw_axes(axes: tuple[Axis, Axis], x_label: str, y_label: str) -> list[str]:
    left, top, right, bottom = _PLOT
    found = []
    for tick in range(_TICKS + 1):
        across, up = axes[0].tick(tick), axes[1].tick(tick)
        x, y = _place(across, up, axes)
        found.append(f'<line class="grid" x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>')
        shown = f"{up:.{axes[1].digits}f}"
        found.append(f'<text x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{shown}</text>')
        shown = f"{across:.{axes[0].digits}f}"
        found.append(f'<text x="{x:.1f}" y="{bottom + 20:.1f}" text-anchor="middle">{shown}</text>')
    middle = (top + bottom) / 2
    return [
        *found,
        f'<path class="axis" fill="none" d="M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}"/>',
        f'<text x="{(left + right) / 2:.1f}" y="{bottom + 42:.1f}" text-anchor="middle">{html.escape(x_label)}</text>',
        f'<text x="16" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 16 {middle:.1f})">'
        f"{html.escape(y_label)}</text>",
    ]


def _draw_lines(series: Sequence[Series], axes: tuple[Axis, Axis]) -> list[str]:
    right, top = _PLOT[2], _PLOT[1]
    found = []
    for index, one in enumerate(series):
        color, dashes = SERIES_STYLES[index % len(SERIES_STYLES)]
        upper = [_place(x, high, axes) for x, _, _, high in one.points]
        lower = [_place(x, low, axes) for x, _, low, _ in reversed(one.points)]
        means = [_place(x, mean, axes) for x, mean, _, _ in one.points]
        pen = f'stroke="{color}" stroke-width="2" stroke-dasharray="{dashes}"'
        y = top + 14 + 24 * index
        found += [
            f'<polygon fill="{color}" fill-opacity="0.15" points="{_write(upper + lower)}"/>',
            f'<polyline fill="none" {pen} points="{_write(means)}"/>',
            f'<line {pen} x1="{right + 20:.0f}" y1="{y:.0f}" x2="{right + 52:.0f}" y2="{y:.0f}"/>',
            f'<text x="{right + 60:.0f}" y="{y + 4:.0f}">{html.escape(shorten(one.name, _MAX_NAME_CHARS))}</text>',
        ]
    return found


LIST_TEXT_CHARS: Final = 300
"""Maximum characters of a question in a list. Project default."""


def shorten(text: str, max_chars: int) -> str:
    """Shorten a text in the middle if it is longer than ``max_chars``."""
    if len(text) <= max_chars:
        return text
    front = (max_chars - 1) // 2
    return f"{text[:front]}…{text[len(text) - (max_chars - 1 - front) :]}"


def _write(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
