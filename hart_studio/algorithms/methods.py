"""Table of training methods (docs/concept.md, AP-GRPO).

A method defines the protocol of the answer turn and the credit of a reward. Everything else is shared: one loop, and
one credit function and one loss of the methods that learn from rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from hart_studio.errors import InputError
from hart_studio.records import Protocol

MethodName = Literal["sft", "grpo", "mgpo", "ap_grpo"]
"""Name of a method in configs, stage sequences and run directories."""

StageSequence = Literal["ap_grpo", "ap_grpo+sft", "sft+ap_grpo", "grpo", "grpo+sft", "mgpo", "mgpo+sft", "sft"]
"""Stages of a training run, in order, joined by ``+``."""


KlEstimator = Literal["k1", "k2", "k3"]
"""Estimator of KL(policy || reference) from a sampled token (J. Schulman, "Approximating KL Divergence")."""


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: MethodName
    """Name in configs."""
    label: str
    """Display name."""
    protocol: Protocol
    """Protocol of the answer turn."""
    is_rl: bool
    """Whether it learns from rewards of its own rollouts (Eq. 2, 4); otherwise from given answers (Eq. 8)."""
    has_preference_weights: bool
    """Whether right rollouts weigh more in the policy term and less in the KL term (Eq. 5, 6)."""

    @property
    def has_grounding_turn(self) -> bool:
        """Whether a grounding turn precedes the answer turn."""
        return self.protocol != "direct"


METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        "sft": Method("sft", "SFT", "direct", is_rl=False, has_preference_weights=False),
        "grpo": Method("grpo", "GRPO", "direct", is_rl=True, has_preference_weights=False),
        "mgpo": Method("mgpo", "MGPO", "full_and_crops", is_rl=True, has_preference_weights=False),
        "ap_grpo": Method("ap_grpo", "AP-GRPO", "crops_only", is_rl=True, has_preference_weights=True),
    }
)
"""Every method by name. MGPO differs from GRPO in the images of the rollout, not in the loss."""

DEFAULT_STAGES: Final[StageSequence] = "ap_grpo+sft"
"""HART: AP-GRPO on D_RL, then SFT on D_SFT (paper, Sec. 4.3)."""

STAGE_SEQUENCE_TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ap_grpo": "AP-GRPO",
        "ap_grpo+sft": "AP-GRPO, then SFT (the paper's recipe)",
        "sft+ap_grpo": "SFT, then AP-GRPO",
        "grpo": "GRPO",
        "grpo+sft": "GRPO, then SFT",
        "mgpo": "MGPO",
        "mgpo+sft": "MGPO, then SFT",
        "sft": "SFT",
    }
)
"""Title of each sequence of stages, in the order in which they are offered."""

STAGE_SEQUENCES: Final[tuple[StageSequence, ...]] = get_args(StageSequence)
"""The sequences of stages that can be run: those of Tables 2 and 7 of the paper."""


def parse_stages(text: str = DEFAULT_STAGES) -> tuple[Method, ...]:
    """Parse names of training stages to their methods, in order.

    Args:
        text: One of ``STAGE_SEQUENCES``: names of methods joined by ``+``.

    Raises:
        InputError: If the sequence is unknown.
    """
    if text not in STAGE_SEQUENCES:
        raise InputError(f"Unknown training stages {text!r}. Use one of {', '.join(STAGE_SEQUENCES)}")
    return tuple(METHODS[name] for name in text.split("+"))
