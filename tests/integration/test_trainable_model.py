"""A model in training as the chat model of the pipeline: same answers, scored tokens, and restored model state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

from hart_studio.errors import InputError
from hart_studio.models.features import EncodedImage
from hart_studio.models.generation import LocalChatModel
from hart_studio.models.loading import load_model
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.turns import AnswerResult, GroundingResult
from hart_studio.records import Box, Protocol, Sample
from hart_studio.training.packing import group_by_prompt
from hart_studio.training.sequence_logps import compute_logps
from hart_studio.training.sequences import turn_sequence, two_turn_sequences
from hart_studio.training.trainable_model import TrainableModel
from tests.integration.conversations import (
    CONVERSATIONS,
    GREEDY,
    WARM,
    no_image,
    one_image,
    texts,
    tower_runs,
    two_turns,
)
from tests.integration.training_sequences import furthest, library_logps
from tests.tiny_models import FAMILY_KEYS

pytestmark = [
    pytest.mark.core,
    pytest.mark.integration,
    # peft asks transformers in a way that transformers is about to retire.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


def train_lora(folder: Path, dtype: str = "float32") -> tuple[Any, TrainableModel]:
    """A model of its own in the middle of LoRA training with gradient checkpointing, and the policy around it."""
    loaded = load_model(str(folder), device="cpu", dtype=dtype)
    torch.manual_seed(0)
    targets = r".*language_model.*\.(q|v)_proj"
    adapted: Any = get_peft_model(loaded.model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    adapted.train()
    loaded.model.activation_checkpointing_enable()
    return adapted, TrainableModel(adapted, loaded.processor, "policy")


@pytest.fixture(scope="module", params=FAMILY_KEYS)
def training(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> tuple[Any, TrainableModel]:
    return train_lora(tiny_folder(request.param))


def test_it_answers_like_the_merged_model(training: tuple[Any, TrainableModel], tmp_path: Path) -> None:
    adapted, policy = training
    adapted.save_pretrained(tmp_path)
    merged = load_model(str(tmp_path), device="cpu")
    requests = [conversation(policy) for conversation in CONVERSATIONS]
    answers = policy.generate(requests, GREEDY, group_size=2)
    assert texts(answers) == texts(merged.generate(requests, GREEDY, group_size=2))
    untrained = load_model(adapted.peft_config["default"].base_model_name_or_path, device="cpu")
    plain = texts(untrained.generate(requests, GREEDY, group_size=2))
    assert texts(answers) != plain
    with adapted.disable_adapter():
        assert texts(policy.generate(requests, GREEDY, group_size=2)) == plain


def test_it_scores_the_very_tokens_that_it_sampled(training: tuple[Any, TrainableModel]) -> None:
    adapted, policy = training
    requests = [conversation(policy) for conversation in CONVERSATIONS]
    answers = [group[0] for group in policy.generate(requests, GREEDY)]
    sequences = [
        turn_sequence(policy.read(request), answer.token_ids) for request, answer in zip(requests, answers, strict=True)
    ]
    assert [len(sequence.prompt.ids) for sequence in sequences] == [answer.prompt_tokens for answer in answers]
    seen: list[torch.Tensor] = []
    hook = policy.model.lm_head.register_forward_pre_hook(
        lambda head, hidden: seen.append(torch.nn.functional.linear(hidden[0], head.weight))
    )
    with torch.no_grad():
        for sequence in sequences:
            compute_logps(adapted, [sequence])
    hook.remove()
    for sequence, logits in zip(sequences, seen, strict=True):  # greedy took the likeliest of the scored distribution
        logits[:, policy._unsampled_ids] = -torch.inf
        assert tuple(logits.argmax(-1).tolist()) == sequence.completion_ids


def test_sampler_and_scorer_agree_on_log_probabilities(training: tuple[Any, TrainableModel]) -> None:
    adapted, policy = training
    requests = [conversation(policy) for conversation in CONVERSATIONS]
    temperature = WARM.temperature
    sequences = [
        turn_sequence(policy.read(request), answer.token_ids, answer.token_logps)
        for request, group in zip(requests, policy.generate(requests, WARM, group_size=2), strict=True)
        for answer in group
    ]
    with torch.no_grad():
        scored = compute_logps(adapted, sequences, temperature=temperature).logps
    for sequence, logps in zip(sequences, scored, strict=True):
        assert len(sequence.sampled_logps) == len(logps) > 0
        torch.testing.assert_close(torch.tensor(sequence.sampled_logps), logps, atol=1e-4, rtol=0)


def test_seeded_samples_are_those_of_any_chat_model(training: tuple[Any, TrainableModel]) -> None:
    _, policy = training
    plain = LocalChatModel(policy.model, policy.processor, policy.family, "plain")
    requests = [one_image(policy), two_turns(policy)]
    sampled = texts(policy.generate(requests, WARM, group_size=3))
    policy.model.eval()
    try:
        assert texts(plain.generate(requests, WARM, group_size=3)) == sampled
    finally:
        policy.model.train()


def test_the_model_comes_back_as_it_was(tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    adapted, policy = train_lora(tiny_folder("qwen2_5_vl"))
    policy.model.model.visual.eval()
    modes = {name: part.training for name, part in adapted.named_modules()}
    assert set(modes.values()) == {True, False}

    def watch(*_: Any) -> None:
        assert not any(part.training for part in policy.model.modules())

    hook = policy.model.register_forward_hook(watch)
    policy.generate([one_image(policy)], GREEDY)
    hook.remove()
    assert {name: part.training for name, part in adapted.named_modules()} == modes
    with pytest.raises(InputError, match="group_size"):
        policy.generate([one_image(policy)], GREEDY, group_size=0)
    assert {name: part.training for name, part in adapted.named_modules()} == modes
    assert all(weight.grad is None for weight in adapted.parameters())


def test_features_are_kept_while_the_tower_is_frozen(tiny_folder: Callable[[str], Path]) -> None:
    adapted, policy = train_lora(tiny_folder("qwen2_5_vl"))
    request = one_image(policy)
    with tower_runs(policy) as runs:
        before = policy.generate([request], GREEDY)
        read = [policy.read(request) for _ in range(2)]
        for name, weight in adapted.named_parameters():
            weight.data.mul_(1.0 + ("lora" in name))
        after = policy.generate([request], GREEDY)
        assert len(runs) == 1
    assert read[0].images[0] is read[1].images[0]
    assert texts(before) != texts(after)


def test_features_are_computed_again_while_the_tower_is_trained(tiny_folder: Callable[[str], Path]) -> None:
    loaded = load_model(str(tiny_folder("qwen2_5_vl")), device="cpu")
    policy = TrainableModel(loaded.model, loaded.processor, "policy")
    request = one_image(policy)
    with tower_runs(policy) as runs:
        before = policy.generate([request], GREEDY)
        sequence = turn_sequence(policy.read(request), before[0][0].token_ids)
        logps = compute_logps(policy.model, [sequence]).logps
        logps[0].sum().backward()
        with torch.no_grad():
            for weight in policy.model.model.visual.parameters():
                weight -= 0.3 * weight.grad.sign()
        after = policy.generate([request], GREEDY)
        assert len(runs) == 3
        again = policy.read(request)
    assert again.images[0] is sequence.images[0]  # pixels do not depend on weights
    assert texts(before) != texts(after)
    assert furthest(compute_logps(policy.model, [sequence]).logps, logps) > 0.01


def test_reading_gives_what_the_template_shows(training: tuple[Any, TrainableModel]) -> None:
    _, policy = training
    for conversation in CONVERSATIONS:
        request = conversation(policy)
        frozen = policy.read(request)
        policy.model.lm_head.requires_grad_(True)
        policy.model.model.language_model.norm.requires_grad_(True)
        assert policy.read(request).images == frozen.images  # neither is the tower's
        weight = next(weight for name, weight in policy.model.model.named_parameters() if "language_model" not in name)
        weight.requires_grad_(True)
        pixels = policy.read(request)
        weight.requires_grad_(False)
        assert pixels.ids == frozen.ids
        assert all(one.tensors["pixel_values"].numel() for one in pixels.images)  # type: ignore[union-attr]
        assert [one.visual_tokens for one in pixels.images] == [one.visual_tokens for one in frozen.images]
    policy.model.lm_head.requires_grad_(False)
    policy.model.model.language_model.norm.requires_grad_(False)


def test_half_precision_weights(tiny_folder: Callable[[str], Path]) -> None:
    adapted, policy = train_lora(tiny_folder("qwen3_vl"), "bfloat16")
    request = one_image(policy)
    ((answer,),) = policy.generate([request], GREEDY)
    sequences = [
        turn_sequence(policy.read(request), answer.token_ids),
        turn_sequence(policy.read(request), answer.token_ids[:3]),
    ]
    shared, plain = (compute_logps(adapted, sequences, share=share).logps for share in (True, False))
    assert furthest(shared, plain) < 0.2
    torch.cat(shared).sum().backward()
    assert all(weight.grad is None or bool(weight.grad.isfinite().all()) for weight in adapted.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert policy.generate([request], GREEDY)[0][0].token_ids


# The whole loop -----------------------------------------------------------------------------------------------------


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    made = []
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (90, 130, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((260, 180)).save(tmp_path / f"{seed}.png")
        path = str(tmp_path / f"{seed}.png")
        made.append(Sample(id=str(seed), image=path, question="Which digit?", choices=("3", "7"), answer="A"))
    return made


def point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes for a model of random weights: three in every group, two of them the same."""
    boxes = iter([(0, 0, 60, 60), (10, 10, 90, 80), (0, 0, 60, 60)] * 2)
    read = closed_loop.parse_grounding

    def pointing(*arguments: Any) -> GroundingResult:
        return replace(read(*arguments), boxes=(Box.from_xyxy(next(boxes)),), outcome="ok")

    monkeypatch.setattr(closed_loop, "parse_grounding", pointing)


