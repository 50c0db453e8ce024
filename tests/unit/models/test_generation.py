"""Arithmetic of the sampler."""

from __future__ import annotations

import math

import pytest
import torch

from hart_studio.errors import ModelError
from hart_studio.models.generation import memory_errors, sample_token


def test_greedy_takes_the_likeliest() -> None:
    assert sample_token(torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]]), 0.0, None).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("uniform", "expected"),
    [(0.0, 0), (0.499, 0), (0.501, 2), (0.749, 2), (0.751, 3), (1 - 2**-53, 3)],
)
def test_sampling_follows_the_cumulative_probability(uniform: float, expected: int) -> None:
    # Probabilities 1/2, 0, 1/4, 1/4: the second token is never picked, not even at its edge.
    logits = torch.tensor([[math.log(2), -math.inf, 0.0, 0.0]])
    assert sample_token(logits, 1.0, torch.tensor([uniform], dtype=torch.float64)).tolist() == [expected]


def test_a_token_of_zero_probability_at_the_start_is_not_picked_by_zero() -> None:
    logits = torch.tensor([[-math.inf, 0.0, 0.0]])
    assert sample_token(logits, 1.0, torch.zeros(1, dtype=torch.float64)).tolist() == [1]


def test_temperature_divides_the_logits() -> None:
    # At temperature 1/2 odds of 3:1 become 9:1.
    logits = torch.tensor([[math.log(3), 0.0]])
    for uniform, expected in ((0.74, 0), (0.76, 0), (0.89, 0), (0.91, 1)):
        assert sample_token(logits, 0.5, torch.tensor([uniform], dtype=torch.float64)).tolist() == [expected]


def test_frequencies_match_the_softmax() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(3))
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    counts = sample_token(logits.expand(40_000, 50), 1.0, uniform).bincount(minlength=50) / 40_000
    # Standard error is at most sqrt(p / 40000) <= 0.0025 for p <= 1/4.
    assert (counts - logits.softmax(-1)).abs().max() < 0.01


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_names_what_to_turn_down(error: Exception) -> None:
    message = r"Out of memory on cpu.*max pixels.*rollouts.*batch.*max new tokens"
    with pytest.raises(ModelError, match=message), memory_errors(torch.device("cpu")):
        raise error


def test_a_real_failed_allocation_on_the_cpu_is_recognized() -> None:
    with pytest.raises(ModelError, match="Out of memory"), memory_errors(torch.device("cpu")):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), memory_errors(torch.device("cpu")):
        raise RuntimeError("size mismatch")
