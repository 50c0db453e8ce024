"""Log-probabilities compared with the plain formula in float64, and a head that computes them in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32

from hart_studio.training import label_head
from hart_studio.training.label_head import LabelHead, entropies, label_logps

QWEN_VOCABULARY = 152_064
"""Rows of the output head of Qwen2.5-VL-7B."""


class SmallModel(torch.nn.Module):
    """A layer and an output head, as far as the label head needs a model."""

    def __init__(self, vocabulary: int, hidden: int = 8, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(hidden, hidden, dtype=dtype)
        self.lm_head = torch.nn.Linear(hidden, vocabulary, bias=False, dtype=dtype)

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.lm_head

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.layer(states).tanh())  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_head, "ROWS", 3)
    monkeypatch.setattr(label_head, "HEAD_ROWS", 4)


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


def differentiate(model: Any, outcome: torch.Tensor, slopes: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad((outcome * slopes).sum(), list(model.parameters())))


@pytest.mark.parametrize("rows", [0, 1, 4, 11])
def test_the_head_gives_what_logits_give(rows: int) -> None:
    model: Any = SmallModel(13)
    states, labels = torch.randn(rows, 8, dtype=torch.float64), torch.randint(13, (rows,))
    slopes = torch.randn(rows, dtype=torch.float64)
    logits = model(states)
    expected = label_logps(logits, labels, 0.7)
    gradients = differentiate(model, expected, slopes)
    head = LabelHead(labels, 0.7, with_entropies=True)
    with head.installed(model):
        actual = model(states)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)
    assert head.entropies is not None
    torch.testing.assert_close(head.entropies, entropies(logits, 0.7), atol=1e-12, rtol=0)
    for got, wanted in zip(differentiate(model, actual, slopes), gradients, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)
    assert model(states).shape == (rows, 13), "the head is the model's own again"


def test_without_gradients_nothing_is_kept_or_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = SmallModel(13)
    states, labels = torch.randn(6, 8, dtype=torch.float64), torch.randint(13, (6,))
    monkeypatch.setattr(label_head, "checkpoint", None)
    with torch.no_grad(), LabelHead(labels, 1.0).installed(model):
        actual = model(states)
    torch.testing.assert_close(actual, label_logps(model(states), labels, 1.0), atol=1e-12, rtol=0)


def test_hooks_of_wrappers_run_and_a_replaced_forward_returns() -> None:
    model: Any = SmallModel(5)
    seen: list[tuple[int, ...]] = []
    model.lm_head.register_forward_pre_hook(lambda _, arguments: seen.append(tuple(arguments[0].shape)))
    own = model.lm_head.forward
    model.lm_head.forward = lambda states: own(states) * 2  # as accelerate's hooks replace it
    replaced = model.lm_head.forward
    head = LabelHead(torch.tensor([1, 2]), 1.0)
    states = torch.randn(2, 8, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="stop"), head.installed(model):
        torch.testing.assert_close(model(states), label_logps(2 * own(model.layer(states).tanh()), head._labels, 1.0))
        raise RuntimeError("stop")
    assert seen == [(2, 8)]
    assert model.lm_head.forward is replaced


def test_other_positions_than_the_labels_are_refused() -> None:
    model: Any = SmallModel(5)
    with (
        LabelHead(torch.tensor([1, 2]), 1.0).installed(model),
        pytest.raises(ValueError, match=r"of 2 labels, got \[3, 8\]"),
    ):
        model(torch.randn(3, 8, dtype=torch.float64))


def kept_bytes(run: Callable[[], Any]) -> int:
    """Bytes of the tensors that the backward pass of a result needs, each counted once."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    assert result.requires_grad
    return sum(storages.values())


def test_a_label_keeps_at_most_a_third_of_its_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the wrapper that makes float32 copies of outputs: 608,256 bytes a label with logits, of Qwen's 152,064."""
    monkeypatch.setattr(label_head, "ROWS", 128)
    monkeypatch.setattr(label_head, "HEAD_ROWS", 16)
    model: Any = SmallModel(QWEN_VOCABULARY, hidden=64, dtype=torch.bfloat16)
    wrapped = convert_outputs_to_fp32(model.forward)

    def with_head(count: int) -> torch.Tensor:
        labels = torch.randint(QWEN_VOCABULARY, (count,))
        with LabelHead(labels, 1.0).installed(model):
            return wrapped(torch.randn(count, 64).bfloat16())  # type: ignore[no-any-return]

    def with_logits(count: int) -> torch.Tensor:
        labels = torch.randint(QWEN_VOCABULARY, (count,))
        return label_logps(wrapped(torch.randn(count, 64).bfloat16()), labels, 1.0)

    few, many = 16, 48
    by_logits = (kept_bytes(lambda: with_logits(many)) - kept_bytes(lambda: with_logits(few))) / (many - few)
    by_head = (kept_bytes(lambda: with_head(many)) - kept_bytes(lambda: with_head(few))) / (many - few)
    assert by_logits > 608_256
    assert by_head < 608_256 / 3
    assert by_head < 1000, "a hidden state, not a row of logits"
