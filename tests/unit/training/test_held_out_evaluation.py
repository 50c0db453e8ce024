from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from hart_studio.algorithms.methods import METHODS
from hart_studio.records import Box, GoldSample
from hart_studio.runs.config import RunConfig
from hart_studio.runs.rollouts import GroupImages
from hart_studio.training.held_out_evaluation import BATCH_SIZE, evaluate_held_out
from tests.fakes import ScriptedModel


def sample(folder: Path, name: str, *golds: Box) -> GoldSample:
    path = folder / f"{name}.png"
    Image.new("RGB", (200, 100), "white").save(path)
    return GoldSample(
        id=name, image=str(path), question=name, choices=("red", "blue"), answer="A", gold_boxes=tuple(golds)
    )


def measure(*given: Any, **options: Any) -> dict[str, float]:
    found = evaluate_held_out(*given, **options)
    assert found is not None, "no one asked it to end early"
    return found


def test_the_figures_by_hand(tmp_path: Path) -> None:
    # The model points at the left half: thousandths 0 0 500 1000, that is 0 0 100 100 of 200 x 100 pixels.
    inside, half, outside = (
        Box.from_xyxy((0, 0, 50, 100)),
        Box.from_xyxy((50, 0, 150, 100)),
        Box.from_xyxy((100, 0, 200, 100)),
    )
    samples = [sample(tmp_path, "one", inside, outside), sample(tmp_path, "two", half), sample(tmp_path, "three")]
    broken = samples[0].model_copy(update={"id": "broken", "image": str(tmp_path / "gone.png")})
    model = ScriptedModel(
        grounding='[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]',
        crops_only=["\\boxed{A}", "\\boxed{B}", "\\boxed{A}"],
        direct="\\boxed{A}",
    )
    figures = measure(model, [*samples, broken], METHODS["ap_grpo"], RunConfig())
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
    direct = measure(model, samples, METHODS["grpo"], RunConfig())
    assert (direct["accuracy"], direct["iou"]) == (1.0, pytest.approx((0.5 + 0.0 + 1 / 3) / 3))


@pytest.mark.parametrize("method", ["ap_grpo", "grpo"])
def test_witnesses_are_kept_with_what_was_seen_and_said(tmp_path: Path, method: str) -> None:
    samples = [sample(tmp_path, name, Box.from_xyxy((0, 0, 50, 100))) for name in ("one", "two", "three")]
    broken = samples[0].model_copy(update={"id": "broken", "image": str(tmp_path / "gone.png")})
    model = ScriptedModel(
        grounding='[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]', crops_only="\\boxed{A}", direct="\\boxed{A}"
    )
    records: list[list[GroupImages]] = []
    measure(model, [broken, *samples], METHODS[method], RunConfig(), recorded_samples=2, record=records.append)
    (recorded,) = records
    assert [kept.sample.id for kept in recorded] == ["one", "two"]
    kept = recorded[0]
    (rollout,) = kept.group.rollouts
    assert [turn.kind for turn in rollout.turns] == ["grounding", "answer"]
    assert [box.xyxy for box in rollout.boxes] == [(0, 0, 100, 100)] and rollout.score.value == 1.0
    assert kept.group.credits == () and kept.image_wh == (200, 100) and kept.overview is not None
    assert [len(crops) for crops in kept.crops] == [1]
    assert not hasattr(kept.sample, "gold_boxes")
    measure(model, samples, METHODS[method], RunConfig(), record=records.append)
    assert len(records) == 1, "none were asked for"


@pytest.mark.parametrize(
    ("count", "broken", "expected"), [(2, 0, 1), (BATCH_SIZE + 2, 0, 2), (2, 2 * BATCH_SIZE, 3), (4, 0, 0)]
)
def test_rollouts_are_recorded_as_soon_as_they_are_measured(
    tmp_path: Path, count: int, broken: int, expected: int
) -> None:
    """``expected``: batches begun when the record is written; 0 = after the last one, with fewer than wanted."""
    one = sample(tmp_path, "one")
    gone = one.model_copy(update={"image": str(tmp_path / "gone.png")})
    total = 3 if not expected else 3 * BATCH_SIZE
    samples = [(gone if number < broken else one).model_copy(update={"id": str(number)}) for number in range(total)]
    batches: list[int] = []
    recorded: list[tuple[int, int]] = []
    measure(
        ScriptedModel(grounding="[]", crops_only="\\boxed{A}"), samples, METHODS["ap_grpo"], RunConfig(),
        recorded_samples=count, should_continue=lambda done: batches.append(done) is None,
        record=lambda groups: recorded.append((len(batches), len(groups))),
    )  # fmt: skip
    assert recorded == [(expected or 1, count if expected else 3)]


def test_between_batches_it_says_how_far_it_is_and_ends_when_requested(tmp_path: Path) -> None:
    one = sample(tmp_path, "one", Box.from_xyxy((0, 0, 50, 100)))
    samples = [one.model_copy(update={"id": str(number)}) for number in range(2 * BATCH_SIZE + 3)]
    boxes = '[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]'
    counts: list[int] = []
    model = ScriptedModel(grounding=boxes, crops_only="\\boxed{A}")
    found = measure(
        model, samples, METHODS["ap_grpo"], RunConfig(), should_continue=lambda done: counts.append(done) is None
    )
    assert counts == [0, BATCH_SIZE, 2 * BATCH_SIZE] and found["accuracy"] == 1.0
    calls = len(model.calls)
    model = ScriptedModel(grounding=boxes, crops_only="\\boxed{A}")
    assert (
        evaluate_held_out(
            model, samples, METHODS["ap_grpo"], RunConfig(), should_continue=lambda done: done < BATCH_SIZE
        )
        is None
    )
    assert 0 < len(model.calls) < calls, "one batch, not all"


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_every_process_asks_equally_often(tmp_path: Path, processes: int) -> None:
    one = sample(tmp_path, "one")
    samples = [one.model_copy(update={"id": str(number)}) for number in range(BATCH_SIZE * processes + 1)]
    requests: list[list[int]] = []
    for rank in range(processes):
        asked: list[int] = []
        share = SimpleNamespace(process_index=rank, num_processes=processes)
        model = ScriptedModel(grounding="[]", crops_only="\\boxed{A}")
        # The last answer ends it before figures are added up over processes, which are not there.
        answers = iter([True, False])

        def should_continue(done: int, asked: list[int] = asked, answers: Iterator[bool] = answers) -> bool:
            asked.append(done)
            return next(answers)

        assert (
            evaluate_held_out(
                model, samples, METHODS["ap_grpo"], RunConfig(), accelerator=share, should_continue=should_continue
            )
            is None
        )
        requests.append(asked)
    assert requests == [[0, BATCH_SIZE * processes]] * processes
