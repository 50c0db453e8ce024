"""The figures of a step: means over rollouts, groups and rows, added up over micro-batches and processes."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch

from hart_studio.geometry import area_share
from hart_studio.training.rollouts import RolledGroup

if TYPE_CHECKING:
    from accelerate import Accelerator

STEP_FIGURES: Final = (
    "reward",
    "reward_correct",
    "reward_format",
    "reward_area_penalty",
    "zero_variance_share",
    "failed_share",
    "truncated_share",
    "no_box_share",
    "bad_box_share",
    "valid_box_rate",
    "boxes_per_rollout",
    "area_share",
    "mu1",
    "mu1_right",
    "mu1_wrong",
    "kl",
    "kl_right",
    "kl_wrong",
    "entropy",
    "grounding_tokens",
    "answer_tokens",
    "seconds_rollout",
    "seconds_reference",
    "seconds_update",
    "memory_mib",
)
"""Every figure that a step can have; the order in which processes add them up."""


class Tally:
    """Sums and counts of named figures in this process."""

    def __init__(self, names: Sequence[str] = STEP_FIGURES) -> None:
        self._totals = {name: [0.0, 0.0] for name in names}

    def add(self, name: str, value: float, count: float = 1.0) -> None:
        """Add the sum of ``count`` values."""
        total = self._totals[name]
        total[0] += value
        total[1] += count

    def total(self, name: str) -> float:
        """Sum of a figure in this process."""
        return self._totals[name][0]

    def means(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Mean of each figure over all processes; a figure without values is left out."""
        totals = torch.tensor(list(self._totals.values()), dtype=torch.float64)
        if accelerator is not None:
            totals = accelerator.reduce(totals.to(accelerator.device), reduction="sum").cpu()
        pairs = zip(self._totals, totals.tolist(), strict=True)
        return {name: total / count for name, (total, count) in pairs if count}


def count_groups(tally: Tally, groups: Sequence[RolledGroup]) -> None:
    """Add what the rollouts of a step were like."""
    for group in groups:
        rewards = [reward.total for reward in group.rewards if reward.total is not None]
        if rewards:
            tally.add("zero_variance_share", float(len(set(rewards)) == 1))
        for index, rollout in enumerate(group.group.rollouts):
            tally.add("failed_share", float(rollout.outcome == "error"))
            reward = group.rewards[index]
            if reward.total is None or reward.correct is None or group.image_wh is None:
                continue
            tally.add("reward", reward.total)
            tally.add("reward_correct", reward.correct)
            tally.add("reward_format", reward.format)
            tally.add("reward_area_penalty", reward.area)
            weight = group.group.credits[index].policy_weight
            tally.add("mu1", weight)
            tally.add("mu1_right" if reward.correct == 1.0 else "mu1_wrong", weight)
            tally.add("truncated_share", float(any(turn.finish_reason == "length" for turn in rollout.turns)))
            tally.add("no_box_share", float(rollout.outcome == "no_box"))
            tally.add("bad_box_share", float(rollout.outcome == "bad_box"))
            if rollout.grounding_turn is not None:
                tally.add("valid_box_rate", float(bool(rollout.boxes)))
                tally.add("boxes_per_rollout", len(rollout.boxes))
                if rollout.boxes:  # as in the tables: no box covers nothing, and is no small one
                    tally.add("area_share", area_share(rollout.boxes, group.image_wh))
                tally.add("grounding_tokens", rollout.grounding_turn.completion_tokens)
            if rollout.answer_turn is not None:
                tally.add("answer_tokens", rollout.answer_turn.completion_tokens)


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held so far in MiB: of the GPU, or on the CPU of the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
