"""Prefix sharing gives the log-probabilities and gradients of separate sequences, for all families."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText

from hart_studio.errors import ModelError
from hart_studio.models.loading import load_model, unwrap_model
from hart_studio.training import packing, sequence_logps
from hart_studio.training.sequence_logps import compute_logps, prefix_sharing_blocker
from hart_studio.training.sequences import Prompt, TrainingSequence, turn_sequence
from hart_studio.training.trainable_model import TrainableModel, is_vision_tower_trained
from tests.integration.conversations import make_image, one_image, tower_runs
from tests.integration.training_sequences import (
    assert_equal,
    branching_sequences,
    furthest,
    library_logps,
    library_outcome,
    mixed_sequences,
    outcome,
    random_ids,
)
from tests.tiny_models import FAMILY_KEYS

pytestmark = [
    pytest.mark.core,
    pytest.mark.integration,
    # peft asks transformers in a way that transformers is about to retire.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


def add_lora(model: Any, dropout: float = 0.0) -> Any:
    """Adapters with weights of their own on the language model."""
    torch.manual_seed(0)
    targets = r".*language_model.*\.(q|v)_proj"
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, lora_dropout=dropout)
    return get_peft_model(model, config).train()


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """Gradient checkpointing inside the block, and a check that it took place there."""
    runs: list[int] = []
    hook = model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    model.activation_checkpointing_enable()
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
        model.disable_input_require_grads()
        hook.remove()
    assert len(runs) == 2, "once forward, once more in the backward pass"


def make_policy(folder: Path) -> TrainableModel:
    """A model of its own in training mode, everything trained."""
    loaded = load_model(str(folder), device="cpu")
    loaded.model.train()
    return TrainableModel(loaded.model, loaded.processor, "policy")


def freeze_vision_tower(policy: TrainableModel) -> None:
    for name, weight in policy.model.model.named_parameters():
        weight.requires_grad_(name.startswith("language_model."))


@pytest.fixture(scope="module", params=FAMILY_KEYS)
def policy(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> TrainableModel:
    return make_policy(tiny_folder(request.param))


@pytest.fixture
def one_policy(tiny_folder: Callable[[str], Path]) -> TrainableModel:
    """One family stands for all: the one with most to go wrong."""
    return make_policy(tiny_folder("qwen3_vl"))


@pytest.fixture(autouse=True)
def everything_trained(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "policy" in request.fixturenames:
        shared = request.getfixturevalue("policy")
        shared.model.requires_grad_(True)
        shared.model.train()


def test_shared_rows_equal_plain_ones_and_the_library(policy: TrainableModel) -> None:
    sequences = mixed_sequences(policy)
    shared = outcome(policy.model, sequences)
    assert shared.prefix_sharing_blocker is None
    assert [len(part) for part in shared.logps] == [8, 3, 1, 4, 0, 5, 6, 2]
    expected = library_outcome(policy.model, sequences)
    assert_equal(shared, expected)
    plain = outcome(policy.model, sequences, share=False)
    assert plain.prefix_sharing_blocker == "prefix sharing is disabled"
    assert_equal(plain, expected)
    assert any(name.startswith("model.vis") for name in shared.gradients)


def test_a_crop_inside_a_branch(policy: TrainableModel) -> None:
    sequences = branching_sequences(policy)
    if policy.family.key == "llava_onevision":
        # With a second image it reads the overview in another way, so no turn can share the first one's row.
        assert [len(sequence.images) for sequence in sequences] == [1, 2] * 3
        assert len(packing.group_by_prompt(sequences, range(6))) == 4
    else:
        assert [len(sequence.images) for sequence in sequences] == [2] * 3
        assert all(
            sequence.trained_count == len(sequence.labels) - sequence.labels.count(-100) for sequence in sequences
        )
        assert packing.group_by_prompt(sequences, range(3)) == [[0, 1, 2]]
    shared = outcome(policy.model, sequences)
    assert_equal(shared, library_outcome(policy.model, sequences))
    assert_equal(outcome(policy.model, sequences, share=False), shared)


def test_one_call_encodes_an_image_once_and_projects_labels_only(policy: TrainableModel) -> None:
    overview = make_image(policy, 160, 110)
    prompts = [policy.read(request(policy, overview)) for request in (asking("Where?"), asking("Which?"))]
    sequences = [turn_sequence(prompt, random_ids(3, seed)) for seed, prompt in enumerate(prompts * 2)]
    calls: list[int] = []
    rows: list[int] = []
    hooks = [
        policy.model.register_forward_hook(lambda *_: calls.append(1)),
        policy.model.lm_head.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[:-1].numel())),
    ]
    for share in (True, False):
        with tower_runs(policy) as runs:
            compute_logps(policy.model, sequences, share=share)
        assert len(runs) == 1
    for hook in hooks:
        hook.remove()
    assert (calls, rows) == ([1, 1], [12, 12])


def asking(question: str) -> Callable[..., Any]:
    def request(policy: TrainableModel, shown: Any) -> Any:
        asked = one_image(policy)
        return type(asked)((type(asked.messages[0])("user", (shown, question)),))

    return request


def test_features_of_a_frozen_tower_are_used_again(policy: TrainableModel) -> None:
    pixels = mixed_sequences(policy)
    freeze_vision_tower(policy)
    known = mixed_sequences(policy)
    with tower_runs(policy) as runs:
        from_features = outcome(policy.model, known)
        with torch.no_grad():
            again = compute_logps(policy.model, known).logps
        assert not runs
        from_pixels = outcome(policy.model, pixels)
        assert len(runs) == 3  # one overview, two crops
    assert furthest(again, from_features.logps) == 0
    assert_equal(from_features, from_pixels)
    assert not any("vis" in name for name in from_features.gradients)
    policy.model.requires_grad_(True)
    with pytest.raises(ValueError, match="Training the vision tower needs pixels of every image"):
        compute_logps(policy.model, known)


def test_another_image_is_noticed(policy: TrainableModel) -> None:
    def say(seed: int) -> list[TrainingSequence]:
        prompt = policy.read(asking("Which?")(policy, make_image(policy, 160, 110, seed)))
        return [turn_sequence(prompt, random_ids(6, 1)), turn_sequence(prompt, random_ids(5, 2))]

    with torch.no_grad():
        assert furthest(compute_logps(policy.model, say(0)).logps, compute_logps(policy.model, say(1)).logps) > 0.01


@pytest.mark.parametrize("mistake", ["positions run on", "branches see each other", "a branch misses its prompt"])
def test_a_mistake_in_the_layout_is_noticed(
    policy: TrainableModel, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = mixed_sequences(policy)
    with torch.no_grad():
        right = compute_logps(policy.model, sequences).logps
        if mistake == "positions run on":
            pack = packing.pack

            def run_on(*arguments: Any, **options: Any) -> packing.PackedBatch:
                layout = pack(*arguments, **options)
                layout.positions[:] = layout.positions.cummax(-1).values + (layout.branch > 1) * 3
                return layout

            monkeypatch.setattr(sequence_logps, "pack", run_on)
        elif mistake == "branches see each other":
            monkeypatch.setattr(
                sequence_logps, "tree_mask", lambda tree, branch: packing.tree_mask(tree, branch.clamp(max=0))
            )
        else:
            monkeypatch.setattr(
                sequence_logps, "tree_mask", lambda tree, branch: packing.tree_mask(tree + branch * 9, branch)
            )
        assert furthest(compute_logps(policy.model, sequences).logps, right) > 0.01


def test_lora_and_gradient_checkpointing(policy: TrainableModel, tiny_folder: Callable[[str], Path]) -> None:
    own = make_policy(tiny_folder(policy.family.key))
    adapted = add_lora(own.model)
    live = TrainableModel(adapted, own.processor, "policy")
    sequences = mixed_sequences(live) + branching_sequences(live)
    expected = outcome(adapted, sequences, share=False)
    assert expected.gradients and all("lora" in name for name in expected.gradients)
    shared = outcome(adapted, sequences)
    assert_equal(shared, expected)
    with tower_runs(live) as runs, recomputing(own.model):
        assert_equal(outcome(adapted, sequences), expected)
    assert not runs
    with torch.no_grad():
        with adapted.disable_adapter():
            without = compute_logps(adapted, sequences).logps
        untouched = make_policy(tiny_folder(policy.family.key))
        freeze_vision_tower(untouched)
        assert furthest(without, compute_logps(untouched.model, sequences).logps) < 1e-5
        assert furthest(without, shared.logps) > 0.01


def test_gradient_checkpointing_of_everything(policy: TrainableModel) -> None:
    sequences = mixed_sequences(policy)
    expected = outcome(policy.model, sequences)
    with recomputing(policy.model):
        assert_equal(outcome(policy.model, sequences), expected)


def test_eager_attention(policy: TrainableModel) -> None:
    sequences = mixed_sequences(policy)
    expected = outcome(policy.model, sequences)
    policy.model.set_attn_implementation("eager")
    try:
        actual = outcome(policy.model, sequences)
    finally:
        policy.model.set_attn_implementation("sdpa")
    assert actual.prefix_sharing_blocker is None
    assert_equal(actual, expected)


def test_half_precision_stays_within_its_own_noise(policy: TrainableModel) -> None:
    sequences = mixed_sequences(policy)
    with torch.no_grad():
        exact = compute_logps(policy.model, sequences).logps
        with torch.autocast("cpu", torch.bfloat16):
            shared, plain = (compute_logps(policy.model, sequences, share=share).logps for share in (True, False))
    noise = furthest(plain, exact)
    assert 0 < noise < 0.3
    assert furthest(shared, plain) < 2 * noise
    assert {part.dtype for part in shared} == {torch.float32}


def test_temperature_and_entropies(policy: TrainableModel) -> None:
    sequences = mixed_sequences(policy)
    with torch.no_grad():
        scores = compute_logps(policy.model, sequences, temperature=0.7, with_entropies=True)
        assert furthest(scores.logps, [library_logps(policy.model, sequence, 0.7) for sequence in sequences]) < 1e-5
        assert scores.entropies is not None
        # The last word of a sequence has the entropy of the logits that the library gives for it.
        (sequence,) = [one for one in sequences if one.trained_count == 2]
        ids = torch.tensor([sequence.ids])
        logits = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -2]
    log_shares = (logits / 0.7).log_softmax(-1)
    assert float(scores.entropies[-1][-1]) == pytest.approx(float(-(log_shares.exp() * log_shares).sum()), abs=1e-4)
    assert [len(part) for part in scores.entropies] == [len(part) for part in scores.logps]


def test_nothing_said_gives_a_gradient_of_zero(one_policy: TrainableModel) -> None:
    prompt = one_policy.read(one_image(one_policy))
    scores = compute_logps(one_policy.model, [turn_sequence(prompt, ()), turn_sequence(prompt, ())])
    assert [part.tolist() for part in scores.logps] == [[], []]
    torch.cat(scores.logps).sum().backward()
    gradients = [weight.grad for weight in one_policy.model.parameters() if weight.grad is not None]
    assert gradients and all(not part.any() for part in gradients)


def test_in_a_data_parallel_wrapper(one_policy: TrainableModel, tmp_path: Path) -> None:
    sequences = mixed_sequences(one_policy)
    expected = outcome(one_policy.model, sequences)
    text_only = [sequence for sequence in sequences if not sequence.images]
    expected_text = outcome(one_policy.model, text_only)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(one_policy.model, find_unused_parameters=True)
        assert_equal(outcome(wrapped, sequences), expected)
        assert_equal(outcome(wrapped, text_only), expected_text)  # the tower takes no part, and that is found out
    finally:
        torch.distributed.destroy_process_group()


def test_a_model_with_sliding_windows_does_not_share(tiny_folder: Callable[[str], Path]) -> None:
    folder = tiny_folder("qwen2_5_vl")
    config = AutoConfig.from_pretrained(folder)
    config.text_config.use_sliding_window, config.text_config.sliding_window = True, 4
    config.text_config.layer_types = ["full_attention", "sliding_attention"]
    model = AutoModelForImageTextToText.from_pretrained(folder, config=config).train()
    policy = TrainableModel(model, make_policy(folder).processor, "sliding")
    sequences = mixed_sequences(policy)
    actual = outcome(model, sequences)
    assert actual.prefix_sharing_blocker == "layers of type sliding_attention need their own mask"
    assert_equal(actual, library_outcome(model, sequences))


def test_what_else_stands_in_the_way(one_policy: TrainableModel) -> None:
    model = one_policy.model
    assert prefix_sharing_blocker(model) is None
    text = model.config.get_text_config()
    text.attention_dropout = 0.1
    assert prefix_sharing_blocker(model) == "dropout would affect all completions of a group equally"
    model.eval()
    assert prefix_sharing_blocker(model) is None
    text._attn_implementation = "flash_attention_2"
    assert "'flash_attention_2' does not accept custom masks; sdpa and eager do" in str(prefix_sharing_blocker(model))
    text._attn_implementation, text.attention_dropout = "sdpa", 0.0
    clean = copy.deepcopy(model)
    assert prefix_sharing_blocker(unwrap_model(add_lora(model))) is None
    assert (
        prefix_sharing_blocker(unwrap_model(add_lora(clean, dropout=0.1)))
        == "dropout would affect all completions of a group equally"
    )


def test_whether_the_tower_is_trained(policy: TrainableModel) -> None:
    assert is_vision_tower_trained(policy.model)
    freeze_vision_tower(policy)
    assert not is_vision_tower_trained(policy.model)
    projector = next(
        weight for name, weight in policy.model.model.named_parameters() if not name.startswith("language_model.")
    )
    projector.requires_grad_(True)
    assert is_vision_tower_trained(policy.model)


def test_unusable_calls(one_policy: TrainableModel) -> None:
    sequences: Sequence[TrainingSequence] = [turn_sequence(Prompt((1, 2)), (3,))]
    with pytest.raises(ValueError, match="expected a temperature above 0"):
        compute_logps(one_policy.model, sequences, temperature=0)
    with pytest.raises(ValueError, match="expected at least one sequence"):
        compute_logps(one_policy.model, [])
    with pytest.raises(ModelError, match="expected a transformers model or a wrapper of one, got Linear"):
        compute_logps(torch.nn.Linear(2, 2), sequences)
