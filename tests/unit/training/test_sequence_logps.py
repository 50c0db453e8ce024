"""Log-probabilities compared with the plain formula in float64."""

from __future__ import annotations

import math

import pytest
import torch

from hart_studio.training import sequence_logps
from hart_studio.training.sequence_logps import entropies, label_logps


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_logps, "ROWS", 3)


def test_by_hand() -> None:
    logits = torch.tensor([[math.log(6), math.log(2), 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    labels = torch.tensor([1, 3])
    assert label_logps(logits, labels, 1.0).tolist() == pytest.approx([math.log(0.2), math.log(0.25)])
    # Temperature 1/2 squares the odds: 36, 4, 1, 1.
    assert label_logps(logits, labels, 0.5).tolist() == pytest.approx([math.log(4 / 42), math.log(0.25)])
    shares = [0.6, 0.2, 0.1, 0.1]
    by_hand = [-sum(share * math.log(share) for share in shares), math.log(4)]
    assert entropies(logits, 1.0).tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("rows", [0, 1, 3, 8])
def test_value_and_gradient_are_those_of_log_softmax(rows: int, temperature: float) -> None:
    torch.manual_seed(rows)
    logits = (5 * torch.randn(rows, 11, dtype=torch.float64)).requires_grad_()
    labels, weights = torch.randint(11, (rows,)), torch.randn(rows, dtype=torch.float64)
    expected = (logits / temperature).log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    (slope,) = torch.autograd.grad((expected * weights).sum(), logits)
    actual = label_logps(logits, labels, temperature)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.autograd.grad((actual * weights).sum(), logits)[0], slope, atol=1e-12, rtol=0)
    log_shares = (logits.detach() / temperature).log_softmax(-1)
    plain = -(log_shares.exp() * log_shares).sum(-1)
    torch.testing.assert_close(entropies(logits, temperature), plain, atol=1e-12, rtol=0)
    assert not entropies(logits, temperature).requires_grad


def test_half_precision_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    logits = (8 * torch.randn(7, 50)).bfloat16().requires_grad_()
    labels = torch.randint(50, (7,))
    actual = label_logps(logits, labels, 1.0)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(
        actual, logits.float().log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1), atol=1e-6, rtol=0
    )
    actual.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16
    assert float(logits.grad.float().sum(-1).abs().max()) < 0.02  # rows of one_hot - softmax add up to zero


def test_words_that_cannot_be_said() -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.0]], requires_grad=True)
    label_logps(logits, torch.tensor([0]), 1.0).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.5, 0.0, -0.5]]
    assert entropies(logits, 1.0).tolist() == pytest.approx([math.log(2)])
