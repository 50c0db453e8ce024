"""The images of the documents are those that the script takes, no more and no fewer, and each is shown somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.screenshots.__main__ import MAX_BYTES, SCALE
from tests.browser.screenshots.images import PICTURES, Picture

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
SHOWN = {
    (path.parent / target).resolve()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for target in re.findall(r"(?:\]\(|srcset=\"|src=\")([^)\"\s]+)", path.read_text("utf-8"))
}


def test_the_folder_holds_what_the_script_takes() -> None:
    assert sorted(path.name for path in IMAGES.iterdir()) == sorted(picture.file for picture in PICTURES)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_a_image_is_shown_and_small(picture: Picture) -> None:
    path = IMAGES / picture.file
    assert path in SHOWN, "no document shows it"
    assert path.stat().st_size <= MAX_BYTES
    with Image.open(path) as image:
        assert image.width == picture.width * SCALE
        assert image.height <= picture.height * SCALE
