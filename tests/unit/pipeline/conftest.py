from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hart_studio.records import Sample

WIDTH, HEIGHT = 1200, 900


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A 1200 x 900 PNG of noise: every pixel is identifiable."""
    noise = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def sample(image: Path) -> Sample:
    """A multiple-choice question whose right option is B."""
    return Sample(id="s1", image=str(image), question="Which digit?", choices=("3", "7"), answer="B")


def boxes_text(*boxes: tuple[int, int, int, int]) -> str:
    """Boxes in thousandths, as Qwen3-VL writes them."""
    items = ", ".join(f'{{"bbox_2d": {list(box)}, "label": "sign"}}' for box in boxes)
    return f"```json\n[{items}]\n```"
