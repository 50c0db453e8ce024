"""Models that come with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PROJECT_ROOT: Final = Path(__file__).resolve().parents[2]

BUILT_IN_MODEL: Final = str(PROJECT_ROOT / "assets" / "hart-tiny-base")
"""Folder of the small model that the project ships: needs no download and no GPU, and is what runs begin with."""

TRAINED_MODEL: Final = str(PROJECT_ROOT / "assets" / "hart-tiny")
"""Folder of the same model after AP-GRPO and SFT: what HART makes of it."""
