"""The training methods: a table, not a class tree (method, Sec. 3 and 4).

A method says how the answer turn sees the image and what a reward is worth. Everything else is shared: one loop, one
credit function, one loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from hart_studio.errors import InputError
from hart_studio.records import Protocol

MethodName = Literal["sft", "grpo", "mgpo", "ap_grpo"]
"""Name of a method in configs, chains and run directories."""


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: MethodName
    """Its name in configs."""
    label: str
    """Its name for people."""
    protocol: Protocol
    """How the answer turn sees the image."""
    is_rl: bool
    """Whether it learns from rewards of its own rollouts (Eq. 2, 4); else from given answers (Eq. 8)."""
    has_preference_weights: bool
    """Whether right rollouts weigh more in the policy term and less in the KL term (Eq. 5, 6)."""

    @property
    def has_grounding_turn(self) -> bool:
        """Whether the model is asked to point before it answers."""
        return self.protocol != "direct"


METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        "sft": Method("sft", "SFT", "direct", is_rl=False, has_preference_weights=False),
        "grpo": Method("grpo", "GRPO", "direct", is_rl=True, has_preference_weights=False),
        "mgpo": Method("mgpo", "MGPO", "full_and_crops", is_rl=True, has_preference_weights=False),
        "ap_grpo": Method("ap_grpo", "AP-GRPO", "crops_only", is_rl=True, has_preference_weights=True),
    }
)
"""Every method by name. MGPO differs from GRPO in what the rollout shows, not in its loss."""

DEFAULT_CHAIN: Final = "ap_grpo+sft"
"""HART: AP-GRPO on D_RL, then SFT on D_SFT (paper, Sec. 4.3)."""

CHAINS: Final = (DEFAULT_CHAIN, "ap_grpo", "sft", "sft+ap_grpo", "grpo", "grpo+sft", "mgpo", "mgpo+sft")
"""The chains that can be run: those of Tables 2 and 7 of the paper."""


def parse_chain(text: str = DEFAULT_CHAIN) -> tuple[Method, ...]:
    """The stages of a training, in order.

    Args:
        text: One of ``CHAINS``: names of methods joined by ``+``.

    Raises:
        InputError: If it is none of them.
    """
    if text not in CHAINS:
        raise InputError(f"expected a chain of training stages, one of {', '.join(CHAINS)}, got {text!r}; choose one")
    return tuple(METHODS[name] for name in text.split("+"))
