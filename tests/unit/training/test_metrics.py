from __future__ import annotations

import pytest
import torch

from hart_studio.records import Box, Credit, Rollout, RolloutGroup, Sample, Score, Turn
from hart_studio.training.metrics import MetricAccumulator, add_group_metrics, peak_memory_mib
from hart_studio.training.rollouts import Reward, TrainingGroup

SAMPLE = Sample(id="s", image="p.png", question="Which?")


def turn(kind: str, tokens: int, finish: str = "stop") -> Turn:
    return Turn.model_validate(
        {
            "kind": kind,
            "prompt": "",
            "image_sizes_wh": (),
            "text": "",
            "finish_reason": finish,
            "prompt_tokens": 1,
            "visual_tokens": 0,
            "completion_tokens": tokens,
            "seconds": 0.0,
        }
    )


def rollout(value: float | None, boxes: tuple[Box, ...], *turns: Turn) -> Rollout:
    return Rollout(
        sample_id="s",
        protocol="crops_only",
        turns=turns,
        boxes=boxes,
        outcome="error" if value is None else "ok",
        score=Score(value=value, extracted=None, expected="A", rule="none"),
    )


def group(values: list[float | None], rollouts: list[Rollout], weights: list[float]) -> TrainingGroup:
    credits = tuple(Credit(advantage=0.0, policy_weight=weight, kl_weight=0.0) for weight in weights)
    return TrainingGroup(
        sample=SAMPLE,
        group=RolloutGroup(sample_id="s", protocol="crops_only", rollouts=tuple(rollouts), credits=credits),
        rewards=tuple(Reward(value, 0.0, 0.0) for value in values),
        sequences=((),) * len(values),
        image_wh=(100, 100),
    )


def test_the_figures_of_two_groups() -> None:
    half = Box.from_xyxy((0, 0, 100, 50))
    mixed = group(
        [1.0, 0.0, None],
        [
            rollout(1.0, (half, half), turn("grounding", 10), turn("answer", 4)),
            rollout(0.0, (), turn("grounding", 20, "length")),
            rollout(None, ()),
        ],
        [1.3, 0.7, 0.0],
    )
    equal = group([0.0], [rollout(0.0, (), turn("grounding", 30))], [1.0])
    metrics = MetricAccumulator()
    add_group_metrics(metrics, [mixed, equal])
    means = metrics.values()
    expected = {
        "reward": 1 / 3,
        "reward_correct": 1 / 3,
        "frac_reward_zero_std": 0.5,
        "failed_share": 0.25,
        "truncated_share": 1 / 3,
        "valid_box_rate": 1 / 3,
        "boxes_per_rollout": 2 / 3,
        "area_share": 0.5,  # of the one rollout with boxes
        "mu1": 1.0,
        "mu1_correct": 1.3,
        "mu1_wrong": 0.85,
        "grounding_tokens": 20.0,
        "answer_tokens": 4.0,
    }
    assert {name: means[name] for name in expected} == pytest.approx(expected)
    assert "kl" not in means, "a figure without values is no zero"


def test_sums_and_counts_are_apart() -> None:
    metrics = MetricAccumulator(("a", "b"))
    metrics.add("a", 3.0, 0.0)
    metrics.add("a", 1.0)
    assert metrics.total("a") == 4.0
    assert metrics.values() == {"a": 4.0}
    with pytest.raises(KeyError):
        metrics.add("c", 1.0)


def test_memory_is_that_of_this_process() -> None:
    assert 10 < peak_memory_mib(torch.device("cpu")) < 1_000_000


def test_maxima_are_not_averaged() -> None:
    metrics = MetricAccumulator(("gap", "gap_max"))
    assert metrics.values() == {}
    for value in (0.1, 0.5, 0.3):
        metrics.add("gap", value)
        metrics.add_maximum("gap_max", value)
    assert metrics.values() == {"gap": pytest.approx(0.3), "gap_max": pytest.approx(0.5)}

    class Two:
        """Two processes, of which the other one has seen a larger gap."""

        device = torch.device("cpu")

        def reduce(self, values: torch.Tensor, reduction: str) -> torch.Tensor:
            return 2 * values

        def gather(self, values: torch.Tensor) -> torch.Tensor:
            return torch.cat([values, values + 1])

    assert metrics.values(Two()) == {"gap": pytest.approx(0.3), "gap_max": pytest.approx(1.5)}  # type: ignore[arg-type]
    assert MetricAccumulator(("gap",)).values() == {}
