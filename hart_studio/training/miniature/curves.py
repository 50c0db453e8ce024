"""Learning curves as SVG: one line per method, its mean over seeds, and a band from the least to the greatest seed."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hart_studio.evaluation.svg import write_svg

_WH: Final = (860, 440)
_PLOT: Final = (64.0, 48.0, 640.0, 384.0)
"""Left, top, right, bottom of the axes; the legend is on their right."""
_TICKS: Final = 5
_STROKES: Final = (
    # Mid-tones that stand out on white and on dark alike; the dashes tell lines apart without colour.
    ("#4f7df0", ""),
    ("#d9730d", "7 3"),
    ("#2f9e63", "2 3"),
    ("#d6449b", "9 3 2 3"),
    ("#8f5ce6", "4 4"),
    ("#1f94a8", "12 4"),
)


@dataclass(frozen=True)
class Line:
    """One method in a chart.

    Attributes:
        name: In the legend.
        points: Step, mean, least and greatest value over seeds, by step.
    """

    name: str
    points: Sequence[tuple[int, float, float, float]]


def join_seeds(name: str, seeds: Sequence[Mapping[int, float]], window: int = 1) -> Line:
    """The line of a method from the figures of its seeds.

    Args:
        name: In the legend.
        seeds: Step -> value, for each seed. Only steps that all of them have are drawn.
        window: Steps whose mean is drawn at their middle; fewer at the ends. 1 = no smoothing.
    """
    if not seeds:
        return Line(name, ())
    steps = sorted(set.intersection(*(set(seed) for seed in seeds)))
    half = window // 2
    points = []
    for index, step in enumerate(steps):
        near = steps[max(0, index - half) : index + half + 1]
        values = [math.fsum(seed[other] for other in near) / len(near) for seed in seeds]
        points.append((step, math.fsum(values) / len(values), min(values), max(values)))
    return Line(name, points)


def draw_chart(title: str, x_label: str, y_label: str, lines: Sequence[Line]) -> str:
    """A chart as a whole SVG document, readable on light and on dark pages.

    Args:
        title: Above the chart.
        x_label: Under the axis of steps.
        y_label: Beside the axis of values.
        lines: At most six are told apart by colour.

    Returns:
        The document; says so inside when there is nothing to draw.
    """
    width, height = _WH
    drawn = [line for line in lines if line.points]
    return write_svg(title, (width, height), _draw_axes(drawn, x_label, y_label) + _draw_lines(drawn) if drawn else [])


def _ranges(lines: Sequence[Line]) -> tuple[float, float, float]:
    """Last step, and the least and greatest value with some air."""
    last = max(point[0] for line in lines for point in line.points)
    low = min(point[2] for line in lines for point in line.points)
    high = max(point[3] for line in lines for point in line.points)
    air = 0.05 * (high - low) or 0.05
    return float(max(1, last)), low - air, high + air


def _place(step: float, value: float, ranges: tuple[float, float, float]) -> tuple[float, float]:
    left, top, right, bottom = _PLOT
    last, low, high = ranges
    return left + step / last * (right - left), bottom - (value - low) / (high - low) * (bottom - top)


def _draw_axes(lines: Sequence[Line], x_label: str, y_label: str) -> list[str]:
    left, top, right, bottom = _PLOT
    ranges = _ranges(lines)
    last, low, high = ranges
    found = []
    for tick in range(_TICKS + 1):
        x, y = _place(last * tick / _TICKS, low + (high - low) * tick / _TICKS, ranges)
        found.append(f'<line class="grid" x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>')
        value = low + (high - low) * tick / _TICKS
        found.append(f'<text x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
        found.append(f'<text x="{x:.1f}" y="{bottom + 20:.1f}" text-anchor="middle">{last * tick / _TICKS:.0f}</text>')
    middle = (top + bottom) / 2
    return [
        *found,
        f'<path class="axis" fill="none" d="M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}"/>',
        f'<text x="{(left + right) / 2:.1f}" y="{bottom + 42:.1f}" text-anchor="middle">{html.escape(x_label)}</text>',
        f'<text x="16" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 16 {middle:.1f})">'
        f"{html.escape(y_label)}</text>",
    ]


def _draw_lines(lines: Sequence[Line]) -> list[str]:
    ranges = _ranges(lines)
    right, top = _PLOT[2], _PLOT[1]
    found = []
    for index, line in enumerate(lines):
        colour, dashes = _STROKES[index % len(_STROKES)]
        upper = [_place(step, high, ranges) for step, _, _, high in line.points]
        lower = [_place(step, low, ranges) for step, _, low, _ in reversed(line.points)]
        means = [_place(step, mean, ranges) for step, mean, _, _ in line.points]
        pen = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
        y = top + 14 + 24 * index
        found += [
            f'<polygon fill="{colour}" fill-opacity="0.15" points="{_write(upper + lower)}"/>',
            f'<polyline fill="none" {pen} points="{_write(means)}"/>',
            f'<line {pen} x1="{right + 20:.0f}" y1="{y:.0f}" x2="{right + 52:.0f}" y2="{y:.0f}"/>',
            f'<text x="{right + 60:.0f}" y="{y + 4:.0f}">{html.escape(line.name)}</text>',
        ]
    return found


def _write(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
