"""The list of images: name, window, colors, and the pose that the page takes for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from tests.browser.screenshots import poses
from tests.browser.screenshots.work import Work

if TYPE_CHECKING:
    from playwright.sync_api import Page

Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class Screenshot:
    """A screenshot for the documents."""

    name: str
    """Name of the file, without its ending."""
    pose: Callable[[Page, Work], Any]
    """Prepare the page."""
    height: int
    """Most pixels of the page that it shows, from where the pose has scrolled to."""
    theme: Theme = "light"
    """Colors of the page."""
    width: int = 1280
    """Pixels of the window, which most laptops have."""
    window: int = 900
    """Height of the window, which decides how large the stages of the page are."""

    @property
    def file(self) -> str:
        """Name of the file in docs/images."""
        return f"{self.name}.webp"


SCREENSHOTS: Final = (
    Screenshot("ask", poses.ask, 1346),
    Screenshot("label", poses.label, 760),
    Screenshot("review", poses.review, 860, window=860),
    Screenshot("quality", poses.quality, 860),
    Screenshot("train", poses.train, 1070),
    # As wide as three cards beside the image need, so that all eight rollouts are in sight.
    Screenshot("watch", poses.watch, 1058, width=1600, window=1058),
    Screenshot("watch-dark", poses.watch, 1058, "dark", width=1600, window=1058),
    Screenshot("curves", poses.curves, 812),
    Screenshot("runs", poses.runs, 980),
    Screenshot("evaluate", poses.evaluate, 795),
    Screenshot("failures", poses.failures, 1306),
)
"""All of them, in the order of the tabs."""
