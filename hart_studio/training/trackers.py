"""Other programs that the metrics are sent to: whether they are there, and where they write."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hart_studio.errors import InputError

_FOLDER_VARIABLE: Final = "TENSORBOARD_LOGGING_DIR"
_PACKAGES: Final = {"tensorboard": ("tensorboard", "tensorboardX")}
"""Packages any of which serves a tracker, where it is not just the one of its name."""


def check_trackers(names: Sequence[str]) -> None:
    """Look for the trackers' packages; nothing is imported.

    Args:
        names: ``RunConfig.trackers``.

    Raises:
        InputError: If one is not installed.
    """
    for name in names:
        if all(importlib.util.find_spec(package) is None for package in _PACKAGES.get(name, (name,))):
            raise InputError(
                f"expected the tracker {name} to be installed, it is not; pip install {name}, "
                "or leave it out of trackers"
            )


@contextmanager
def tracker_output(folder: Path) -> Iterator[None]:
    """TensorBoard, when it is set up inside the block, writes into the folder; one that the user has named stays.

    The library's own choice would lie among the drafts of checkpoints, which the next attempt removes.

    Args:
        folder: Made by the tracker.
    """
    if _FOLDER_VARIABLE in os.environ:
        yield
        return
    os.environ[_FOLDER_VARIABLE] = str(folder)
    try:
        yield
    finally:
        del os.environ[_FOLDER_VARIABLE]
