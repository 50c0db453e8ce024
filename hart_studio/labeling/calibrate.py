"""Calibrate label scores on gold boxes: ``python -m hart_studio.labeling calibrate``.

Boxes are proposed from samples without gold boxes, once with the known answers and once without. Only then are they
compared with the gold boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from hart_studio.data.rows import LoadedSamples
from hart_studio.errors import DataError, HartError, ModelError
from hart_studio.evaluation.grounding_metrics import best_iou, is_found
from hart_studio.files import from_stored_path
from hart_studio.image_domains import CALIBRATED_DOMAINS, DOMAIN_TITLES, read_image_domain
from hart_studio.imaging import SourceImage
from hart_studio.labeling.calibration import MIN_LABELS, TARGET_PRECISION, Calibration, CalibrationExample, fit_curve
from hart_studio.labeling.calibration_domain import CalibrationDomain, get_answer_form
from hart_studio.labeling.import_validation import clip_imported_boxes
from hart_studio.labeling.importing import inspect_image
from hart_studio.labeling.records import EvidenceKind, ImageFile
from hart_studio.labeling.report import format_estimate
from hart_studio.labeling.self_verify import (
    MAX_CONSECUTIVE_FAILURES,
    Proposal,
    ProposalSettings,
    propose,
    propose_by_halves,
)
from hart_studio.models.chat import ChatModel
from hart_studio.models.model_identity import ModelIdentity
from hart_studio.records import GoldSample, Record, Sample


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

    Args:
        loaded: From ``load_jsonl``.

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

    Args:
        model: The model.
        samples: Samples from ``select_gold_samples``.
        settings: Settings of the proposals.
        batch: Questions per batch.

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
            proposals = propose_by_halves(asked, lambda some: propose(model, some, settings), lambda sample: sample.id)
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
