"""Chart definitions of a run, most important first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: Title.
        lines: (metric, legend label).
        unit: ``share`` is shown in percent; other units follow the number.
        note: Caption.
        is_held_out: Whether the metrics come from evaluations.
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
        "Mean total reward. In AP-GRPO, answers use the crops only.",
    ),
    Chart(
        "Held-out accuracy",
        (("accuracy", "accuracy"),),
        "share",
        "Uses the protocol of the training stage: crops for AP-GRPO, crops and full image for MGPO, full image for "
        "GRPO and SFT.",
        is_held_out=True,
    ),
    Chart(
        "Held-out grounding",
        (("iog_above_0.3", "IoG > 0.3"), ("iou", "mean IoU")),
        "share",
        "Measured with gold boxes, which training never uses. IoG: intersection over gold area (share of the gold box "
        "that is covered).",
        is_held_out=True,
    ),
    Chart(
        "Box area",
        (("area_share", "share of the image"),),
        "share",
        "Large boxes raise IoG but not IoU.",
    ),
    Chart("Valid boxes", (("valid_box_rate", "valid"),), "share"),
    Chart(
        "Zero-variance groups",
        (("zero_variance_share", "all rewards equal"),),
        "share",
        "All advantages in such a group are 0: only the KL term trains.",
    ),
    Chart("KL to reference", (("kl_right", "correct"), ("kl_wrong", "wrong"), ("kl", "all"))),
    Chart(
        "Mean policy weight mu1",
        (("mu1_right", "correct"), ("mu1_wrong", "wrong")),
        note="Policy weight of Eq. 5. Always 1 if preference scale k = 0 or the method is not AP-GRPO.",
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
        note="Values near 0 are normal for GRPO: the advantages of a group sum to 0, and the ratio is 1 with one "
        "update per rollout. Use the reward to judge progress.",
    ),
    Chart("Gradient norm", (("grad_norm", "norm before clipping"),)),
    Chart("Learning rate", (("learning_rate", "rate"),)),
    Chart("Memory", (("memory_mib", "peak"),), "MiB"),
)


def chart_table() -> list[dict[str, Any]]:
    """The charts as JSON."""
    return [asdict(chart) for chart in CHARTS]
