from pathlib import Path

import pytest

from hart_studio.data.benchmarks.images import ImageResolver


@pytest.fixture
def images(tmp_path: Path) -> ImageResolver:
    """Resolver whose cache is the folder of the images."""
    return ImageResolver(tmp_path, tmp_path)
