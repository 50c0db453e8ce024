"""Data parallelism: sample order and seeds of the processes, and weights sharded over them.

Sample order and seeds come from hashes, independent of the number of processes and attempts.

A forward pass gathers sharded weights layer by layer, so all processes must run the same passes. Training does:
one packed pass per micro-batch. Sampling does not, because answers differ in length, so it uses gathered weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, Trainer
from trl.models.utils import unwrap_model_for_generation

from hart_studio.errors import InputError
from hart_studio.training.trainable_model import is_vision_tower_trained


def is_sharded(trainer: Trainer) -> bool:
    """Whether FSDP or DeepSpeed shards the weights or the optimizer state of a trainer."""
    return trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def check_sharding(trainer: Trainer, model: PreTrainedModel) -> None:
    """Refuse to train a sharded vision tower: it runs once per image, and processes have unequal numbers of images.

    Args:
        trainer: The trainer, before training.
        model: The model itself, without wrappers.

    Raises:
        InputError: If the vision tower is trained and sharded.
    """
    if is_sharded(trainer) and is_vision_tower_trained(model):
        raise InputError(
            "The vision tower cannot be trained with FSDP or DeepSpeed sharding. "
            "Train the language model only, or use one complete model per GPU (ddp.yaml)."
        )


@contextmanager
def gather_full_weights(trainer: Trainer) -> Iterator[None]:
    """Gather weights sharded by FSDP2 or DeepSpeed for sampling inside the block; otherwise do nothing.

    All processes must enter and leave it together; inside, each may run the model any number of times.
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
            f"Only FSDP2 is supported, got {type(model).__name__}. Set fsdp_version: 2 in the "
            "accelerate config, as in fsdp.yaml."
        )
    # Mark the root module: sampling may run the vision tower first.
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


def order_samples(count: int, wanted: int, seed: int, first_step: int) -> list[int]:
    """Indices of samples in epochs, each in another order.

    Args:
        count: Number of samples, at least 1.
        wanted: Number of indices to return.
        seed: Seed of the run.
        first_step: First step of the stage, so that two stages with the same samples differ.
    """
    passes = -(-wanted // count)
    order = [
        index
        for number in range(passes)
        for _, index in sorted((_digest(seed, "order", first_step, number, index), index) for index in range(count))
    ]
    return order[:wanted]


def step_seed(seed: int, step: int, process: int) -> int:
    """Seed in [0, 2**32) for sampling of one process in one step."""
    return int.from_bytes(_digest(seed, "rollouts", step, process)[:4], "big")


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(":".join(map(str, parts)).encode()).digest()
