"""Calibrate label scores on gold boxes: ``python -m hart_studio.labeling calibrate``.

Boxes are proposed from samples without gold boxes, once with the known answers and once without. Only then are they
compared with the gold boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError, HartError, ModelError
from hart_studio.evaluation.grounding_metrics import best_iou, is_found
from hart_studio.evaluation.statistics import ONE_SIDED_Z, wilson
from hart_studio.files import from_stored_path
from hart_studio.image_domains import CALIBRATED_DOMAINS, DOMAIN_TITLES, read_image_domain
from hart_studio.imaging import SourceImage
from hart_studio.labeling.calibration import (
    Calibration,
    CalibrationBin,
    CalibrationDomain,
    ScoreModel,
    contradicts,
    get_answer_form,
    read_features,
    sigmoid,
)
from hart_studio.labeling.imported_labels import clip_imported_boxes
from hart_studio.labeling.importing import inspect_image
from hart_studio.labeling.records import BoxCheck, EvidenceKind, ImageFile
from hart_studio.labeling.report import format_estimate
from hart_studio.labeling.self_verify import (
    MAX_CONSECUTIVE_FAILURES,
    Proposal,
    ProposalSettings,
    propose_safely,
)
from hart_studio.models.chat import ChatModel
from hart_studio.models.model_identity import ModelIdentity
from hart_studio.records import GoldSample, Record, Sample

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


class CalibrationExample(NamedTuple):
    """A label whose boxes were compared with gold boxes."""

    check: BoxCheck
    """The evidence."""
    is_right: bool
    """Whether all gold boxes are found, IoG > 0.3 (paper, Sec. 4.1)."""


class EvaluatedProposal(Record):
    """A proposal compared with the gold boxes: one line of the calibration records."""

    kind: EvidenceKind
    """Whether the answers were compared with the known one or with each other."""
    sample_id: str
    """Id of the question."""
    example: CalibrationExample | None
    """None when the model failed or proposed no box."""
    iou: float
    """Best IoU per gold box, averaged; 0 without boxes."""


def is_evaluated_proposal(content: bytes) -> bool:
    """Whether the first line of a file is an ``EvaluatedProposal``."""
    try:
        EvaluatedProposal.model_validate_json(content.split(b"\n", 1)[0])
    except ValidationError:
        return False
    return True


class GoldSelection(NamedTuple):
    """Samples that are usable for a calibration."""

    samples: tuple[GoldSample, ...]
    """Samples with a readable image, an answer, and gold boxes inside the image."""
    excluded: Mapping[str, int]
    """Reason -> number of excluded rows."""


class CalibrationResult(NamedTuple):
    """Result of ``make_calibration``."""

    calibration: Calibration
    """Curves of the kinds of evidence with enough labels."""
    shortages: Mapping[EvidenceKind, str]
    """Kind of evidence without a curve -> reason."""


def select_gold_samples(loaded: LoadedSamples[GoldSample]) -> GoldSelection:
    """Select the samples that are usable for a calibration. Each image is decoded once.

    Raises:
        DataError: If there are too few.
    """
    excluded = loaded.reasons
    files: dict[str, ImageFile | str] = {}
    samples = []
    for sample in loaded.samples:
        if reason := _find_problem(sample, files):
            excluded[reason] += 1
        else:
            samples.append(sample)
    if len(samples) < 2 * MIN_LABELS:
        reasons = "".join(f"; {count} x {reason}" for reason, count in excluded.most_common(3))
        raise DataError(
            f"Too few samples for a calibration: {len(samples)} of {loaded.source!r} are usable, {2 * MIN_LABELS} are "
            f"needed{reasons}. Each sample needs a readable image, an answer, and gold_boxes."
        )
    return GoldSelection(tuple(samples), dict(excluded.most_common()))


def _find_problem(sample: GoldSample, files: dict[str, ImageFile | str]) -> str:
    """Why a sample is unusable; empty when it is usable.

    Args:
        sample: Sample with an answer.
        files: Images inspected so far, or why they are unreadable; this one is added.
    """
    if not sample.gold_boxes:
        return "no gold box"
    if sample.image not in files:
        files[sample.image] = _decode(sample.image)
    found = files[sample.image]
    if isinstance(found, str):
        return found
    try:
        clip_imported_boxes(sample.gold_boxes, found)
    except ValueError as error:
        return str(error)
    return ""


def _decode(path: str) -> ImageFile | str:
    """Decode an image and return its file, or why it is unreadable. ``inspect_image`` reads only the header."""
    try:
        with SourceImage(path) as image:
            image.full()
    except HartError as error:
        return str(error)
    except OSError as error:
        return f"{from_stored_path(path).name}: {error.strerror or error}"
    return inspect_image(path)


def evaluate_proposals(
    model: ChatModel, samples: Sequence[GoldSample], settings: ProposalSettings, batch: int
) -> Iterator[list[EvaluatedProposal]]:
    """Propose boxes for samples with gold boxes, with and without their answers.

    Yields:
        The records of a batch. A question on which the model fails has no example.

    Raises:
        ModelError: If the model fails on ``MAX_CONSECUTIVE_FAILURES`` proposals in a row or more.
    """
    failures = 0
    for start in range(0, len(samples), batch):
        gold = samples[start : start + batch]
        blind = [sample.without_gold_boxes() for sample in gold]
        hidden = [sample.model_copy(update={"answer": None}) for sample in blind]
        records: list[EvaluatedProposal] = []
        passes: tuple[tuple[EvidenceKind, list[Sample]], ...] = (("known_answer", blind), ("agreement", hidden))
        for kind, asked in passes:
            proposals = propose_safely(model, asked, settings)
            failures = failures + len(asked) if all(proposal.is_unexpected for proposal in proposals) else 0
            if failures >= MAX_CONSECUTIVE_FAILURES:
                raise ModelError(f"The model failed on the last {failures} proposals: {proposals[-1].failure}")
            records += [_evaluate(kind, sample, proposal) for sample, proposal in zip(gold, proposals, strict=True)]
        yield records


def infer_calibration_domain(samples: Sequence[Sample], data_set: str, settings: ProposalSettings) -> CalibrationDomain:
    """Infer the domain that a calibration on these samples is valid for.

    Args:
        samples: Samples to fit and test on; their image files are read to detect the image domain.
        data_set: Name of the dataset in a project, ``Sample.source``.
        settings: Settings of the proposals.

    Raises:
        DataError: If the image domains are mixed, or if no score can be valid for the domain because its images differ
            too much.
    """
    domains = {read_image_domain(image) for image in {sample.image for sample in samples}}
    if len(domains) > 1:
        titles = ", ".join(DOMAIN_TITLES.get(domain, "other images") for domain in sorted(domains))
        raise DataError(f"The samples mix image domains: {titles}. Calibrate on each domain alone.")
    images = domains.pop() if domains else ""
    if images and images not in CALIBRATED_DOMAINS:
        titles = ", ".join(DOMAIN_TITLES[domain] for domain in CALIBRATED_DOMAINS)
        raise DataError(
            f"Cannot calibrate on {DOMAIN_TITLES[images]}: the scores would not be valid for other scene settings. Use "
            f"scenes with the default settings ({titles}), or other images."
        )
    return CalibrationDomain(
        images=images,
        data_set="" if images else data_set,
        answer_forms=tuple(sorted({get_answer_form(sample) for sample in samples})),
        is_refined=settings.refinement is not None,
    )


def make_calibration(
    records: Sequence[EvaluatedProposal],
    *,
    model: ModelIdentity,
    data: str,
    domain: CalibrationDomain,
    settings: ProposalSettings,
    target_precision: float = TARGET_PRECISION,
) -> CalibrationResult:
    """Fit on every other question and test on the rest.

    Args:
        records: From ``evaluate_proposals``.
        model: From ``identify_model``.
        data: Description of the gold data.
        domain: From ``infer_calibration_domain``.
        settings: Settings of the proposals.
        target_precision: Precision that the thresholds must reach, in (0, 1).

    Raises:
        DataError: If every kind of evidence has too few records.
    """
    curves, shortages = {}, {}
    for kind in sorted({record.kind for record in records}):
        example = [record.example for record in records if record.kind == kind and record.example]
        try:
            curves[kind] = fit_curve(example[::2], example[1::2], target_precision)
        except DataError as error:
            shortages[kind] = str(error)
    if not curves:
        raise DataError(" ".join(f"{kind}: {reason}" for kind, reason in shortages.items()))
    made = Calibration(
        model=model.name,
        model_digest=model.digest,
        model_revision=model.revision,
        data=data,
        domain=domain,
        rollouts=settings.rollouts,
        temperature=settings.loop.temperature,
        target_precision=target_precision,
        curves=curves,
    )
    return CalibrationResult(made, shortages)


def describe_calibration(calibration: Calibration) -> str:
    """Format the metrics of a calibration, with 95 % Wilson intervals."""
    lines = []
    for kind, curve in calibration.curves.items():
        lines.append(
            f"{kind}: {curve.tested_on} tested, {format_estimate(curve.right_estimate)} correct, "
            f"Brier {curve.brier:.3f}, calibration error {curve.calibration_error:.3f}"
        )
        if curve.threshold is None:
            lines.append(
                f"  auto-accept disabled: no threshold reliably reaches precision {calibration.target_precision:g}"
            )
        else:
            lines.append(
                f"  auto-accept threshold {curve.threshold:.3f}: precision "
                f"{format_estimate(curve.precision_estimate)}, recall {format_estimate(curve.recall_estimate)}"
            )
    return "\n".join(lines)


def _evaluate(kind: EvidenceKind, sample: GoldSample, proposal: Proposal) -> EvaluatedProposal:
    gold, boxes = sample.gold_boxes, proposal.boxes
    example = None
    if proposal.check is not None and boxes:
        example = CalibrationExample(proposal.check, all(is_found(box, boxes) for box in gold))
    iou = sum(best_iou(box, boxes) for box in gold) / len(gold)
    return EvaluatedProposal(kind=kind, sample_id=sample.id, example=example, iou=iou)


def fit_curve(
    fitted: Sequence[CalibrationExample],
    tested: Sequence[CalibrationExample],
    target_precision: float = TARGET_PRECISION,
) -> ScoreModel:
    """Fit on one part of the labels, choose the threshold and measure on the other.

    The weights are fitted on all labels. The test metrics count labels with a score. Labels with contradicting evidence
    have no score; right ones among them count as not accepted.

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
) -> ScoreModel:
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
    scores = np.array([sigmoid(value) for value in _matrix(scored) @ weights])
    free = np.array([not example.check.cautions for example in scored])
    threshold = choose_threshold(scores[free], truth[free], target_precision)
    is_accepted = free & (scores >= threshold) if threshold is not None else np.zeros(len(scores), dtype=bool)
    bins = make_bins(scores, truth)
    return ScoreModel(
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


def _matrix(labels: Sequence[CalibrationExample]) -> NDArray[np.float64]:
    return np.stack([read_features(example.check) for example in labels])


def _truth(labels: Sequence[CalibrationExample]) -> NDArray[np.float64]:
    return np.array([float(example.is_right) for example in labels])


def _calibration_error(bins: Sequence[CalibrationBin]) -> float:
    total = sum(each.count for each in bins)
    return sum(
        each.count / total * abs(each.score - each.right)
        for each in bins
        if each.score is not None and each.right is not None
    )
