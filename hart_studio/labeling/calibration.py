"""Calibrated score of a label: the estimated probability that its boxes are right.

The score is a logistic regression on the evidence of a ``BoxCheck``. It is fitted on data with gold boxes (the needle
validation split) and applied only inside the calibration's domain. Known answers and agreement are two kinds of
evidence with one regression each. The auto-accept threshold is chosen on questions that the regression was not fitted
on: it is the lowest score from which the lower end of a one-sided 95 % Wilson interval of the precision reaches the
target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from hart_studio.errors import DataError
from hart_studio.evaluation.statistics import ONE_SIDED_Z, Estimate, wilson
from hart_studio.files import read_regular_file, write_json
from hart_studio.labeling.calibration_domain import CalibrationDomain, LabelOrigin, contradicts, get_domain_mismatch
from hart_studio.labeling.records import BoxCheck, EvidenceKind, Share, Uncalibrated
from hart_studio.models.model_identity import identify_model
from hart_studio.records import Record

FEATURES: Final = ("intercept", "sufficiency", "consensus", "support", "crops_right", "needed", "not_needed", "area")
"""Features of the regression."""

TARGET_PRECISION: Final = 0.95
"""Target share of right labels among the auto-accepted ones. Project default."""

MIN_LABELS: Final = 50
"""Minimum number of labels to fit on, and to test on. Project default."""

MIN_RIGHT_AND_WRONG: Final = 5
"""Minimum number of right labels and of wrong labels to fit on, and to test on. Project default."""

BINS: Final = 10
"""Bins of a reliability diagram."""

_SIGNS: Final = (0, 1, 1, 1, 1, 1, -1, 0)
"""Allowed sign of each feature's weight; 0 = any. More evidence for the boxes never lowers the score."""

_RIDGE: Final = 1.0
_NEWTON_STEPS: Final = 50
_SATURATED_AREA: Final = 0.1


class CalibrationExample(NamedTuple):
    """A label whose boxes were compared with gold boxes."""

    check: BoxCheck
    """The evidence."""
    is_right: bool
    """Whether all gold boxes are found, IoG > 0.3 (paper, Sec. 4.1)."""


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


class CalibrationCurve(Record):
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
    curves: dict[EvidenceKind, CalibrationCurve]
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
        return LabelScore(_sigmoid(float(read_features(check) @ np.array(curve.weights))), None)

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
            float(check.crops_right is True),
            float(check.necessity is True),
            float(check.necessity is False),
            min(1.0, check.area_share / _SATURATED_AREA),
        ]
    )


def fit_curve(
    fitted: Sequence[CalibrationExample],
    tested: Sequence[CalibrationExample],
    target_precision: float = TARGET_PRECISION,
) -> CalibrationCurve:
    """Fit on one part of the labels, choose the threshold and measure on the other.

    The weights are fitted on all labels. The test metrics count labels with a score. Labels with contradicting evidence
    have no score; right ones among them count as not accepted.

    Args:
        fitted: Labels for the fit.
        tested: Labels for the threshold and the metrics.
        target_precision: Target precision of the threshold.

    Raises:
        DataError: If a part has fewer labels than ``MIN_LABELS``, or fewer right or wrong ones than
            ``MIN_RIGHT_AND_WRONG``.
    """
    for part, labels in (("fit", fitted), ("test", tested)):
        right = sum(example.is_right for example in labels)
        wrong = len(labels) - right
        if len(labels) < MIN_LABELS or min(right, wrong) < MIN_RIGHT_AND_WRONG:
            raise DataError(
                f"Too few labels for the {part} half: {len(labels)} ({right} correct, {wrong} wrong). Each half needs "
                f"at least {MIN_LABELS} labels, {MIN_RIGHT_AND_WRONG} of them correct and {MIN_RIGHT_AND_WRONG} wrong. "
                "Add questions with gold boxes."
            )
    weights = fit_signed(_matrix(fitted), _truth(fitted), _SIGNS)
    return measure_curve(weights, len(fitted), tested, target_precision)


def measure_curve(
    weights: NDArray[np.float64],
    fitted_on: int,
    tested: Sequence[CalibrationExample],
    target_precision: float = TARGET_PRECISION,
) -> CalibrationCurve:
    """Choose the threshold for fitted weights, and measure them.

    Args:
        weights: Weights ``[F]``.
        fitted_on: Number of questions that they were fitted on.
        tested: Labels that they were not fitted on.
        target_precision: Target precision of the threshold.

    Raises:
        DataError: If no tested label has a score.
    """
    scored = [example for example in tested if not contradicts(example.check)]
    if not scored:
        raise DataError(f"None of the {len(tested)} tested labels has a score. Add more data.")
    all_right = sum(example.is_right for example in tested)
    truth = _truth(scored)
    scores = np.array([_sigmoid(value) for value in _matrix(scored) @ weights])
    free = np.array([not example.check.cautions for example in scored])
    threshold = choose_threshold(scores[free], truth[free], target_precision)
    is_accepted = free & (scores >= threshold) if threshold is not None else np.zeros(len(scores), dtype=bool)
    bins = make_bins(scores, truth)
    return CalibrationCurve(
        weights=tuple(float(weight) for weight in weights),
        fitted_on=fitted_on,
        tested_on=len(tested),
        scored=len(scored),
        base_rate=all_right / len(tested),
        threshold=threshold,
        precision=float(truth[is_accepted].mean()) if is_accepted.any() else None,
        recall=float(truth[is_accepted].sum() / all_right) if all_right else None,
        brier=float(((scores - truth) ** 2).mean()),
        calibration_error=_calibration_error(bins),
        bins=bins,
    )


def fit_signed(features: NDArray[np.float64], truth: NDArray[np.float64], signs: Sequence[int]) -> NDArray[np.float64]:
    """Fit a logistic regression with given weight signs: features with the wrong sign are dropped one by one.

    Args:
        features: ``[N, F]``, the first column 1.
        truth: ``[N]``, 0 or 1.
        signs: Per feature 1, -1, or 0 for any.

    Returns:
        Weights ``[F]``; 0 for a dropped feature.
    """
    kept = list(range(features.shape[1]))
    while True:
        weights = np.zeros(features.shape[1])
        weights[kept] = fit_logistic(features[:, kept], truth)
        wrong = [column for column in kept if weights[column] * signs[column] < 0]
        if not wrong:
            return weights
        kept.remove(max(wrong, key=lambda column: abs(weights[column])))


def fit_logistic(features: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit a logistic regression by Newton's method, with a ridge penalty on all weights but the intercept.

    Args:
        features: ``[N, F]``, the first column 1.
        truth: ``[N]``, 0 or 1.

    Returns:
        Weights ``[F]``.
    """
    ridge = np.full(features.shape[1], _RIDGE)
    ridge[0] = 1e-6  # keeps the system solvable when all labels are right, or all wrong
    weights = np.zeros(features.shape[1])
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (truth - chance) - ridge * weights
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-9:
            break
    return weights


def choose_threshold(scores: NDArray[np.float64], truth: NDArray[np.float64], target_precision: float) -> float | None:
    """Return the lowest score from which the precision reaches the target with confidence; None when there is none.

    The lower end of the one-sided 95 % Wilson interval of the share of right labels must not be below the target. For a
    target of 95 % that takes at least 52 labels, all right. The search takes the lowest of many scores, so the
    precision measured on the same labels is slightly optimistic.

    Args:
        scores: ``[N]``, of labels that the weights were not fitted on.
        truth: ``[N]``, 0 or 1.
        target_precision: In (0, 1).
    """
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(truth[order])
    bounds = np.array([wilson(int(found), count, ONE_SIDED_Z).low for count, found in enumerate(right, start=1)])
    # Labels with equal scores are accepted together: only the last of them can be the threshold.
    is_last = np.append(np.diff(scores[order]) < 0, True) if len(order) else np.zeros(0, dtype=bool)
    good = np.flatnonzero((bounds >= target_precision) & is_last)
    return float(scores[order][good[-1]]) if len(good) else None


def make_bins(scores: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[CalibrationBin, ...]:
    """Compute the reliability diagram: ten equal bins of the score with the share of right labels in each."""
    bin_of = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = []
    for index in range(BINS):
        inside = bin_of == index
        found = bool(inside.any())
        bins.append(
            CalibrationBin(
                low=index / BINS,
                high=(index + 1) / BINS,
                count=int(inside.sum()),
                score=float(scores[inside].mean()) if found else None,
                right=float(truth[inside].mean()) if found else None,
            )
        )
    return tuple(bins)


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


def _matrix(labels: Sequence[CalibrationExample]) -> NDArray[np.float64]:
    return np.stack([read_features(example.check) for example in labels])


def _truth(labels: Sequence[CalibrationExample]) -> NDArray[np.float64]:
    return np.array([float(example.is_right) for example in labels])


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, value))))


def _calibration_error(bins: Sequence[CalibrationBin]) -> float:
    total = sum(each.count for each in bins)
    return sum(
        each.count / total * abs(each.score - each.right)
        for each in bins
        if each.score is not None and each.right is not None
    )
