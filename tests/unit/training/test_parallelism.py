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
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hart_studio.errors import InputError
from hart_studio.models.generation import LocalChatModel
from hart_studio.training.parallelism import check_sharding, gather_full_weights, is_sharded, order_samples, step_seed
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
