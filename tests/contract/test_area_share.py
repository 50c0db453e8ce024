"""The mean area share is always over the questions with a valid box."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart_studio.algorithms.methods import METHODS
from hart_studio.evaluation.grounding_metrics import list_area_shares, measure_grounding
from hart_studio.evaluation.job import compute_metrics
from hart_studio.evaluation.measurement import measure
from hart_studio.evaluation.needle_card import summarize
from hart_studio.evaluation.records import SampleResult
from hart_studio.evaluation.statistics import draw_resamples
from hart_studio.experiments.miniature.study_folder import StudyResults, VariantResults
from hart_studio.experiments.miniature.tables import table_6
from hart_studio.experiments.miniature.variants import VARIANTS
from hart_studio.records import Box, GoldSample
from hart_studio.runs.config import RunConfig
from hart_studio.training.held_out_evaluation import evaluate_held_out
from tests.evaluations import draw_image
from tests.fakes import ScriptedModel

BOXES = ['[{"bbox_2d": [0, 0, 500, 1000]}]', '[{"bbox_2d": [0, 0, 100, 1000]}]', "nowhere", "nowhere"]
"""Half of the image, a tenth of it, and nothing twice: 0.3 on the average of those with a box, 0.15 of all."""


@pytest.fixture
def samples(tmp_path: Path) -> list[GoldSample]:
    path = draw_image(tmp_path / "sign.png")
    return [
        GoldSample(
            id=f"q{n}", image=str(path), question=f"Which is sign {n}?", choices=("a", "b"), answer="A",
            category="detail", gold_boxes=(Box.from_xyxy((0.0, 0.0, 160.0, 1200.0)),),
        )
        for n in range(4)
    ]  # fmt: skip


@pytest.fixture
def records(samples: list[GoldSample]) -> list[SampleResult]:
    found = list(measure(make_model(), samples))
    assert [record.area_share for record in found] == [0.5, pytest.approx(0.1), 0.0, 0.0]
    return found


def make_model() -> ScriptedModel:
    answer = "\\boxed{A}"
    return ScriptedModel(grounding=BOXES, crops_only=answer, direct=answer, full_and_crops=answer)


def test_evaluations_cards_and_the_study_agree(records: list[SampleResult]) -> None:
    assert list_area_shares(records) == [0.5, pytest.approx(0.1)]
    grounding = measure_grounding(records)
    assert grounding is not None
    assert (grounding.area_share, grounding.usable) == (pytest.approx(0.3), 0.5)
    assert compute_metrics(records)["area_share"] == pytest.approx(0.3)
    card = summarize(records, [1.0] * 4)["grounding, mean area share"]
    assert (card["mean"], card["count"]) == (pytest.approx(0.3), 2)
    cell = VARIANTS["base"]
    measured = {cell.name: VariantResults(cell, {0: records})}
    study = StudyResults([cell], measured, {}, draw_resamples(4, 50), ["detail"] * 4)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table_6(study).splitlines()]
    assert rows[2][rows[0].index("mean area share, %")] == "30.0"


def test_the_held_out_questions_of_a_training_agree(samples: list[GoldSample]) -> None:
    found = evaluate_held_out(make_model(), samples, METHODS["ap_grpo"], RunConfig())
    assert found is not None
    assert (found["area_share"], found["valid_box_rate"]) == (pytest.approx(0.3), 0.5)


def test_without_any_box_there_is_no_area(samples: list[GoldSample]) -> None:
    blind = ScriptedModel(grounding="nowhere", direct="\\boxed{A}")
    records = list(measure(blind, samples))
    grounding = measure_grounding(records)
    assert grounding is not None and grounding.area_share is None
    assert "area_share" not in compute_metrics(records)
    assert "grounding, mean area share" not in summarize(records, [1.0] * 4)
    found = evaluate_held_out(blind, samples, METHODS["ap_grpo"], RunConfig())
    assert found is not None and "area_share" not in found
