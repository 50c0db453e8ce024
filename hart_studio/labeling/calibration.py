"""Calibrated score of a label: the estimated probability that its boxes are right.

The score is a logistic regression on the evidence of a ``BoxCheck`` (fit: ``calibrate``). A label has a score only
inside the domain of the calibration, the labels for which it is a measured probability. Outside, it is shown as
uncalibrated, independent of its evidence.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from hart_studio.errors import DataError
from hart_studio.evaluation.statistics import Estimate, wilson
from hart_studio.files import read_regular_file, write_json
from hart_studio.image_domains import CALIBRATED_DOMAINS, DOMAIN_TITLES
from hart_studio.labeling.records import BoxCheck, EvidenceKind, Label, Share, Uncalibrated
from hart_studio.models.model_identity import identify_model
from hart_studio.records import Record, Sample

FEATURES: Final = ("intercept", "sufficiency", "consensus", "support", "crops_correct", "needed", "not_needed", "area")
"""Features of the regression."""


_SATURATED_AREA: Final = 0.1

AnswerFormat = Literal["multiple_choice", "free_text"]
"""Answer with an option's letter, or in free text."""

UNCALIBRATED: Final = "Uncalibrated"
"""Shown instead of a score outside the domain."""

REASONS: Final[dict[Uncalibrated, str]] = {
    "model": "no calibration for this model",
    "images": "images differ from those of the calibration",
    "answer_format": "answer format differs from that of the calibration",
    "evidence": "the calibration does not cover this kind of evidence",
    "sampling": "number of rollouts or temperature differs from the calibration",
    "refinement": "box refinement differs from the calibration",
    "given_boxes": "imported boxes; the calibration covers only proposed boxes",
    "contradiction": "the evidence contradicts the boxes",
}
"""Why a label has no score, as text."""

_FORM_TITLES: Final[dict[AnswerFormat, str]] = {"multiple_choice": "multiple choice", "free_text": "free text"}


class CalibrationBin(Record):
    """One bin of a reliability diagram."""

    low: float
    """Lowest score, inclusive."""
    high: float
    """Highest score, exclusive except for 1."""
    count: int
    """Labels in the bin."""
    score: float | None
    """Mean score of the labels; None if the bin is empty."""
    right: float | None
    """Share of right labels; None if the bin is empty."""


class ScoreModel(Record):
    """Regression of one kind of evidence, and its test metrics."""

    weights: tuple[float, ...]
    """One weight per feature of ``FEATURES``."""
    fitted_on: int
    """Questions that the weights were fitted on."""
    tested_on: int
    """Questions of the test metrics; disjoint from those of the fit."""
    scored: int
    """Tested labels with a score: their evidence does not contradict them."""
    base_rate: Share
    """Share of right labels among the tested ones."""
    threshold: float | None
    """Auto-accept threshold of the score; None when no threshold reaches the target, see ``choose_threshold``."""
    precision: Share | None
    """Share of right labels among the auto-accepted ones, on the labels that the threshold was chosen on."""
    recall: Share | None
    """Share of auto-accepted labels among the right ones."""
    brier: float
    """Brier score: mean squared difference of score and outcome over the scored labels."""
    calibration_error: float
    """Expected calibration error: mean difference of score and share of right labels over bins, weighted by count."""
    bins: tuple[CalibrationBin, ...]
    """Reliability diagram."""

    @property
    def right_estimate(self) -> Estimate | None:
        """``base_rate`` with its 95 % Wilson interval; None when the numbers of a file are inconsistent."""
        return _estimate(self._right_count, self.tested_on)

    @property
    def precision_estimate(self) -> Estimate | None:
        """``precision`` with its 95 % Wilson interval; None, too, when no label is accepted."""
        if not self.precision or self.recall is None:
            return None
        kept = round(self.recall * self._right_count)
        return _estimate(kept, round(kept / self.precision))

    @property
    def recall_estimate(self) -> Estimate | None:
        """``recall`` with its 95 % Wilson interval; None, too, when no tested label is right."""
        return None if self.recall is None else _estimate(round(self.recall * self._right_count), self._right_count)

    @property
    def _right_count(self) -> int:
        return round(self.base_rate * self.tested_on)


