"""Weights that are spread over processes: whole for sampling, and what cannot be trained that way.

A pass through sharded weights gathers them layer by layer, so every process must make the same passes. Training does:
one packed pass per micro-batch. Sampling does not, because answers differ in length, so it runs on whole weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, Trainer
from trl.models.utils import unwrap_model_for_generation

from hart_studio.errors import InputError
from hart_studio.training.vision_tower import is_vision_tower_trained


def is_sharded(trainer: Trainer) -> bool:
    """Whether FSDP or DeepSpeed spreads a trainer's weights, or their optimizer's state, over the processes."""
    return trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def check_sharding(trainer: Trainer, model: PreTrainedModel) -> None:
    """Refuse to train a vision tower in shards: it runs once per image, and processes see unequal numbers of them.

    Args:
        trainer: Before it trains.
        model: The model itself, without wrappers.

    Raises:
        InputError: If that was asked for.
    """
    if is_sharded(trainer) and is_vision_tower_trained(model):
        raise InputError(
            "expected a vision tower that stays as it is while FSDP or DeepSpeed spreads the weights, got one that is "
            "trained; train the language model only, or one whole model per GPU (ddp.yaml)"
        )


@contextmanager
def whole_weights(trainer: Trainer) -> Iterator[None]:
    """Gathers the weights that FSDP2 or DeepSpeed has scattered, for sampling inside the block; else does nothing.

    All processes must enter and leave it together; inside, each may run the model as often as it wants.
    """
    kind = trainer.accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED:
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator):
            yield
    elif kind == DistributedType.FSDP:
        with _unsharded(trainer.model_wrapped):
            yield
    else:
        yield


@contextmanager
def _unsharded(model: torch.nn.Module) -> Iterator[None]:
    if not isinstance(model, FSDPModule):
        raise InputError(
            f"expected weights that FSDP2 has sharded, got {type(model).__name__}; set fsdp_version: 2 in the "
            "configuration of accelerate, as in fsdp.yaml"
        )
    # The outermost part must know that it is: sampling may run the tower before anything else.
    model._get_fsdp_state()._lazy_init()
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()
