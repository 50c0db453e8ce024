"""Which calibration belongs to a model: the project's own, or the one in its folder; and how far to trust it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from hart_studio.errors import DataError
from hart_studio.labeling.calibration import Calibration, load_calibration
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import EvidenceKind
from hart_studio.models.catalog import TRAINED_MODEL

CALIBRATION: Final = "calibration.json"
"""File in a model's or a project's folder."""

_LABELS: Final[dict[EvidenceKind, str]] = {
    "known_answer": "a label with a known answer",
    "agreement": "a label without a known answer",
}


class ScoreNotes(NamedTuple):
    """What to know of the scores of a labeling run before it begins."""

    basis: str
    """Where they come from, a sentence; empty when they are not this model's own."""
    cautions: tuple[str, ...]
    """Why they may be off, or order the queue only."""


def tell_scores(model: str, project: Project, rollouts: int, temperature: float) -> ScoreNotes:
    """What the scores of a run rest on.

    Args:
        model: A folder or a hub id.
        project: Whose items are labeled.
        rollouts: K of the run.
        temperature: Of its rollouts.

    Raises:
        DataError: If a calibration is there and cannot be read.
    """
    found, doubt = find_calibration(model, project.folder)
    if found is None or doubt:
        return ScoreNotes("", (doubt,))
    cautions = []
    if (rollouts, temperature) != (found.rollouts, found.temperature):
        cautions.append(
            f"the scores are calibrated for {found.rollouts} rollouts at temperature {found.temperature:g}, and this "
            f"run has {rollouts} at {temperature:g}: they may be off, and with them what is accepted unseen"
        )
    own = project.folder / CALIBRATION
    if own.is_file() and load_calibration(own) == found:
        cautions.append(
            f"Scores and auto-accept thresholds come from {CALIBRATION} in the project folder. Remove the file if you "
            "did not make it."
        )
    evidence = project.count_by("evidence")
    for kind, text in _LABELS.items():
        curve = found.curves.get(kind)
        if kind in evidence and (curve is None or curve.threshold is None):
            cautions.append(f"no score of {text} was sure enough to accept it unseen: all of them wait for you")
    return ScoreNotes(
        f"Scores are calibrated on {found.data}, with {found.rollouts} rollouts at temperature "
        f"{found.temperature:g}. On other pictures they may be off: the audit of what is accepted unseen shows it.",
        tuple(cautions),
    )


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
