"""The images of the documents are those that the script takes, no more and no fewer, and each is shown somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.screenshots.__main__ import MAX_BYTES, SCALE
from tests.browser.screenshots.catalog import SCREENSHOTS, Screenshot

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "images"
SHOWN = {
    (path.parent / target).resolve()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for target in re.findall(r"(?:\]\(|srcset=\"|src=\")([^)\"\s]+)", path.read_text("utf-8"))
}


def test_the_folder_holds_what_the_script_takes() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(image.file for image in SCREENSHOTS)


@pytest.mark.parametrize("shot", SCREENSHOTS, ids=lambda shot: shot.name)
def test_an_image_is_shown_and_small(shot: Screenshot) -> None:
    path = FOLDER / shot.file
    assert path in SHOWN, "no document shows it"
    assert path.stat().st_size <= MAX_BYTES
    with Image.open(path) as image:
        assert image.width == shot.width * SCALE
        assert image.height <= shot.height * SCALE
