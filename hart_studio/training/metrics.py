"""Step metrics: means over rollouts, groups and rows, aggregated over micro-batches and processes."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch

from hart_studio.geometry import area_share
from hart_studio.training.rollouts import TrainingGroup

if TYPE_CHECKING:
    from accelerate import Accelerator

STEP_METRICS: Final = (
    "reward",
    "reward_correct",
    "reward_format",
    "reward_area_penalty",
    "frac_reward_zero_std",
    "resampled_share",
    "failed_share",
    "truncated_share",
    "no_box_share",
    "bad_box_share",
    "valid_box_rate",
    "boxes_per_rollout",
    "area_share",
    "mu1",
    "mu1_correct",
    "mu1_wrong",
    "kl",
    "kl_correct",
    "kl_wrong",
    "sampling_logp_gap",
    "sampling_logp_gap_max",
    "clip_ratio",
    "entropy",
    "grounding_tokens",
    "answer_tokens",
    "seconds_rollout",
    "seconds_reference",
    "seconds_update",
    "memory_mib",
)
"""All step metrics, in the order of aggregation across processes. Those that end with ``_max`` are maxima, the others
means."""


class MetricAccumulator:
    """Sums and counts of named metrics in this process, and maxima."""

    def __init__(self, names: Sequence[str] = STEP_METRICS) -> None:
        self._totals = {name: [0.0, 0.0] for name in names if not name.endswith("_max")}
        self._maxima = {name: -math.inf for name in names if name.endswith("_max")}

    def add(self, name: str, value: float, count: float = 1.0) -> None:
        """Add the sum of ``count`` values."""
        total = self._totals[name]
        total[0] += value
        total[1] += count

    def add_maximum(self, name: str, value: float) -> None:
        """Add a value of a metric that is a maximum."""
        self._maxima[name] = max(self._maxima[name], value)

    def total(self, name: str) -> float:
        """Sum of a metric in this process."""
        return self._totals[name][0]

    def values(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Mean or maximum of each metric over all processes; metrics without values are omitted."""
        totals = torch.tensor(list(self._totals.values()), dtype=torch.float64)
        maxima = torch.tensor([list(self._maxima.values())], dtype=torch.float64)
        if accelerator is not None:
            totals = accelerator.reduce(totals.to(accelerator.device), reduction="sum").cpu()
            maxima = accelerator.gather(maxima.to(accelerator.device)).cpu() if self._maxima else maxima
        pairs = zip(self._totals, totals.tolist(), strict=True)
        found = {name: total / count for name, (total, count) in pairs if count}
        largest = zip(self._maxima, maxima.amax(0).tolist(), strict=True)
        return found | {name: value for name, value in largest if value > -math.inf}


def add_group_metrics(metrics: MetricAccumulator, groups: Sequence[TrainingGroup]) -> None:
    """Add the metrics of the rollouts of a step."""
    for group in groups:
        rewards = [reward.total for reward in group.rewards if reward.total is not None]
        if rewards:
            metrics.add("frac_reward_zero_std", float(len(set(rewards)) == 1))
        for index, rollout in enumerate(group.group.rollouts):
            metrics.add("failed_share", float(rollout.outcome == "error"))
            reward = group.rewards[index]
            if reward.total is None or reward.correct is None or group.image_wh is None:
                continue
            metrics.add("reward", reward.total)
            metrics.add("reward_correct", reward.correct)
            metrics.add("reward_format", reward.format)
            metrics.add("reward_area_penalty", reward.area)
            weight = group.group.credits[index].policy_weight
            metrics.add("mu1", weight)
            metrics.add("mu1_correct" if reward.correct == 1.0 else "mu1_wrong", weight)
            metrics.add("truncated_share", float(any(turn.finish_reason == "length" for turn in rollout.turns)))
            metrics.add("no_box_share", float(rollout.outcome == "no_box"))
            metrics.add("bad_box_share", float(rollout.outcome == "bad_box"))
            if rollout.grounding_turn is not None:
                metrics.add("valid_box_rate", float(bool(rollout.boxes)))
                metrics.add("boxes_per_rollout", len(rollout.boxes))
                if rollout.boxes:  # as in the tables: without a box there is no area to average
                    metrics.add("area_share", area_share(rollout.boxes, group.image_wh))
                metrics.add("grounding_tokens", rollout.grounding_turn.completion_tokens)
            if rollout.answer_turn is not None:
                metrics.add("answer_tokens", rollout.answer_turn.completion_tokens)


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU, or of the process on the CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
