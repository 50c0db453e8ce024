"""The domain of a calibration: for which labels its score is a measured probability.

A score is given inside the domain only. Outside of it a label has none and is shown as uncalibrated, whatever its
evidence is.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from pydantic import Field

from hart_studio.image_domains import CALIBRATED_DOMAINS, DOMAIN_TITLES
from hart_studio.labeling.records import BoxCheck, Label, Uncalibrated
from hart_studio.records import Record, Sample

AnswerFormat = Literal["multiple_choice", "free_text"]
"""How questions are answered: with an option's letter, or in free text."""

UNCALIBRATED: Final = "Uncalibrated"
"""What stands in the place of a score outside of every domain."""

REASONS: Final[dict[Uncalibrated, str]] = {
    "model": "no calibration of this model",
    "images": "other images than the calibration was fitted on",
    "answer_format": "another answer form than the calibration was fitted on",
    "evidence": "a kind of evidence that the calibration was not fitted on",
    "sampling": "another number of rollouts or another temperature than the calibration was fitted with",
    "refinement": "other refinement settings than the calibration was fitted with",
    "given_boxes": "imported boxes, and the calibration was fitted on boxes that the model proposed",
    "contradiction": "the evidence contradicts the boxes",
}
"""Why a label has no score, in words."""

_FORM_TITLES: Final[dict[AnswerFormat, str]] = {"multiple_choice": "multiple choice", "free_text": "free text"}


class CalibrationDomain(Record):
    """Labels that a calibration is valid for. Model, kinds of evidence, K and temperature are in ``Calibration``."""

    images: str = Field(pattern=f"^({'|'.join(CALIBRATED_DOMAINS)})?$")
    """Image domain that the evidence in the files must show; empty for a data set of other images."""
    data_set: str = Field(max_length=500)
    """Name of the data set, ``Sample.source``. It decides only if ``images`` is empty, and only for a calibration in
    the project's own folder: a name alone is no evidence."""
    answer_forms: tuple[AnswerFormat, ...] = Field(min_length=1)
    """Answer forms of the questions that it was fitted and tested on."""
    is_refined: bool = False
    """Whether boxes were refined."""

    def describe(self) -> str:
        """The images and answer forms in words."""
        images = DOMAIN_TITLES[self.images] if self.images else f"images of the data set {self.data_set!r}"
        return f"{images}, {' and '.join(_FORM_TITLES[form] for form in self.answer_forms)}"


class LabelOrigin(NamedTuple):
    """Where a label comes from, as far as a calibration's domain depends on it."""

    image_domain: str
    """From ``image_domains.read_image_domain``; empty for photographs."""
    data_set: str
    """``Sample.source``."""
    answer_format: AnswerFormat
    """Of the question."""
    rollouts: int
    """K."""
    temperature: float
    """Of the rollouts."""
    is_refined: bool = False
    """Whether boxes were refined."""
    is_given: bool = False
    """Whether the boxes were imported and only verified."""


def get_answer_form(sample: Sample) -> AnswerFormat:
    """The answer form of a question."""
    return "multiple_choice" if sample.choices else "free_text"


def get_domain_mismatch(domain: CalibrationDomain, origin: LabelOrigin) -> Uncalibrated | None:
    """Why a label is outside of a domain; None inside.

    K and temperature are compared by ``Calibration.score_label``, which holds them.
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
    """Whether the evidence speaks against the boxes that it is about.

    Their own crop gives a wrong answer (``known_answer``) or not that of most rollouts (``agreement``), or no rollout
    answered as wanted. A regression may still add the other evidence up to a high score, because such labels are rare
    where it was fitted; so such a label has no score and is never accepted without review.
    """
    return check.crops_right is False or check.sufficiency == 0.0


def describe_score(label: Label) -> str:
    """The score of a label for people: a number, that it is uncalibrated, or a dash where nothing was measured."""
    if label.score is not None:
        return f"{label.score:.2f}"
    return UNCALIBRATED if label.is_uncalibrated else "–"
