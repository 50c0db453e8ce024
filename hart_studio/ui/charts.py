"""The charts of a run, in the order in which they matter for this method."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: Above it.
        lines: (figure, what the legend calls it).
        unit: ``share`` is shown in percent; else a word behind the number.
        note: What a reader should know, below it.
        is_held_out: Whether the figures are those of evaluations.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    unit: str = ""
    note: str = ""
    is_held_out: bool = False


CHARTS: Final = (
    Chart(
        "Reward",
        (("reward", "reward"),),
        "share",
        "Right answers of the rollouts. Under AP-GRPO an answer sees the crops alone: evidence for the boxes.",
    ),
    Chart(
        "Held-out accuracy",
        (("accuracy", "accuracy"),),
        "share",
        "Each stage answers as it trains: AP-GRPO from the crops, MGPO from crops and full image, GRPO and SFT from "
        "the full image.",
        is_held_out=True,
    ),
    Chart(
        "Held-out grounding",
        (("iog_above_0.3", "IoG > 0.3"), ("iou", "mean IoU")),
        "share",
        "Measured with true boxes, which training never sees.",
        is_held_out=True,
    ),
    Chart(
        "Box area",
        (("area_share", "share of the image"),),
        "share",
        "Watch it: IoG can be gained by large boxes, IoU cannot.",
    ),
    Chart("Valid boxes", (("valid_box_rate", "valid"),), "share"),
    Chart(
        "Zero-variance groups",
        (("zero_variance_share", "all rewards equal"),),
        "share",
        "Such a group has no advantage: only the KL term acts on it.",
    ),
    Chart("KL to reference", (("kl_right", "right"), ("kl_wrong", "wrong"), ("kl", "all"))),
    Chart(
        "Mean policy weight mu1", (("mu1_right", "right"), ("mu1_wrong", "wrong")), note="Eq. 5; 1 without preference."
    ),
    Chart("Entropy", (("entropy", "entropy"),), "nats"),
    Chart("Length", (("grounding_tokens", "grounding"), ("answer_tokens", "answer")), "tokens"),
    Chart("Truncated or failed", (("truncated_share", "truncated"), ("failed_share", "failed")), "share"),
    Chart(
        "Step time",
        (("seconds_rollout", "generate"), ("seconds_reference", "reference"), ("seconds_update", "train")),
        "s",
    ),
    Chart(
        "Loss",
        (("loss", "loss"),),
        note="About 0 is normal for GRPO: the advantages of a group add up to 0, and with one update per rollout "
        "the ratio is 1. The reward says whether it learns.",
    ),
    Chart("Gradient norm", (("grad_norm", "norm before clipping"),)),
    Chart("Learning rate", (("learning_rate", "rate"),)),
    Chart("Memory", (("memory_mib", "peak"),), "MiB"),
)


def chart_table() -> list[dict[str, Any]]:
    """The charts as JSON."""
    return [asdict(chart) for chart in CHARTS]
