"""Domain of a calibration: the labels for which its score is a measured probability.

A label has a score only inside the domain. Outside, it is shown as uncalibrated, independent of its evidence.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from pydantic import Field

from hart_studio.image_domains import CALIBRATED_DOMAINS, DOMAIN_TITLES
from hart_studio.labeling.records import BoxCheck, Label, Uncalibrated
from hart_studio.records import Record, Sample

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
    return check.crops_right is False or check.sufficiency == 0.0


def describe_score(label: Label) -> str:
    """Format a score: a number, "Uncalibrated", or a dash without evidence."""
    if label.score is not None:
        return f"{label.score:.2f}"
    return UNCALIBRATED if label.is_uncalibrated else "–"
