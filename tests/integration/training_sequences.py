"""Sequences for tiny models, with reference log-probabilities and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from hart_studio.models.chat import ChatRequest, Message
from hart_studio.models.inputs import ProcessedImage
from hart_studio.training.sequence_logps import SequenceLogps, compute_logps
from hart_studio.training.sequences import IGNORED, TrainingSequence, turn_sequence, two_turn_sequences
from hart_studio.training.trainable_model import TrainableModel
from tests.integration.conversations import make_image, no_image, one_image, two_images_in_text

LETTERS = 256
"""Tokens of the tiny tokenizers that are plain bytes."""


def random_ids(count: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(LETTERS, (count,), generator=generator).tolist())


def mixed_sequences(policy: TrainableModel) -> list[TrainingSequence]:
    """Groups over one, two and no images, of unequal prompts, ragged completions, one of them empty, out of order."""
    prompts = [policy.read(request(policy)) for request in (one_image, two_images_in_text, no_image)]
    lengths = [(0, 8), (1, 3), (0, 1), (2, 4), (0, 0), (0, 5), (1, 6), (2, 2)]
    return [turn_sequence(prompts[which], random_ids(length, seed)) for seed, (which, length) in enumerate(lengths)]


def branching_sequences(policy: TrainableModel, count: int = 3) -> list[TrainingSequence]:
    """Rollouts of MGPO over one overview: box text, crop, answer; every crop of another size."""
    overview = make_image(policy, 160, 110, 3)
    asked = ChatRequest((Message("user", (overview, "Where is it?")),))
    end = policy.processor.tokenizer.eos_token_id
    sequences: list[TrainingSequence] = []
    for index in range(count):
        said = "[[1, 2, 3, 4]]" + "!" * index
        crop = make_image(policy, 60 + 40 * index, 60, 20 + index)
        request = ChatRequest(
            (*asked.messages, Message("assistant", (said,)), Message("user", ("The region: ", crop, " Which digit?")))
        )
        said_ids = [*policy.processor.tokenizer.encode(said, add_special_tokens=False), end]
        answer_ids = random_ids(4 - index, 40 + index)
        sequences += two_turn_sequences(policy.read(asked), said_ids, policy.read(request), answer_ids)
    return sequences


def library_logps(model: Any, sequence: TrainingSequence, temperature: float = 1.0) -> torch.Tensor:
    """One sequence by itself, from raw pixels, with the library's own positions and mask and all of its logits."""
    ids = torch.tensor([sequence.ids])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if sequence.images:
        tensors = [one.tensors for one in sequence.images if isinstance(one, ProcessedImage)]
        assert len(tensors) == len(sequence.images)
        inputs.update({name: torch.cat([one[name] for one in tensors]) for name in tensors[0]})
        if "batch_num_images" in inputs:
            inputs["batch_num_images"] = torch.tensor([len(tensors)])
        if "image_grid_thw" in inputs:
            inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    logps = (model(**inputs, use_cache=False).logits[0] / temperature).log_softmax(-1)
    start = len(sequence.prompt.ids) - 1
    steps = [(start + step, label) for step, label in enumerate(sequence.labels) if label != IGNORED]
    return torch.stack([logps[place, label] for place, label in steps]) if steps else logps[:0, 0]


@dataclass
class Outcome:
    """Log-probabilities and the gradient of a weighted sum of them."""

    logps: list[torch.Tensor]
    gradients: dict[str, torch.Tensor]
    prefix_sharing_blocker: str | None = None


def differentiate(model: torch.nn.Module, logps: Sequence[torch.Tensor]) -> Outcome:
    """The gradient of every parameter, for arbitrary weights of the tokens."""
    model.zero_grad(set_to_none=True)
    total = sum((part * torch.linspace(-1, 2, len(part))).sum() * (1 + index % 3) for index, part in enumerate(logps))
    assert isinstance(total, torch.Tensor)
    total.backward()
    gradients = {
        name.replace("module.", ""): weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return Outcome([part.detach() for part in logps], gradients)


def outcome(model: torch.nn.Module, sequences: Sequence[TrainingSequence], **options: Any) -> Outcome:
    scores: SequenceLogps = compute_logps(model, sequences, **options)
    return replace(differentiate(model, scores.logps), prefix_sharing_blocker=scores.prefix_sharing_blocker)


def library_outcome(model: torch.nn.Module, sequences: Sequence[TrainingSequence]) -> Outcome:
    return differentiate(model, [library_logps(model, sequence) for sequence in sequences])


def furthest(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Greatest difference of two lists of log-probabilities of the same shapes."""
    assert [part.shape for part in one] == [part.shape for part in other]
    return max(float((a - b).detach().abs().max()) for a, b in zip(one, other, strict=True) if len(a))


def assert_equal(actual: Outcome, expected: Outcome, logp: float = 1e-5, gradient: float = 1e-5) -> None:
    """Log-probabilities within ``logp``; every parameter's gradient within ``gradient`` of its norm.

    A gradient that is zero but for rounding (the bias of a key moves no softmax) is measured by the size of the others.
    """
    assert furthest(actual.logps, expected.logps) < logp
    names = expected.gradients.keys() | actual.gradients.keys()
    whole = torch.stack([part.norm() for part in expected.gradients.values()]).norm()
    assert whole > 0
    for name in names:
        one, other = actual.gradients.get(name), expected.gradients.get(name)
        if one is None or other is None:  # a part that took no part
            assert float((other if one is None else one).norm()) <= 1e-9 * whole  # type: ignore[union-attr]
            continue
        allowed = gradient * max(float(other.norm()), 1e-2 * float(whole))
        assert float((one - other).norm()) <= allowed, f"{name}: {float((one - other).norm())} > {allowed}"
