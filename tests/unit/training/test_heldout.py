from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from hart_studio.algorithms.methods import METHODS
from hart_studio.records import Box, GoldSample
from hart_studio.runs.config import RunConfig
from hart_studio.training.heldout import measure_held_out
from tests.fakes import ScriptedModel


def sample(folder: Path, name: str, *golds: Box) -> GoldSample:
    path = folder / f"{name}.png"
    Image.new("RGB", (200, 100), "white").save(path)
    return GoldSample(
        id=name, image=str(path), question=name, choices=("red", "blue"), answer="A", gold_boxes=tuple(golds)
    )


def test_the_figures_by_hand(tmp_path: Path) -> None:
    # The model points at the left half: thousandths 0 0 500 1000, that is 0 0 100 100 of 200 x 100 pixels.
    inside, half, outside = Box.of((0, 0, 50, 100)), Box.of((50, 0, 150, 100)), Box.of((100, 0, 200, 100))
    samples = [sample(tmp_path, "one", inside, outside), sample(tmp_path, "two", half), sample(tmp_path, "three")]
    broken = samples[0].model_copy(update={"id": "broken", "image": str(tmp_path / "gone.png")})
    model = ScriptedModel(
        grounding='[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]',
        crops_only=["\\boxed{A}", "\\boxed{B}", "\\boxed{A}"],
        direct="\\boxed{A}",
    )
    figures = measure_held_out(model, [*samples, broken], METHODS["ap_grpo"], RunConfig()).figures
    assert figures == pytest.approx(
        {
            "accuracy": 2 / 3,
            "failed_share": 0.25,
            "valid_box_rate": 1.0,
            "area_share": 0.5,
            "iog_above_0.3": 2 / 3,  # all of the first, half of the third, nothing of the second gold box
            "iou": (0.5 + 0.0 + 1 / 3) / 3,
        }
    )
    assert all(call.sampling.temperature == 0 for call in model.calls)
    direct = measure_held_out(model, samples, METHODS["grpo"], RunConfig()).figures
    assert (direct["accuracy"], direct["iou"]) == (1.0, pytest.approx((0.5 + 0.0 + 1 / 3) / 3))


@pytest.mark.parametrize("method", ["ap_grpo", "grpo"])
def test_witnesses_are_kept_with_what_was_seen_and_said(tmp_path: Path, method: str) -> None:
    samples = [sample(tmp_path, name, Box.of((0, 0, 50, 100))) for name in ("one", "two", "three")]
    broken = samples[0].model_copy(update={"id": "broken", "image": str(tmp_path / "gone.png")})
    model = ScriptedModel(
        grounding='[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]', crops_only="\\boxed{A}", direct="\\boxed{A}"
    )
    found = measure_held_out(model, [broken, *samples], METHODS[method], RunConfig(), witnesses=2)
    assert [kept.sample.id for kept in found.witnesses] == ["one", "two"]
    kept = found.witnesses[0]
    (rollout,) = kept.group.rollouts
    assert [turn.kind for turn in rollout.turns] == ["grounding", "answer"]
    assert [box.xyxy for box in rollout.boxes] == [(0, 0, 100, 100)] and rollout.score.value == 1.0
    assert kept.group.credits == () and kept.image_wh == (200, 100) and kept.overview is not None
    assert [len(crops) for crops in kept.crops] == [1]
    assert not hasattr(kept.sample, "gold_boxes")
    assert measure_held_out(model, samples, METHODS[method], RunConfig()).witnesses == []
