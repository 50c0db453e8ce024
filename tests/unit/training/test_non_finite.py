from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Trainer

from hart_studio.training.non_finite import (
    GRADIENT,
    LOSS,
    WEIGHTS,
    NonFiniteSteps,
    are_finite,
    describe_failure,
    describe_non_finite,
)


class OneOfTwo:
    """An accelerator of two processes; the other one has the given flags."""

    device = torch.device("cpu")

    def __init__(self, others: list[float]) -> None:
        self.others = others

    def reduce(self, mine: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        return mine + torch.tensor(self.others[: len(mine)])


def make_steps(monkeypatch: pytest.MonkeyPatch, loss: float, norm: float | None, others: list[float]) -> Any:
    """The part of a trainer with one weight and its gradient, at the end of a step."""
    monkeypatch.setattr(Trainer, "__init__", lambda self: None)
    monkeypatch.setattr(Trainer, "_get_grad_norm", lambda self, model, grad_norm=None: grad_norm)
    steps: Any = NonFiniteSteps()
    steps.model = torch.nn.Linear(1, 1)
    steps.model.weight.grad = torch.ones(1, 1)
    steps.accelerator = OneOfTwo(others)
    steps._tr_loss = torch.tensor(loss)
    assert steps._get_grad_norm(steps.model, grad_norm=norm) is norm
    return steps


@pytest.mark.parametrize(
    ("loss", "norm", "others", "found"),
    [
        (1.0, 1.0, [0.0, 0.0], ()),
        (1.0, None, [0.0, 0.0], ()),
        (math.nan, 1.0, [0.0, 0.0], (LOSS,)),
        (-math.inf, math.inf, [0.0, 0.0], (LOSS, GRADIENT)),
        (1.0, math.nan, [1.0, 1.0], (LOSS, GRADIENT)),
        (1.0, 1.0, [1.0, 0.0], (LOSS,)),
    ],
)
def test_every_process_drops_its_gradients_when_any_has_a_non_finite_step(
    monkeypatch: pytest.MonkeyPatch, loss: float, norm: float | None, others: list[float], found: tuple[str, ...]
) -> None:
    steps = make_steps(monkeypatch, loss, norm, others)
    assert steps.non_finite == found
    assert (steps.model.weight.grad is None) == bool(found)


def test_weights_of_any_process_are_reported_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = make_steps(monkeypatch, 1.0, 1.0, [0.0, 0.0])
    assert steps.check_weights() == ()
    steps.accelerator.others = [1.0]
    assert steps.check_weights() == (WEIGHTS,)
    steps = make_steps(monkeypatch, math.nan, 1.0, [0.0, 0.0])
    steps.model.bias.data[0] = math.nan
    assert steps.check_weights() == steps.non_finite == (LOSS, WEIGHTS)
    steps.model.requires_grad_(requires_grad=False)
    steps.non_finite = ()
    assert steps.check_weights() == (), "weights that are not trained are not the training's fault"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("value", "is_finite"), [(3e38, True), (math.inf, False), (-math.inf, False), (math.nan, False)]
)
def test_a_large_number_is_finite_and_one_bad_number_is_enough(
    dtype: torch.dtype, value: float, is_finite: bool
) -> None:
    weight = torch.ones(3, 4, dtype=dtype)
    weight[1, 2] = value
    assert are_finite([torch.ones(2), torch.empty(0), weight]) == is_finite


def test_shards_are_read_where_they_lie() -> None:
    broken, whole = torch.tensor([math.nan]), torch.zeros(2)
    fsdp: Any = SimpleNamespace(to_local=lambda: broken)
    zero: Any = SimpleNamespace(ds_tensor=broken)
    assert not are_finite([whole, fsdp]) and not are_finite([zero])
    assert are_finite([]) and are_finite([torch.empty(0)])


def test_the_reason_says_what_where_and_what_to_do() -> None:
    assert describe_non_finite((LOSS,)) == "loss"
    assert describe_non_finite((LOSS, GRADIENT, WEIGHTS)) == "loss, gradient norm and weights"
    message = describe_failure(
        (LOSS, GRADIENT), 12, 10, rate_setting="optim.sft_learning_rate", rate=1e-5, run_id="R", saved=9
    )
    assert message.startswith("step 12: loss and gradient norm not finite for 3 steps in a row, since step 10. ")
    assert "step 9 is the last finite checkpoint" in message and "optim.sft_learning_rate (now 1e-05)" in message
    message = describe_failure((WEIGHTS,), 1, 1, rate_setting="x", rate=0.1, run_id="R", saved=None)
    assert message.startswith("step 1: weights not finite. ") and "no checkpoint was saved before" in message
    assert "--resume R continues from the beginning" in message
