"""Frame of the figures: an SVG document for light and dark pages."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

MARGIN_LEFT: Final = 64.0
"""Width of the axis numbers; the title starts here."""

STYLE: Final = (
    "text{font-family:system-ui,sans-serif;font-size:13px;fill:#353e4e}.title{font-size:16px;font-weight:600}"
    ".paper{fill:#ffffff}.grid{stroke:#e1e5ea}.axis{stroke:#677285}"
    "@media(prefers-color-scheme:dark){text{fill:#e1e5ea}.paper{fill:#171d28}.grid{stroke:#353e4e}.axis{stroke:#98a2b1}}"
)
"""Style classes of a figure."""


def write_svg(title: str, wh: tuple[int, int], body: Sequence[str]) -> str:
    """Write a figure as an SVG document.

    Args:
        title: Title of the figure; any text.
        wh: Width and height of the view box.
        body: Elements with escaped texts. Empty: the figure states that nothing was measured.
    """
    width, height = wh
    parts = [
        f'<rect class="paper" width="{width}" height="{height}"/>',
        f'<text class="title" x="{MARGIN_LEFT:.0f}" y="28">{html.escape(title)}</text>',
        *(body or [f'<text x="{MARGIN_LEFT:.0f}" y="{height // 2}">nothing was measured</text>']),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )
