"""From evidence to a calibrated score: the chance that the boxes of a label are right.

The score is a logistic regression on the evidence of a ``BoxCheck``, fitted where gold boxes are known (the needle
validation split) and applied where they are not, inside the calibration's domain only. Known answers and agreement are
two kinds of evidence with a regression each. The threshold for auto-accepting a label comes from questions that the
regression was not fitted on: from it on, the lower end of a one-sided 95 % Wilson interval of the precision reaches the
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
"""What the regression sees."""

TARGET_PRECISION: Final = 0.95
"""Share of the auto-accepted labels that should be right. Project default."""

LEAST_LABELS: Final = 50
"""Labels that a fit, and a test, need at least. Project default."""

LEAST_OF_EACH: Final = 5
"""Right labels, and wrong ones, that a fit, and a test, need at least. Project default."""

BINS: Final = 10
"""Of a reliability diagram."""

_SIGNS: Final = (0, 1, 1, 1, 1, 1, -1, 0)
"""Sign that the weight of each feature may have; 0 = any. More evidence for the boxes never lowers the score."""

_RIDGE: Final = 1.0
_NEWTON_STEPS: Final = 50
_SATURATED_AREA: Final = 0.1


class CalibrationExample(NamedTuple):
    """A label of which the truth is known."""

    check: BoxCheck
    """The evidence."""
    is_right: bool
    """Whether every gold box is found, IoG > 0.3 (paper, Sec. 4.1)."""


class CalibrationBin(Record):
    """Labels with about the same score."""

    low: float
    """Least score, inclusive."""
    high: float
    """Greatest, exclusive but for 1."""
    count: int
    """Labels in it."""
    score: float | None
    """Their mean score; None without labels."""
    right: float | None
    """Share of them that are right."""


class CalibrationCurve(Record):
    """How to score one kind of evidence, and how well that works."""

    weights: tuple[float, ...]
    """One per feature of ``FEATURES``."""
    fitted_on: int
    """Questions that the weights come from."""
    tested_on: int
    """Questions that everything below comes from; none of those above."""
    scored: int
    """Tested labels that get a score, because their evidence does not contradict them."""
    base_rate: Share
    """Share of the tested labels that are right."""
    threshold: float | None
    """From this score on a label is auto-accepted; None when no threshold reaches the target, see
    ``choose_threshold``."""
    precision: Share | None
    """Share of the auto-accepted labels that are right, of the labels that the threshold was chosen on."""
    recall: Share | None
    """Share of the right labels that are auto-accepted."""
    brier: float
    """Mean squared difference of score and truth over the scored labels; the lower the better."""
    calibration_error: float
    """Mean distance of a bin's score from its share of right labels, weighted by its labels."""
    bins: tuple[CalibrationBin, ...]
    """The reliability diagram."""

    @property
    def right_estimate(self) -> Estimate | None:
        """``base_rate`` with its 95 % Wilson interval; None where the numbers of a file do not fit together."""
        return _estimate(self._right_count, self.tested_on)

    @property
    def precision_estimate(self) -> Estimate | None:
        """The same of ``precision``; None, too, when no label is accepted."""
        if not self.precision or self.recall is None:
            return None
        kept = round(self.recall * self._right_count)
        return _estimate(kept, round(kept / self.precision))

    @property
    def recall_estimate(self) -> Estimate | None:
        """The same of ``recall``; None, too, when no tested label is right."""
        return None if self.recall is None else _estimate(round(self.recall * self._right_count), self._right_count)

    @property
    def _right_count(self) -> int:
        return round(self.base_rate * self.tested_on)


class LabelScore(NamedTuple):
    """The score of a label, or why it has none."""

    score: float | None
    """Calibrated probability that the boxes are right, in [0, 1]."""
    uncalibrated: Uncalibrated | None
    """Why there is no score; None with one, and for a label without evidence of rollouts."""


class Calibration(Record):
    """What ``calibration.json`` holds."""

    model: str
    """The model that it was made with, ``ModelIdentity.name``; for a folder a title only."""
    model_digest: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    """Digest of a local model, ``models.model_identity.digest_model``; empty for a hub model and a served one."""
    model_revision: str = ""
    """Revision of a hub model; empty where it is unknown."""
    data: str
    """Where the truth came from."""
    domain: CalibrationDomain
    """Images, answer forms and box refinement that it is valid for."""
    rollouts: int
    """K."""
    temperature: float
    """Of the rollouts."""
    target_precision: float = Field(gt=0, lt=1)
    """Precision that the thresholds were chosen for."""
    curves: dict[EvidenceKind, CalibrationCurve]
    """One for each kind of evidence."""

    def score_label(self, check: BoxCheck | None, has_boxes: bool, origin: LabelOrigin) -> LabelScore:
        """Score a label inside the domain.

        Args:
            check: The evidence.
            has_boxes: Whether the label has boxes; without any the score is 0.
            origin: Where the label comes from.

        Returns:
            The score; none without evidence of rollouts, outside of the domain, or when the evidence contradicts the
            boxes.
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
        """Whether it was made with this model.

        A folder is compared by the content of its files, wherever it lies and whatever it is called. Any other model is
        compared by its name, and by its revision where both are known.
        """
        found = identify_model(model)
        if found.digest or self.model_digest or Path(model).is_dir():
            return bool(found.digest) and found.digest == self.model_digest
        is_same_revision = not found.revision or self.model_revision in ("", found.revision)
        return self.model == found.name and is_same_revision

    def auto_accepts(self, check: BoxCheck | None, score: float | None) -> bool:
        """Whether a label is good enough to be auto-accepted; never one with a caution or contradicting evidence."""
        curve = self.curves.get(check.kind) if check else None
        if check is None or score is None or curve is None or curve.threshold is None:
            return False
        if check.cautions or contradicts(check):
            return False
        return score >= curve.threshold


def read_features(check: BoxCheck) -> NDArray[np.float64]:
    """The evidence as numbers ``[F]``; what could not be measured is 0."""
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
    """Fit on one part of the questions, choose the threshold and measure on the other.

    The weights come from all labels. The figures count those that get a score: labels whose evidence contradicts them
    get none, but right ones among them count as not accepted.

    Args:
        fitted: Labels for the weights.
        tested: Labels for everything else.
        target_precision: What the threshold is chosen for.

    Raises:
        DataError: If a part has fewer labels than ``LEAST_LABELS``, or fewer right or wrong ones than
            ``LEAST_OF_EACH``.
    """
    for part, labels in (("fit", fitted), ("test", tested)):
        right = sum(example.is_right for example in labels)
        wrong = len(labels) - right
        if len(labels) < LEAST_LABELS or min(right, wrong) < LEAST_OF_EACH:
            raise DataError(
                f"Too few labels to calibrate: {len(labels)} to {part} on, {right} of them right and {wrong} wrong. At "
                f"least {LEAST_LABELS} are needed, {LEAST_OF_EACH} of them right and {LEAST_OF_EACH} wrong. Add "
                "questions with gold boxes; half of them are for the fit, half for the test."
            )
    weights = fit_signed(_matrix(fitted), _truth(fitted), _SIGNS)
    return measure_curve(weights, len(fitted), tested, target_precision)


def measure_curve(
    weights: NDArray[np.float64],
    fitted_on: int,
    tested: Sequence[CalibrationExample],
    target_precision: float = TARGET_PRECISION,
) -> CalibrationCurve:
    """Choose the threshold of fitted weights, and measure them.

    Args:
        weights: ``[F]``.
        fitted_on: Number of questions that they come from.
        tested: Labels that they do not come from.
        target_precision: What the threshold is chosen for.

    Raises:
        DataError: If no tested label gets a score.
    """
    scored = [example for example in tested if not contradicts(example.check)]
    if not scored:
        raise DataError(f"expected tested labels that get a score, got none of {len(tested)}; name more data")
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
    """Weights of a logistic regression whose signs are given: features with the wrong sign are left out, one by one.

    Args:
        features: ``[N, F]``, the first column 1.
        truth: ``[N]``, 0 or 1.
        signs: Per feature 1, -1, or 0 for any.

    Returns:
        ``[F]``; 0 for a feature that was left out.
    """
    kept = list(range(features.shape[1]))
    while True:
        weights = np.zeros(features.shape[1])
        weights[kept] = fit_logistic(features[:, kept], truth)
        wrong = [place for place in kept if weights[place] * signs[place] < 0]
        if not wrong:
            return weights
        kept.remove(max(wrong, key=lambda place: abs(weights[place])))


def fit_logistic(features: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of a logistic regression by Newton's method, with a ridge on all but the intercept.

    Args:
        features: ``[N, F]``, the first column 1.
        truth: ``[N]``, 0 or 1.

    Returns:
        ``[F]``.
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
    """The least score from which on the precision is sure to reach the target; None when there is none.

    Sure: the lower end of the one-sided 95 % Wilson interval of the share of right labels is not below the target. For
    a target of 95 % that takes at least 52 labels, all right. The search takes the least of many scores, so the
    precision measured on the same labels is slightly optimistic.

    Args:
        scores: ``[N]``, of labels that the weights were not fitted on.
        truth: ``[N]``, 0 or 1.
        target_precision: In (0, 1).
    """
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(truth[order])
    bounds = np.array([wilson(int(found), count, ONE_SIDED_Z).low for count, found in enumerate(right, start=1)])
    # Labels of one score are accepted together, so a threshold is only possible at the last of them.
    is_last = np.append(np.diff(scores[order]) < 0, True) if len(order) else np.zeros(0, dtype=bool)
    good = np.flatnonzero((bounds >= target_precision) & is_last)
    return float(scores[order][good[-1]]) if len(good) else None


def make_bins(scores: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[CalibrationBin, ...]:
    """The reliability diagram: ten equal bins of the score, with the share of right labels in each."""
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = []
    for index in range(BINS):
        inside = place == index
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
    """Read what ``save_calibration`` wrote.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        found = Calibration.model_validate_json(read_regular_file(path, follow_symlinks=True))
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise DataError(f"expected a calibration at {path.name!r}, got: {reason}; make it again") from error
    if any(len(curve.weights) != len(FEATURES) for curve in found.curves.values()):
        raise DataError(f"expected {len(FEATURES)} weights in {path.name!r}, got another number; make it again")
    return found


def is_calibration(content: bytes) -> bool:
    """Whether the content of a file is a calibration."""
    try:
        Calibration.model_validate_json(content)
    except ValidationError:
        return False
    return True


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Write it as JSON, atomically."""
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
