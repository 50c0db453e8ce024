"""Labels inside and outside of a calibration's domain."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

import pytest
from pydantic import ValidationError

from hart_studio.labeling.calibration_domain import (
    REASONS,
    CalibrationDomain,
    contradicts,
    describe_score,
    get_answer_form,
    get_domain_mismatch,
)
from hart_studio.labeling.records import BoxCheck, Label, Uncalibrated
from hart_studio.records import Sample
from tests.unit.labeling.conftest import make_check
from tests.unit.labeling.test_calibration import DRAWN, ORIGIN, STREETS


def test_images_decide_by_evidence_and_a_data_set_by_its_name() -> None:
    assert get_domain_mismatch(STREETS, ORIGIN) is None
    assert get_domain_mismatch(DRAWN, ORIGIN._replace(data_set="needle")) == "images"
    assert get_domain_mismatch(DRAWN, ORIGIN._replace(image_domain="needle", data_set="anything")) is None


def test_a_domain_names_images_that_can_be_distinguished() -> None:
    with pytest.raises(ValidationError, match="images"):
        CalibrationDomain(images="photographs", data_set="", answer_forms=("free_text",))
    with pytest.raises(ValidationError, match="answer_forms"):
        CalibrationDomain(images="needle", data_set="", answer_forms=())


def test_a_domain_in_words() -> None:
    assert DRAWN.describe() == "synthetic needle scenes, multiple choice"
    both = STREETS.model_copy(update={"answer_forms": ("free_text", "multiple_choice")})
    assert both.describe() == "images of the dataset 'streets', free text and multiple choice"


def test_the_answer_format_of_a_question() -> None:
    assert get_answer_form(Sample(id="a", image="a", question="?")) == "free_text"
    assert get_answer_form(Sample(id="a", image="a", question="?", choices=("a", "b"))) == "multiple_choice"


@pytest.mark.parametrize(
    ("evidence", "is_against"),
    [
        ({"crops_right": False, "sufficiency": 1.0}, True),
        ({"crops_right": True, "sufficiency": 0.0}, True),
        ({"crops_right": None, "sufficiency": 0.125}, False),
        ({"crops_right": True, "sufficiency": 1.0}, False),
        ({}, False),
    ],
)
def test_evidence_against_the_boxes(evidence: dict[str, object], is_against: bool) -> None:
    assert contradicts(make_check(**evidence)) is is_against


def test_every_reason_has_its_words() -> None:
    assert set(REASONS) == set(get_args(Uncalibrated))


@pytest.mark.parametrize(
    ("score", "check", "text"),
    [
        (0.774, make_check(), "0.77"),
        (None, make_check(), "Uncalibrated"),
        (None, make_check(rollouts=0), "–"),
        (None, None, "–"),
    ],
)
def test_a_score_for_people(score: float | None, check: BoxCheck | None, text: str) -> None:
    label = Label(revision=1, status="proposed", origin="model", score=score, check=check, at=datetime.now(UTC))
    assert describe_score(label) == text
    assert label.is_uncalibrated is (text == "Uncalibrated")
