"""Data parallelism: sample order and seeds of the processes, and weights sharded over them.

Sample order and seeds come from hashes, independent of the number of processes and attempts.

A forward pass gathers sharded weights layer by layer, so all processes must run equally many passes. Training does:
they agree on the number of passes of a micro-batch. Sampling does not, because answers differ in length, so it uses
gathered weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
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


def set_fsdp_precision(accelerator: Accelerator) -> None:
    """Reduce the gradients of FSDP in float32, and leave the outputs of a model as they are.

    accelerate sets both to bfloat16, in which a sum over many processes loses what small gradients add, and a
    log-probability of -2 moves in steps of 0.016.

    Args:
        accelerator: Before it prepares a model. Without FSDP, or in float32, nothing changes.
    """
    plugin = accelerator.state.fsdp_plugin if accelerator.distributed_type == DistributedType.FSDP else None
    if plugin is not None and isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )


@contextmanager
def accumulating_gradients(trainer: Trainer, model: torch.nn.Module) -> Iterator[None]:
    """Back-propagate a pass that is not the last one of its micro-batch.

    Args:
        trainer: The trainer.
        model: Its wrapped model. Whole copies add up gradients and exchange them with the last pass. Shards exchange
            them in every pass: gradients of all weights would not fit.
    """
    if not is_sharded(trainer):
        with trainer.accelerator.no_sync(model):
            yield
        return
    state = trainer.accelerator.gradient_state
    was = state.sync_gradients
    state._set_sync_gradients(False)  # with DeepSpeed, accelerate would run the optimizer after this pass
    try:
        yield
    finally:
        state._set_sync_gradients(was)


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
    root: Any = model._get_fsdp_state()
    root._lazy_init()
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    groups: list[Any] = [part._get_fsdp_state()._fsdp_param_group for part in parts]
    resharding = [group and group.post_forward_mesh_info for group in groups]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part, group, mesh in zip(parts, groups, resharding, strict=True):
            if group is not None:
                group.post_forward_mesh_info = mesh
                group._post_forward_indices.clear()
            part.reshard()
        # The order of forward passes decides what the backward pass prefetches. Sampling runs the parts in an order of
        # its own in each process: left there, one process would gather a part that the others do not.
        root._comm_ctx.post_forward_order.clear()


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


def step_seed(seed: int, step: int, process: int, resampling_round: int = 0) -> int:
    """Seed in [0, 2**32) for sampling of one process in one step, or in one round of resampling of it."""
    parts = (seed, "rollouts", step, process, *([resampling_round] if resampling_round else []))
    return int.from_bytes(_digest(*parts)[:4], "big")


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(":".join(map(str, parts)).encode()).digest()