def run_rollouts(
    policy: TrainableModel, samples: list[Sample], protocol: Protocol
) -> list[list[tuple[GroundingResult, AnswerResult]]]:
    """The model calls of three sampled rollouts of each sample; the records hold the same texts."""
    settings = LoopSettings(temperature=1.0, max_new_tokens=6, seed=3)
    views = closed_loop.prepare_samples(policy, samples, settings)
    attempts = closed_loop.ground_and_crop(policy, views, settings, group_size=3)
    calls = []
    for group in closed_loop.answer_grounded(policy, attempts, protocol, settings):
        calls.append([(one.grounding, one.answer) for one in group if one.grounding and one.answer])
        for one, (first, second) in zip(group, calls[-1], strict=True):
            assert [turn.text for turn in one.rollout.turns] == [first.completion.text, second.completion.text]
            assert first.completion.token_ids and second.completion.token_ids
    return calls


def test_rollouts_come_through_the_one_pipeline(
    training: tuple[Any, TrainableModel], samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted, policy = training
    point(monkeypatch)
    calls = run_rollouts(policy, samples, "crops_only")
    assert [len(group) for group in calls] == [3, 3]
    pairs = [turn for group in calls for turn in group]
    sequences = [
        turn_sequence(policy.read(call.request), call.completion.token_ids)
        for call in [*(first for first, _ in pairs), *(second for _, second in pairs)]
    ]
    # The overviews are shared by three, and so is the prompt of two rollouts that cut the same crop.
    assert sorted(len(group) for group in group_by_prompt(sequences, range(12))) == [1, 1, 2, 2, 3, 3]
    with torch.no_grad():
        assert (
            furthest(compute_logps(adapted, sequences).logps, compute_logps(adapted, sequences, share=False).logps)
            < 1e-5
        )


def test_a_conversation_of_two_turns_is_scored_as_it_was_shown(
    training: tuple[Any, TrainableModel], samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted, policy = training
    point(monkeypatch)
    pairs = [
        (
            (policy.read(first.request), first.completion.token_ids),
            (policy.read(second.request), second.completion.token_ids),
        )
        for group in run_rollouts(policy, samples, "full_and_crops")
        for first, second in group
    ]
    sequences = [sequence for one, other in pairs for sequence in two_turn_sequences(*one, *other)]
    for (prompt, said), (later, answered) in pairs:
        goes_on = later.ids[: len(prompt.ids) + len(said)] == prompt.ids + tuple(said)
        is_one = goes_on and policy.family.key != "llava_onevision"
        assert len(two_turn_sequences(prompt, said, later, answered)) == (1 if is_one else 2)
    together = {len(sequence.images) for sequence in sequences}
    assert together == ({1, 2} if policy.family.key == "llava_onevision" or len(sequences) > 6 else {2})
    with torch.no_grad():
        apart = [turn_sequence(prompt, said) for pair in pairs for prompt, said in pair]
        mine = torch.cat(compute_logps(adapted, sequences).logps)
        theirs = torch.cat(compute_logps(adapted, apart, share=False).logps)
    assert float((mine - theirs).abs().max()) < 1e-5


def test_pixels_and_features_give_the_librarys_numbers(tiny_folder: Callable[[str], Path]) -> None:
    loaded = load_model(str(tiny_folder("internvl")), device="cpu")
    policy = TrainableModel(loaded.model, loaded.processor, "policy")
    pixels = [turn_sequence(policy.read(request(policy)), (5, 6, 7)) for request in (two_turns, no_image)]
    with torch.no_grad():
        expected = [library_logps(policy.model, sequence) for sequence in pixels]
        assert furthest(compute_logps(policy.model, pixels).logps, expected) < 1e-5
        policy.model.requires_grad_(False)
        known = [turn_sequence(policy.read(request(policy)), (5, 6, 7)) for request in (two_turns, no_image)]
        assert isinstance(known[0].images[0], EncodedImage)
        assert furthest(compute_logps(policy.model, known).logps, expected) < 1e-5
