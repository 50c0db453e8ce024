"""Detect steps whose loss, gradient norm or weights are not finite, and skip their updates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from transformers import Trainer

from hart_studio.errors import HartError

LOSS: Final = "loss"
GRADIENT: Final = "gradient norm"
WEIGHTS: Final = "weights"


class NonFiniteError(HartError):
    """Training stopped because loss, gradient norm or weights were not finite."""


class NonFiniteSteps(Trainer):
    """Trainer mixin that skips non-finite updates; list it before the trainer base class.

    One NaN in the gradient would make every weight NaN, because gradient clipping scales by a NaN norm.
    With DeepSpeed the update is part of the backward pass and cannot be skipped; such steps are detected only.

    Attributes:
        non_finite: What was not finite in the latest step: any of ``LOSS``, ``GRADIENT``, ``WEIGHTS``, the same on
            every process.
    """

    non_finite: tuple[str, ...] = ()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The gradient norm before clipping; gradients are dropped if it or the loss is not finite."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        is_loss_finite = bool(torch.isfinite(self._tr_loss).all())  # the sum over the micro-batches of this step
        is_norm_finite = norm is None or math.isfinite(float(norm))
        loss, gradient = self._any_process([not is_loss_finite, not is_norm_finite])
        self.non_finite = (LOSS,) * loss + (GRADIENT,) * gradient
        if self.non_finite:
            model.zero_grad(set_to_none=True)  # AdamW then leaves weights and moments unchanged
        return norm

    def check_weights(self) -> tuple[str, ...]:
        """Add the trained weights to ``non_finite``, after the update; every process must call it."""
        (are_broken,) = self._any_process([not are_finite(weight for weight in _trained(self.model))])
        if are_broken:
            self.non_finite = (*self.non_finite, WEIGHTS)
        return self.non_finite

    def _any_process(self, flags: Sequence[bool]) -> list[bool]:
        """Whether each flag is set on any process."""
        local_flags = torch.tensor([float(flag) for flag in flags], device=self.accelerator.device)
        return [total > 0 for total in self.accelerator.reduce(local_flags, reduction="sum").tolist()]


@torch.no_grad()
def are_finite(weights: Iterable[torch.Tensor]) -> bool:
    """Whether all numbers of some tensors are finite, without a copy of any; for sharded tensors, the local shard."""
    shards = [_shard_of(weight) for weight in weights]
    # The maximum norm does not overflow, and a NaN anywhere makes it NaN.
    peaks = [torch.linalg.vector_norm(shard, ord=math.inf).float() for shard in shards if shard.numel()]
    return not peaks or bool(torch.isfinite(torch.stack(peaks)).all())


def describe_non_finite(found: Sequence[str]) -> str:
    """Format the list, such as ``loss and gradient norm``."""
    return " and ".join((", ".join(found[:-1]), found[-1]) if len(found) > 1 else found)


def describe_failure(
    found: Sequence[str], step: int, first_step: int, *, rate_setting: str, rate: float, run_id: str, saved: int | None
) -> str:
    """Describe why a run with non-finite steps failed, and what to do.

    Args:
        found: What was not finite in the last step.
        step: The last step.
        first_step: The first of the consecutive non-finite steps.
        rate_setting: Name of the learning rate of the stage.
        rate: Its value.
        run_id: The run.
        saved: Step of the newest checkpoint; None = none.
    """
    count = step - first_step + 1
    since = f" for {count} steps in a row, since step {first_step}" if count > 1 else ""
    kept = f"step {saved} is the last finite checkpoint" if saved is not None else "no checkpoint was saved before"
    return (
        f"step {step}: {describe_non_finite(found)} not finite{since}. Their updates were skipped, and {kept}. Lower "
        f"{rate_setting} (now {rate:g}) or optim.max_grad_norm, raise optim.warmup_steps, or set model.dtype=float32, "
        f"in a new run from the settings of this one (--config). --resume {run_id} continues "
        f"{'from that checkpoint' if saved is not None else 'from the beginning'} with the same settings."
    )


def _trained(model: Any) -> Iterable[torch.Tensor]:
    return (weight for weight in model.parameters() if weight.requires_grad)


def _shard_of(weight: Any) -> torch.Tensor:
    """Local part of a weight: all of it, or the shard of FSDP2 or ZeRO-3."""
    local = weight.to_local() if hasattr(weight, "to_local") else getattr(weight, "ds_tensor", weight)
    return torch.as_tensor(local).detach()