class LabelScore(NamedTuple):
    """Score of a label, or why it has none."""

    score: float | None
    """Calibrated probability that the boxes are right, in [0, 1]."""
    uncalibrated: Uncalibrated | None
    """Reason for a missing score; None with a score, and for a label without evidence of rollouts."""


class Calibration(Record):
    """Content of ``calibration.json``."""

    model: str
    """``ModelIdentity.name`` of the model; for a folder only a title."""
    model_digest: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    """Digest of a local model, ``models.model_identity.digest_model``; empty for a hub model and a served one."""
    model_revision: str = ""
    """Revision of a hub model; empty where it is unknown."""
    data: str
    """Description of the gold data."""
    domain: CalibrationDomain
    """Images, answer formats and box refinement that the scores are valid for."""
    rollouts: int
    """Rollouts per question (K)."""
    temperature: float
    """Sampling temperature of the rollouts."""
    target_precision: float = Field(gt=0, lt=1)
    """Target precision of the thresholds."""
    curves: dict[EvidenceKind, ScoreModel]
    """One curve per kind of evidence."""

    def score_label(self, check: BoxCheck | None, has_boxes: bool, origin: LabelOrigin) -> LabelScore:
        """Score a label inside the domain.

        Args:
            check: Evidence of the label.
            has_boxes: Whether the label has boxes; without any the score is 0.
            origin: Origin of the label.

        Returns:
            The score. It is missing without evidence of rollouts, outside the domain, and when the evidence contradicts
                the boxes.
        """
        if check is None or not check.rollouts:
            return LabelScore(None, None)
        mismatch = get_domain_mismatch(self.domain, origin)
        if mismatch is None and (origin.rollouts, origin.temperature) != (self.rollouts, self.temperature):
            mismatch = "sampling"
        curve = self.curves.get(check.kind)
        if curve is None:
            mismatch = mismatch or "evidence"
        if mismatch or curve is None:
            return LabelScore(None, mismatch)
        if not has_boxes:
            return LabelScore(0.0, None)
        if contradicts(check):
            return LabelScore(None, "contradiction")
        return LabelScore(sigmoid(float(read_features(check) @ np.array(curve.weights))), None)

    def matches_model(self, model: str) -> bool:
        """Whether the calibration was made with this model.

        A local model is compared by the content of its files, independent of its path. Any other model is compared by
        its name, and by its revision where both are known.
        """
        found = identify_model(model)
        if found.digest or self.model_digest or Path(model).is_dir():
            return bool(found.digest) and found.digest == self.model_digest
        is_same_revision = not found.revision or self.model_revision in ("", found.revision)
        return self.model == found.name and is_same_revision

    def auto_accepts(self, check: BoxCheck | None, score: float | None) -> bool:
        """Whether a label is auto-accepted; never with a caution or contradicting evidence."""
        curve = self.curves.get(check.kind) if check else None
        if check is None or score is None or curve is None or curve.threshold is None:
            return False
        if check.cautions or contradicts(check):
            return False
        return score >= curve.threshold


def read_features(check: BoxCheck) -> NDArray[np.float64]:
    """Features ``[F]`` of the evidence; 0 for missing measurements."""
    return np.array(
        [
            1.0,
            check.sufficiency or 0.0,
            check.consensus or 0.0,
            check.support or 0.0,
            float(check.crops_correct is True),
            float(check.necessity is True),
            float(check.necessity is False),
            min(1.0, check.area_share / _SATURATED_AREA),
        ]
    )


