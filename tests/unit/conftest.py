"""Fixtures of the unit tests."""

import pytest
from PIL import Image

from hart_studio import imaging


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The size of every image that is decoded, in stored orientation."""
    seen: list[tuple[int, int]] = []
    convert = imaging._to_rgb

    def spy(image: Image.Image) -> Image.Image:
        seen.append(image.size)
        return convert(image)

    monkeypatch.setattr(imaging, "_to_rgb", spy)
    return seen
