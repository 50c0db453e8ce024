"""Screenshots in the documents are exactly those that the script takes, and each is used in a document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.screenshots.__main__ import MAX_BYTES, SCALE
from tests.browser.screenshots.catalog import SCREENSHOTS, Screenshot

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
SHOWN = {
    (path.parent / target).resolve()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for target in re.findall(r"(?:\]\(|srcset=\"|src=\")([^)\"\s]+)", path.read_text("utf-8"))
}


def test_the_folder_holds_what_the_script_takes() -> None:
    assert sorted(path.name for path in IMAGES.iterdir()) == sorted(each.file for each in SCREENSHOTS)


@pytest.mark.parametrize("screenshot", SCREENSHOTS, ids=lambda each: each.name)
def test_a_screenshot_is_shown_and_small(screenshot: Screenshot) -> None:
    path = IMAGES / screenshot.file
    assert path in SHOWN, "no document shows it"
    assert path.stat().st_size <= MAX_BYTES
    with Image.open(path) as image:
        assert image.width == screenshot.width * SCALE
        assert image.height <= screenshot.height * SCALE