def load_calibration(path: Path) -> Calibration:
    """Load a calibration.

    Raises:
        DataError: If it is unreadable.
    """
    try:
        found = Calibration.model_validate_json(read_regular_file(path, follow_symlinks=True))
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise DataError(f"Cannot read calibration {path.name!r}: {reason}. Create it again.") from error
    if any(len(curve.weights) != len(FEATURES) for curve in found.curves.values()):
        raise DataError(f"Calibration {path.name!r} does not have {len(FEATURES)} weights. Create it again.")
    return found


def is_calibration(content: bytes) -> bool:
    """Whether the content of a file is a calibration."""
    try:
        Calibration.model_validate_json(content)
    except ValidationError:
        return False
    return True


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration as JSON, atomically."""
    write_json(path, calibration.model_dump(mode="json"))


def _estimate(right: int, count: int) -> Estimate | None:
    return wilson(right, count) if count > 0 and 0 <= right <= count else None


def sigmoid(value: float) -> float:
    """Logistic function; finite for any value."""
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, value))))


class CalibrationDomain(Record):
    """Labels that a calibration is valid for. ``Calibration`` holds model, kinds of evidence, K and temperature."""

    images: str = Field(pattern=f"^({'|'.join(CALIBRATED_DOMAINS)})?$")
    """Image domain detected from the files; empty for a dataset of other images."""
    data_set: str = Field(max_length=500)
    """Name of the dataset, ``Sample.source``. Used only if ``images`` is empty, and only for a calibration in the
    project folder: a name alone is no evidence."""
    answer_forms: tuple[AnswerFormat, ...] = Field(min_length=1)
    """Answer formats of the questions that it was fitted and tested on."""
    is_refined: bool = False
    """Whether boxes were refined."""

    def describe(self) -> str:
        """The images and answer formats as text."""
        images = DOMAIN_TITLES[self.images] if self.images else f"images of the dataset {self.data_set!r}"
        return f"{images}, {' and '.join(_FORM_TITLES[form] for form in self.answer_forms)}"


class LabelOrigin(NamedTuple):
    """Properties of a label that a calibration's domain depends on."""

    image_domain: str
    """From ``image_domains.read_image_domain``; empty for photographs."""
    data_set: str
    """``Sample.source``."""
    answer_format: AnswerFormat
    """Answer format of the question."""
    rollouts: int
    """Rollouts per question (K)."""
    temperature: float
    """Sampling temperature of the rollouts."""
    is_refined: bool = False
    """Whether boxes were refined."""
    is_given: bool = False
    """Whether the boxes were imported and only verified."""


def get_answer_form(sample: Sample) -> AnswerFormat:
    """Answer format of a question."""
    return "multiple_choice" if sample.choices else "free_text"


def get_domain_mismatch(domain: CalibrationDomain, origin: LabelOrigin) -> Uncalibrated | None:
    """Why a label is outside a domain; None inside.

    ``Calibration.score_label`` compares K and temperature.
    """
    is_same_data_set = bool(domain.images) or origin.data_set == domain.data_set
    if origin.image_domain != domain.images or not is_same_data_set:
        return "images"
    if origin.answer_format not in domain.answer_forms:
        return "answer_format"
    if origin.is_given:
        return "given_boxes"
    return None if origin.is_refined == domain.is_refined else "refinement"


def contradicts(check: BoxCheck) -> bool:
    """Whether the evidence contradicts the boxes.

    The crops of the boxes give a wrong answer (``known_answer``), or not the majority answer (``agreement``), or no
    rollout gave the expected answer. Such labels are rare in the fitted data, so a regression could still give them a
    high score. They have no score and are never auto-accepted.
    """
    return check.crops_correct is False or check.sufficiency == 0.0


def describe_score(label: Label) -> str:
    """Format a score: a number, "Uncalibrated", or a dash without evidence."""
    if label.score is not None:
        return f"{label.score:.2f}"
    return UNCALIBRATED if label.is_uncalibrated else "–"
