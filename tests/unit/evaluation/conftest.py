from pathlib import Path

import pytest

from hart_studio.evaluation.config import EvaluationConfig
from hart_studio.needle.__main__ import main as write_needle

QUESTIONS = 18


@pytest.fixture
def needle_folder(tmp_path: Path) -> Path:
    """Questions about small scenes."""
    size = ["--width", "320", "--height", "240", "--objects", "3", "3"]
    folder = tmp_path / "needle"
    assert write_needle(["--split", "test", "--count", str(QUESTIONS), "--out", str(folder), *size]) == 0
    return folder


@pytest.fixture
def config(needle_folder: Path) -> EvaluationConfig:
    return EvaluationConfig(
        benchmark="needle", path=str(needle_folder), protocols=("crops_only", "direct"), batch=4, device="cpu"
    )
