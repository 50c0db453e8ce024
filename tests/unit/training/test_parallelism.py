"""Sharded weights: gathered inside the block and sharded again afterwards, in one process with real FSDP2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.utils import DistributedType
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from hart_studio.errors import InputError
from hart_studio.models.generation import LocalChatModel
from hart_studio.training.parallelism import (
    accumulating_gradients,
    check_sharding,
    gather_full_weights,
    is_sharded,
    order_samples,
    set_fsdp_precision,
    step_seed,
)
from hart_studio.training.trainable_model import freeze_vision_tower


class Pair(torch.nn.Module):
    """A part that is sharded by itself, as a layer is, and a rest that belongs to the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.head = torch.nn.Linear(3, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.layer(values))
        return out


@pytest.fixture
def sharded() -> Iterator[Pair]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        model = Pair()
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        fully_shard(model.layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        yield model
    finally:
        dist.destroy_process_group()


def trainer_of(kind: DistributedType, model: Any = None) -> Any:
    return SimpleNamespace(accelerator=SimpleNamespace(distributed_type=kind), model_wrapped=model)


def test_weights_are_whole_inside_and_shards_outside(sharded: Pair) -> None:
    values = torch.ones(2, 3)
    assert all(isinstance(weight, DTensor) for weight in sharded.parameters())
    with gather_full_weights(trainer_of(DistributedType.FSDP, sharded)), torch.no_grad():
        assert not any(isinstance(weight, DTensor) for weight in sharded.parameters())
        inner = sharded.layer(values)  # a part alone, before the whole has ever run
        assert not any(isinstance(weight, DTensor) for weight in sharded.parameters()), "a pass has sharded them again"
        expected = sharded.head(inner)
    assert all(isinstance(weight, DTensor) for weight in sharded.parameters())
    found = sharded(values)
    assert torch.equal(found, expected)
    found.sum().backward()
    assert all(weight.grad is not None for weight in sharded.parameters())


def test_sampling_leaves_no_trace_in_what_a_pass_gathers(sharded: Any) -> None:
    """Processes sample parts in unequal orders; what a backward pass prefetches must not depend on that."""
    values = torch.ones(2, 3)
    sharded(values).sum().backward()
    states = [part._get_fsdp_state() for part in (sharded, sharded.layer)]
    flags = [state._fsdp_param_group.post_forward_mesh_info for state in states]
    assert flags[0] is None and flags[1] is not None, "the whole is kept after a pass, its parts are not"
    with gather_full_weights(trainer_of(DistributedType.FSDP, sharded)), torch.no_grad():
        for _ in range(3):
            sharded.layer(values)
        assert len(states[0]._comm_ctx.post_forward_order) == 3
    assert not states[0]._comm_ctx.post_forward_order
    assert not any(state._fsdp_param_group._post_forward_indices for state in states)
    assert [state._fsdp_param_group.post_forward_mesh_info for state in states] == flags


def test_fsdp_reduces_in_float32_and_leaves_outputs() -> None:
    given = MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16, torch.bfloat16)
    plugin = SimpleNamespace(mixed_precision_policy=given)
    accelerator: Any = SimpleNamespace(distributed_type=DistributedType.FSDP, state=SimpleNamespace(fsdp_plugin=plugin))
    set_fsdp_precision(accelerator)
    assert plugin.mixed_precision_policy == MixedPrecisionPolicy(torch.bfloat16, torch.float32, None)
    plugin.mixed_precision_policy = None  # float32
    set_fsdp_precision(accelerator)
    assert plugin.mixed_precision_policy is None
    set_fsdp_precision(SimpleNamespace(distributed_type=DistributedType.MULTI_GPU))  # type: ignore[arg-type]


def test_an_early_pass_of_shards_runs_no_optimizer() -> None:
    class State:
        sync_gradients = True

        def _set_sync_gradients(self, value: bool) -> None:
            self.sync_gradients = value

    trainer = trainer_of(DistributedType.DEEPSPEED)
    trainer.accelerator.gradient_state = state = State()
    with pytest.raises(RuntimeError), accumulating_gradients(trainer, torch.nn.Identity()):
        assert not state.sync_gradients
        raise RuntimeError
    assert state.sync_gradients


def test_weights_that_are_not_sharded_need_nothing() -> None:
    model = Pair()
    with gather_full_weights(trainer_of(DistributedType.MULTI_GPU, model)):
        assert torch.equal(model(torch.zeros(1, 3)), model.head(model.layer(torch.zeros(1, 3))))
    with (
        pytest.raises(InputError, match="fsdp_version: 2"),
        gather_full_weights(trainer_of(DistributedType.FSDP, model)),
    ):
        pass


@pytest.mark.integration
@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_a_trained_tower_is_refused_in_shards(
    kind: DistributedType, load_tiny: Callable[[str], LocalChatModel]
) -> None:
    model = load_tiny("qwen2_5_vl").model
    was = {name: weight.requires_grad for name, weight in model.named_parameters()}
    check_sharding(trainer_of(DistributedType.MULTI_GPU), model)
    with pytest.raises(InputError, match="Train the language model only"):
        check_sharding(trainer_of(kind), model)
    assert is_sharded(trainer_of(kind)) and not is_sharded(trainer_of(DistributedType.NO))
    try:
        freeze_vision_tower(model)
        check_sharding(trainer_of(kind), model)
    finally:
        for name, weight in model.named_parameters():
            weight.requires_grad_(was[name])


def test_every_pass_holds_every_sample_once_in_another_order() -> None:
    order = order_samples(7, 20, seed=1, first_step=0)
    assert len(order) == 20
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert order[:7] != order[7:14]
    assert max(Counter(order).values()) == 3


def test_the_order_depends_on_the_seed_and_the_stage_only() -> None:
    assert order_samples(9, 9, 1, 0) == order_samples(9, 9, 1, 0)
    assert order_samples(9, 30, 1, 0)[:9] == order_samples(9, 9, 1, 0)
    assert order_samples(9, 9, 1, 0) != order_samples(9, 9, 2, 0) != order_samples(9, 9, 2, 5)


def test_seeds_differ_by_step_and_process_and_fit() -> None:
    seeds = {step_seed(0, step, process) for step in range(50) for process in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert step_seed(0, 3, 1) == step_seed(0, 3, 1)
