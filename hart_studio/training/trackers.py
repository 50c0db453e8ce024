"""Experiment trackers: check that they are installed, and set their output folder."""

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
"""Alternative packages of a tracker, if they differ from its name."""


def check_trackers(names: Sequence[str]) -> None:
    """Check that tracker packages are installed, without importing them.

    Args:
        names: ``RunConfig.trackers``.

    Raises:
        InputError: If one is not installed.
    """
    for name in names:
        if all(importlib.util.find_spec(package) is None for package in _PACKAGES.get(name, (name,))):
            raise InputError(
                f"The tracker {name} is not installed. Run pip install {name}, or remove it from trackers."
            )


@contextmanager
def tracker_output(folder: Path) -> Iterator[None]:
    """Set the folder of TensorBoard inside the block; a folder set by the user is kept.

    The default folder is inside the checkpoint drafts, which the next attempt removes.

    Args:
        folder: Created by the tracker.
    """
    if _FOLDER_VARIABLE in os.environ:
        yield
        return
    os.environ[_FOLDER_VARIABLE] = str(folder)
    try:
        yield
    finally:
        del os.environ[_FOLDER_VARIABLE]
