"""Test tiers: tests that run by default, and tests that run with ``--all``, ``--rest`` and ``--slow`` only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

Tier = Literal["default", "extended", "slow"]

DEFAULT_FOLDERS: Final = ("unit", "contract")
"""Their tests belong to the default tier, except those that are marked ``extended``."""
FOLDERS_BY_LENGTH: Final = ("browser", "documents", "integration", "attacks", "contract", "unit")
"""Folders with the longest files first, so that at the end short files are left to share out among the workers."""
TESTS: Final = Path(__file__).parent


def tier_of(path: Path, markers: Iterable[str]) -> Tier:
    """The tier of a test.

    Args:
        path: File of the test.
        markers: Names of its markers.
    """
    names = set(markers)
    if "slow" in names:
        return "slow"
    if "core" in names or (folder_of(path) in DEFAULT_FOLDERS and "extended" not in names):
        return "default"
    return "extended"


def folder_of(path: Path) -> str:
    """The folder directly below ``tests/`` in which a test file lies; the name of the file when it lies in none."""
    return path.relative_to(TESTS).parts[0]


def is_selected(tier: Tier, *, is_fuzz_test: bool, runs_all: bool, runs_rest: bool, runs_slow: bool) -> bool:
    """Whether a test runs.

    Args:
        tier: Its tier.
        is_fuzz_test: Hypothesis draws its input; ``--rest`` repeats it with more examples.
        runs_all: ``--all``, or the test file was named.
        runs_rest: ``--rest``.
        runs_slow: ``--slow``.
    """
    if tier == "slow":
        return runs_slow
    if runs_all:
        return True
    return (tier == "extended" or is_fuzz_test) if runs_rest else tier == "default"
