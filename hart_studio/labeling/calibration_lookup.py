"""Find the calibration for a model: the project's own, or the one in the model folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple, get_args

from hart_studio.labeling.calibration import (
    REASONS,
    AnswerFormat,
    Calibration,
    LabelOrigin,
    LabelScore,
    get_answer_form,
    load_calibration,
)
from hart_studio.labeling.project import Project
from hart_studio.labeling.records import BoxCheck, EvidenceKind, Uncalibrated
from hart_studio.labeling.self_verify import Proposal, ProposalSettings
from hart_studio.models.catalog import describe_domain_mismatch
from hart_studio.records import Sample

CALIBRATION: Final = "calibration.json"
"""File name in a model or project folder."""

CALIBRATE_COMMAND: Final = "python -m hart_studio.labeling calibrate"
"""Command that creates a calibration."""

_LABELS: Final[dict[EvidenceKind, str]] = {
    "known_answer": "labels with known answers",
    "agreement": "labels without known answers",
}


class ScoreBasis(NamedTuple):
    """Notes about the scores of a labeling run, shown before it starts."""

    basis: str
    """Source of the scores, one sentence; empty when no item gets a score."""
    cautions: tuple[str, ...]
    """Labels without a score or without auto-accept, and why."""
    warnings: tuple[str, ...] = ()
    """Why the answers are unreliable: the model was not made for these images."""


def describe_score_basis(model: str, project: Project, proposals: ProposalSettings) -> ScoreBasis:
    """Describe the source of the scores of a run with a model (folder or hub id).

    Raises:
        DataError: If a calibration exists and is unreadable.
    """
    warnings = _find_warnings(model, project)
    found = get_calibration(model, project.folder)
    if found is None:
        caution = (
            f"{REASONS['model']}: all labels are uncalibrated and need review. Create one with: {CALIBRATE_COMMAND} "
            f"--data FOLDER --model MODEL --out PROJECT/{CALIBRATION}"
        )
        return ScoreBasis("", (caution,), warnings)
    outside: Counter[Uncalibrated] = Counter()
    inside: Counter[str] = Counter()
    for image_domain, data_set, has_choices, evidence, count in project.count_origins():
        form: AnswerFormat = "multiple_choice" if has_choices else "free_text"
        mismatch = _find_mismatch(found, LabelOrigin(image_domain, data_set, form, *_sampling(proposals)), evidence)
        if mismatch:
            outside[mismatch] += count
        else:
            inside[evidence] += count
    total = sum(outside.values()) + sum(inside.values())
    cautions = [
        f"{count:,} of {total:,} items will be uncalibrated and need review: {REASONS[reason]}"
        + (f" ({found.rollouts} rollouts at temperature {found.temperature:g})" if reason == "sampling" else "")
        for reason, count in outside.items()
    ]
    own = project.folder / CALIBRATION
    if inside and own.is_file() and load_calibration(own) == found:
        cautions.append(
            f"Scores and auto-accept thresholds come from {CALIBRATION} in the project folder. Remove the file if you "
            "did not make it."
        )
    for kind, text in _LABELS.items():
        curve = found.curves.get(kind)
        if kind in inside and curve is not None and curve.threshold is None:
            cautions.append(f"No threshold reaches the target precision for {text}, so none is auto-accepted.")
    if outside and not inside:
        return ScoreBasis("", tuple(cautions), warnings)
    return ScoreBasis(
        f"Scores are calibrated on {found.data}, with {found.rollouts} rollouts at temperature "
        f"{found.temperature:g}. They are valid for {found.domain.describe()}; other labels are uncalibrated.",
        tuple(cautions),
        warnings,
    )


def get_calibration(model: str, project: Path) -> Calibration | None:
    """Return the calibration of a model (folder or hub id): the one in the project folder, else in the model folder.

    A calibration for a dataset of other images counts only in the project folder, where someone put it on purpose: its
    domain is only the name of the dataset.

    Raises:
        DataError: If a calibration exists and is unreadable.
    """
    for folder in (project, Path(model)):
        path = folder / CALIBRATION
        if path.is_file():
            found = load_calibration(path)
            if found.matches_model(model) and (found.domain.images or folder == project):
                return found
    return None


def score_label(
    calibration: Calibration | None, sample: Sample, image_domain: str, proposal: Proposal, proposals: ProposalSettings
) -> LabelScore:
    """Score a proposal for a question; see ``Calibration.score_label``.

    Args:
        calibration: Calibration of the model.
        sample: The question.
        image_domain: Domain of its image, from ``image_domains.read_image_domain``.
        proposal: Proposed boxes and their evidence.
        proposals: Settings of the proposals.
    """
    if calibration is None:
        return LabelScore(None, "model" if proposal.check and proposal.check.rollouts else None)
    form = get_answer_form(sample)
    origin = LabelOrigin(image_domain, sample.source, form, *_sampling(proposals), is_given=proposal.is_given)
    return calibration.score_label(proposal.check, bool(proposal.boxes), origin)


def _sampling(proposals: ProposalSettings) -> tuple[int, float, bool]:
    return proposals.rollouts, proposals.loop.temperature, proposals.refinement is not None


def _find_mismatch(calibration: Calibration, origin: LabelOrigin, evidence: str) -> Uncalibrated | None:
    """Why labels of this origin have no score, known before there is any evidence."""
    kind = next(kind for kind in get_args(EvidenceKind) if kind == evidence)
    return calibration.score_label(BoxCheck(kind=kind, rollouts=1), True, origin).uncalibrated


def _find_warnings(model: str, project: Project) -> tuple[str, ...]:
    """Warning if the model was not made for the images of the project."""
    found = {describe_domain_mismatch(model, domain, "images of this project") for domain in project.image_domains()}
    return tuple(sorted(found - {""}))
