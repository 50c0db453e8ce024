"""Static charts of reports and pages: lines with bands, bars, and bars with intervals, as SVG and PNG.

Drawn with matplotlib's object interface, which keeps no figures in a global list and may be used in any thread.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hart_studio.formatting import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES_STYLES: Final = (
    # Mid-tones that stand out on white and on dark alike; the dashes distinguish lines without color.
    ("#4f7df0", (0.0, ())),
    ("#d9730d", (0.0, (7.0, 3.0))),
    ("#2f9e63", (0.0, (2.0, 3.0))),
    ("#d6449b", (0.0, (9.0, 3.0, 2.0, 3.0))),
    ("#8f5ce6", (0.0, (4.0, 4.0))),
    ("#1f94a8", (0.0, (12.0, 4.0))),
)
"""Color and dash pattern of each series, in order."""

PNG_DPI: Final = 200
"""Resolution of PNG files, pixels per inch: sharp on dense screens and in print."""

FONT_FILE: Final = Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
"""The font that matplotlib brings along."""

_INK, _AXIS, _GRID, _PAPER = "#353e4e", "#677285", "#e1e5ea", "#ffffff"
_DARK: Final = {_INK: "#e1e5ea", _AXIS: "#98a2b1", _GRID: "#353e4e", _PAPER: "#171d28"}
"""Color on a light page -> color on a dark one."""

_MARK: Final = "#d9730d"
_INCH_PX: Final = 100
_MAX_LEGEND_CHARS: Final = 28
_MAX_LABEL_CHARS: Final = 38
_MAX_TICK_CHARS: Final = 12
_MAX_NOTE_CHARS: Final = 24
_MAX_AXIS_CHARS: Final = 60
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may hold."""

mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
        "svg.hashsalt": "hart-studio",  # equal figures are equal files
        "text.parse_math": False,  # names of models and runs may hold dollar signs
        "font.family": "DejaVu Sans",
    }
)
# Scripts that the font does not have are drawn by the browser in SVG, and as boxes in PNG.
warnings.filterwarnings("ignore", message="Glyph .* missing from font")


class Series(NamedTuple):
    """One line of a chart."""

    name: str
    """Legend entry."""
    points: Sequence[tuple[float, float, float, float]]
    """x, mean, minimum and maximum, sorted by x."""


class Bar(NamedTuple):
    """One bar of a histogram or of a reliability diagram."""

    label: str
    value: float
    """Height, at least 0."""
    mark: float | None = None
    """Second value, drawn as a line across the bar."""


class IntervalBar(NamedTuple):
    """One horizontal bar with an error interval."""

    label: str
    value: float
    low: float
    high: float
    note: str
    """Text on the right: the value and n."""
    series: int = 0
    """Bars of one series share a color."""


