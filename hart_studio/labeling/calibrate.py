"""Calibrate the score of labels where gold boxes are known: ``python -m hart_studio.labeling calibrate``.

Proposals are made from blind samples, once with the known answers and once with them taken away. Only then are they set
beside the gold boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from hart_studio.errors import DataError
from hart_studio.evaluation.grounding_metrics import best_iou, is_found
from hart_studio.image_domains import CALIBRATED_DOMAINS, DOMAIN_TITLES, read_image_domain
from hart_studio.labeling.calibration import TARGET_PRECISION, Calibration, Judged, fit_curve
from hart_studio.labeling.calibration_domain import CalibrationDomain, find_answer_form
from hart_studio.labeling.records import EvidenceKind
from hart_studio.labeling.self_verify import Proposal, ProposalSettings, propose
from hart_studio.models.chat import ChatModel
from hart_studio.models.model_identity import ModelIdentity
from hart_studio.records import GoldSample, Record, Sample
from hart_studio.shares import show_share


class JudgedProposal(Record):
    """A proposal beside the truth: one line of the records that a calibration is made from."""

    kind: EvidenceKind
    """Whether the model's answers were compared with the known one."""
    sample_id: str
    """The question."""
    judged: Judged | None
    """None when the model could not be asked, or found no box: there is nothing to score."""
    iou: float
    """Mean over the gold boxes of the best IoU; 0 without boxes."""


def is_judged_record(content: bytes) -> bool:
    """Whether the first line of a file is a ``JudgedProposal``."""
    try:
        JudgedProposal.model_validate_json(content.split(b"\n", 1)[0])
    except ValidationError:
        return False
    return True


def judge_proposals(
    model: ChatModel, samples: Sequence[GoldSample], settings: ProposalSettings, batch: int
) -> Iterator[list[JudgedProposal]]:
    """Propose boxes for samples whose gold boxes are known, with and without their answers.

    Args:
        model: The model.
        samples: With gold boxes and known answers.
        settings: How to propose.
        batch: Questions whose pictures are in memory together.

    Yields:
        The records of a batch.
    """
    for start in range(0, len(samples), batch):
        gold = samples[start : start + batch]
        blind = [sample.blind() for sample in gold]
        hidden = [sample.model_copy(update={"answer": None}) for sample in blind]
        records: list[JudgedProposal] = []
        passes: tuple[tuple[EvidenceKind, list[Sample]], ...] = (("known_answer", blind), ("agreement", hidden))
        for kind, asked in passes:
            proposals = propose(model, asked, settings)
            records += [_judge(kind, sample, proposal) for sample, proposal in zip(gold, proposals, strict=True)]
        yield records


def find_domain(samples: Sequence[Sample], data_set: str, settings: ProposalSettings) -> CalibrationDomain:
    """Find out what a calibration on these samples is valid for.

    Args:
        samples: What it is fitted and tested on; their image files are read for evidence of their domain.
        data_set: Name that a project gives the same rows, ``Sample.source``.
        settings: How boxes are proposed.

    Raises:
        DataError: If images of an image domain are mixed with others, or if no score can be valid for the domain,
            because its images differ too much from each other.
    """
    domains = {read_image_domain(image) for image in {sample.image for sample in samples}}
    if len(domains) > 1:
        titles = ", ".join(DOMAIN_TITLES.get(domain, "other images") for domain in sorted(domains))
        raise DataError(f"expected images of one kind, got {titles}; calibrate with each of them alone")
    images = domains.pop() if domains else ""
    if images and images not in CALIBRATED_DOMAINS:
        titles = ", ".join(DOMAIN_TITLES[domain] for domain in CALIBRATED_DOMAINS)
        raise DataError(
            f"cannot calibrate on {DOMAIN_TITLES[images]}: a score would not be valid for other settings; draw scenes "
            f"with the default settings ({titles}), or take other images"
        )
    return CalibrationDomain(
        images=images,
        data_set="" if images else data_set,
        answer_forms=tuple(sorted({find_answer_form(sample) for sample in samples})),
        is_tightened=settings.tightening is not None,
    )


def make_calibration(
    records: Sequence[JudgedProposal],
    *,
    model: ModelIdentity,
    data: str,
    domain: CalibrationDomain,
    settings: ProposalSettings,
    target_precision: float = TARGET_PRECISION,
) -> Calibration:
    """Fit on every other question, and test on the rest.

    Args:
        records: From ``judge_proposals``.
        model: From ``identify_model``.
        data: Where the truth comes from, in words.
        domain: From ``find_domain``.
        settings: How boxes were proposed.
        target_precision: What the thresholds are chosen for.

    Raises:
        DataError: If there are too few records.
    """
    curves = {}
    for kind in sorted({record.kind for record in records}):
        judged = [record.judged for record in records if record.kind == kind and record.judged]
        curves[kind] = fit_curve(judged[::2], judged[1::2], target_precision)
    return Calibration(
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


def describe_calibration(calibration: Calibration) -> str:
    """The figures of a calibration as text."""
    lines = []
    for kind, curve in calibration.curves.items():
        lines.append(
            f"{kind}: {curve.tested_on} tested, {show_share(curve.base_rate)} right, Brier {curve.brier:.3f}, "
            f"calibration error {curve.calibration_error:.3f}"
        )
        if curve.threshold is not None:
            lines.append(
                f"  accepted from {curve.threshold:.3f} on: precision {show_share(curve.precision)}, "
                f"recall {show_share(curve.recall)}"
            )
    return "\n".join(lines)


def _judge(kind: EvidenceKind, sample: GoldSample, proposal: Proposal) -> JudgedProposal:
    gold, boxes = sample.gold_boxes, proposal.boxes
    judged = None
    if proposal.check is not None and boxes:
        judged = Judged(proposal.check, all(is_found(box, boxes) for box in gold))
    iou = sum(best_iou(box, boxes) for box in gold) / len(gold)
    return JudgedProposal(kind=kind, sample_id=sample.id, judged=judged, iou=iou)
