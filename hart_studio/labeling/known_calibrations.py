"""Which calibration belongs to a model: the project's own, or the one in the model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hart_studio.errors import DataError
from hart_studio.labeling.calibration import Calibration, load_calibration
from hart_studio.models.catalog import TRAINED_MODEL

CALIBRATION: Final = "calibration.json"
"""File in a model's or a project's folder."""


def find_calibration(model: str, project: Path) -> tuple[Calibration | None, str]:
    """The calibration for a model.

    Args:
        model: A folder or a hub id.
        project: Folder of the project.

    Returns:
        The calibration, and why its scores only order the queue; an empty text when they are this model's own.

    Raises:
        DataError: If a calibration is there and cannot be read.
    """
    for folder in (project, Path(model)):
        path = folder / CALIBRATION
        if path.is_file():
            found = load_calibration(path)
            if found.is_for(model):
                return found, ""
    try:
        fallback = load_calibration(Path(TRAINED_MODEL) / CALIBRATION)
    except DataError:
        return None, "no calibration: labels get no score, and none is accepted unseen"
    return fallback, (
        "no calibration of this model: scores are on the built-in model's scale and only order the queue, none is "
        "accepted unseen; make one with: python -m hart_studio.labeling calibrate"
    )