def draw_lines(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw a line per series with a band from its minimum to its maximum.

    Up to six series have a style of their own; those without points are left out. By default the x axis goes from 0 to
    the last point, and the y axis is fitted to the bands.
    """
    drawn = [each for each in series if each.points]
    figure, axes = _start(title, x_label, y_label, (8.6, 4.4), is_empty=not drawn)
    if axes is None:
        return figure
    for index, each in enumerate(drawn):
        color, dashes = SERIES_STYLES[index % len(SERIES_STYLES)]
        x, mean, low, high = zip(*each.points, strict=True)
        axes.plot(x, mean, color=color, linestyle=dashes, linewidth=2, label=_clean(each.name, _MAX_LEGEND_CHARS))
        if low != high:
            axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_xlim(*(x_limits or (0.0, max(1.0, *(point[0] for each in drawn for point in each.points)))))
    if y_limits:
        axes.set_ylim(*y_limits)
    axes.grid(visible=True, color=_GRID)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, handlelength=3)
    for text in legend.get_texts():
        text.set_color(_INK)
    return figure


def draw_bars(title: str, x_label: str, y_label: str, bars: Sequence[Bar], top: float | None = None) -> Figure:
    """Draw vertical bars from left to right.

    Without ``top``, the upper end of the y axis, the values are counts, and the axis has whole numbers.
    """
    is_empty = (top or max((max(bar.value, bar.mark or 0.0) for bar in bars), default=0.0)) <= 0 or not bars
    figure, axes = _start(title, x_label, y_label, (6.4, 3.2), is_empty=is_empty)
    if axes is None:
        return figure
    axes.bar(range(len(bars)), [bar.value for bar in bars], width=0.76, color=SERIES_STYLES[0][0])
    marked = [(index, bar.mark) for index, bar in enumerate(bars) if bar.mark is not None]
    axes.hlines(
        [mark for _, mark in marked],
        [index - 0.46 for index, _ in marked],
        [index + 0.46 for index, _ in marked],
        colors=_MARK,
        linewidth=2.5,
    )
    axes.set_xticks(range(len(bars)), [_clean(bar.label, _MAX_TICK_CHARS) for bar in bars])
    axes.grid(visible=True, axis="y", color=_GRID)
    if top is None:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    else:
        axes.set_ylim(0, top)
    return figure


def draw_intervals(title: str, x_label: str, bars: Sequence[IntervalBar], limits: tuple[float, float]) -> Figure:
    """Draw horizontal bars with their intervals, from top to bottom; intervals that pass the limits are cut."""
    figure, axes = _start(title, x_label, "", (8.6, 1.1 + 0.34 * max(1, len(bars))), is_empty=not bars)
    if axes is None:
        return figure
    rows = range(len(bars))
    colors = [SERIES_STYLES[bar.series % len(SERIES_STYLES)][0] for bar in bars]
    axes.barh(rows, [bar.value for bar in bars], height=0.55, color=colors, alpha=0.75)
    errors = [[bar.value - bar.low for bar in bars], [bar.high - bar.value for bar in bars]]
    axes.errorbar([bar.value for bar in bars], rows, xerr=errors, fmt="none", ecolor=_AXIS, elinewidth=1.5, capsize=4)
    axes.set_yticks(rows, [_clean(bar.label, _MAX_LABEL_CHARS) for bar in bars])
    for row, bar in zip(rows, bars, strict=True):
        axes.annotate(
            _clean(bar.note, _MAX_NOTE_CHARS),
            (1.02, row),
            xycoords=("axes fraction", "data"),
            va="center",
            color=_INK,
            fontsize=9.5,
        )
    axes.set_xlim(*limits)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.grid(visible=True, axis="x", color=_GRID)
    return figure


def to_svg(figure: Figure) -> str:
    """Write a figure as an SVG element without a prolog; its colors follow the light or dark scheme of the reader."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    body = text[text.index("<svg") :]
    rules = "".join(
        f'[style*="{attribute}: {light}"]{{{attribute}:{dark}!important}}'
        for light, dark in _DARK.items()
        for attribute in ("fill", "stroke")
    )
    title = html.escape(str(figure.get_label()))
    style = f"<style>@media(prefers-color-scheme:dark){{{rules}}}</style>"
    return body.replace("<svg ", '<svg role="img" ', 1).replace(">", f">\n <title>{title}</title>{style}", 1)


def to_png(figure: Figure) -> bytes:
    """Write a figure as PNG on white, ``PNG_DPI`` pixels per inch."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return stream.getvalue()


def _start(
    title: str, x_label: str, y_label: str, inches: tuple[float, float], *, is_empty: bool
) -> tuple[Figure, Axes | None]:
    """A figure with a title and empty axes, or with the message that nothing was measured."""
    figure = Figure(figsize=inches, dpi=_INCH_PX, facecolor=_PAPER, layout="constrained", label=_clean(title))
    figure.suptitle(_clean(title), x=0.02, ha="left", fontsize=12, fontweight="bold", color=_INK)
    if is_empty:
        figure.text(0.02, 0.5, "nothing was measured", color=_INK)
        return figure, None
    axes = figure.add_subplot(facecolor="none")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_AXIS)
    axes.tick_params(color=_AXIS, labelcolor=_INK, labelsize=9.5)
    axes.set_xlabel(_clean(x_label, _MAX_AXIS_CHARS), color=_INK)
    axes.set_ylabel(_clean(y_label, _MAX_AXIS_CHARS // 2), color=_INK)
    return figure, axes


def _clean(text: str, max_chars: int = 70) -> str:
    return shorten(_NO_XML.sub("", text), max_chars)
