import base64
import io
import re
import time
from pathlib import Path

import pytest
from PIL import Image

from hart_studio.errors import ImageError
from hart_studio.records import Box
from hart_studio.ui.mcp.images import (
    MAX_IMAGE_BYTES,
    MAX_SHOWN,
    MAX_TEXT,
    SHOWN_SIDE,
    cut_crops,
    open_base64_image,
)
from tests.images import encoded

IMAGE = base64.b64encode(encoded(Image.new("RGB", (40, 30), (200, 10, 10)), "PNG")).decode("ascii")


@pytest.mark.parametrize(
    "text",
    [
        IMAGE,
        f"data:image/png;base64,{IMAGE}",
        f"data:image/svg+xml;base64,{IMAGE}",
        f"data:;base64,{IMAGE}",
        f"DATA:image/png;name=x.png;BASE64,{IMAGE}",
        re.sub("(.{7})", "\\1\r\n\t ", IMAGE),
    ],
)
def test_the_bytes_come_as_they_were_sent_and_the_file_goes(tmp_path: Path, text: str) -> None:
    with open_base64_image(text, tmp_path) as path:
        assert path.read_bytes() == base64.b64decode(IMAGE)
        assert tmp_path in path.parents
    assert not list(tmp_path.iterdir())


def test_the_file_goes_when_the_question_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_base64_image(IMAGE, tmp_path):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd.",
        "../../secret.png",
        "C:\\images\\a.png",
        "file:///etc/passwd",
        "http://127.0.0.1:1/a.png",
        "https://example.org/a.png",
        "data:image/png,%89PNG",
        "data:image/png;base64;" + IMAGE,
        "data:" + "x" * 100 + ";base64," + IMAGE,
        IMAGE[:-3],
        IMAGE + "=",
        "=" + IMAGE,
        "ß" * 8,
        "\ud800" * 4,
        "\0" * 8,
        IMAGE.replace("/", "_").replace("+", "-") + "__-_",
    ],
)
def test_what_is_no_base64_is_refused_and_nothing_is_opened(tmp_path: Path, text: str) -> None:
    with pytest.raises(ImageError, match="Paths and URLs are not opened"), open_base64_image(text, tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_too_much_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    largest = base64.b64encode(bytes(MAX_IMAGE_BYTES)).decode("ascii")
    assert len(largest) <= MAX_TEXT
    with open_base64_image(largest, tmp_path) as path:
        assert path.stat().st_size == MAX_IMAGE_BYTES
    with pytest.raises(ImageError, match="at most 24 MiB"), open_base64_image("A" * (MAX_TEXT + 4), tmp_path):
        pass


@pytest.mark.parametrize("text", [" " * MAX_TEXT, " " * (MAX_TEXT - 1) + "!", "data:" * (MAX_TEXT // 5)])
def test_no_text_takes_long(tmp_path: Path, text: str) -> None:
    began = time.process_time()
    try:
        with open_base64_image(text, tmp_path):
            pass
    except ImageError:
        pass
    assert time.process_time() - began < 5


def test_crops_are_cut_from_the_original_few_and_small(tmp_path: Path) -> None:
    image = Image.new("RGB", (3000, 200))
    image.paste((250, 0, 0), (100, 50, 140, 90))
    image.save(tmp_path / "wide.png")
    sign, wide = Box.from_xyxy((100, 50, 140, 90)), Box.from_xyxy((0, 0, 3000, 200))
    crops = [Image.open(io.BytesIO(data)) for data in cut_crops(tmp_path / "wide.png", [sign, wide, *[sign] * 9])]
    assert len(crops) == MAX_SHOWN
    assert crops[0].size == (40, 40) and crops[0].getpixel((20, 20))[0] > 230
    assert crops[1].size[0] == SHOWN_SIDE and crops[1].format == "JPEG"
    assert cut_crops(tmp_path / "wide.png", []) == []
