"""Models that come with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PROJECT_ROOT: Final = Path(__file__).resolve().parents[2]

BUILT_IN_MODEL: Final = str(PROJECT_ROOT / "assets" / "hart-tiny-base")
"""Folder of the small model that the project ships: needs no download and no GPU, and is what runs begin with."""

TRAINED_MODEL: Final = str(PROJECT_ROOT / "assets" / "hart-tiny")
"""Folder of the same model after AP-GRPO and SFT: what HART makes of it."""

BUILT_IN: Final = "built-in"
"""Name of the built-in model on pages and in projects, where its folder would say nothing to other machines."""

BUILT_IN_HART: Final = "built-in-hart"
"""Name of the same model after training with HART."""

BUILT_INS: Final = {BUILT_IN: BUILT_IN_MODEL, BUILT_IN_HART: TRAINED_MODEL}
"""Name -> folder."""


def find_built_in(name: str) -> str:
    """The folder of a built-in model; any other name, a folder or a hub id, is its own."""
    return BUILT_INS.get(name, name)
