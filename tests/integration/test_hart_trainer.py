"""The RL trainer compared with TRL's loss, and the properties of its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from trl import GRPOTrainer

from hart_studio.algorithms.credit import credit_group
from hart_studio.algorithms.losses import policy_loss
from hart_studio.algorithms.methods import METHODS
from hart_studio.errors import InputError
from hart_studio.training.hart_trainer import HartTrainer
from hart_studio.training.micro_batches import MicroBatch, build_rows, count_rollouts, stack_rows
from hart_studio.training.rollouts import TrainingGroup, has_reward_differences
from hart_studio.training.sequence_logps import compute_logps
from tests.integration.training_runs import disturb, gradients_of, make_samples, make_trainer, small_config

pytestmark = [pytest.mark.core, pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]

BETA = 0.04


@pytest.fixture
def samples(tmp_path: Path) -> Any:
    return make_samples(tmp_path / "images")


def ready(trainer: HartTrainer) -> HartTrainer:
    """During training: policy differs from the reference, one micro-batch per step."""
    disturb(trainer.model)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def update(trainer: HartTrainer, batch: MicroBatch) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a micro-batch and its gradients."""
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return float(loss.detach()), gradients_of(trainer.model)


def assert_near(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 2e-5) -> None:
    whole = torch.stack([part.norm() for part in expected.values()]).norm()
    assert whole > 0 and actual.keys() == expected.keys()
    for name, part in expected.items():
        allowed = tolerance * max(float(part.norm()), 1e-2 * float(whole))
        assert float((actual[name] - part).norm()) <= allowed, name


def trl_inputs(trainer: HartTrainer, groups: list[TrainingGroup]) -> dict[str, Any]:
    """The same rollouts in TRL's own layout, with its own formula for the advantages."""
    sequences = [sequence for group in groups for (sequence,) in group.sequences]
    longest = max(len(sequence.prompt.ids) for sequence in sequences)
    most = max(len(sequence.completion_ids) for sequence in sequences)
    pad = trainer._tokenizer.pad_token_id

    def table(rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor(rows)

    inputs: dict[str, Any] = {
        "prompt_ids": table([[pad] * (longest - len(i.prompt.ids)) + list(i.prompt.ids) for i in sequences]),
        "prompt_mask": table([[0] * (longest - len(i.prompt.ids)) + [1] * len(i.prompt.ids) for i in sequences]),
        "completion_ids": table([list(i.completion_ids) + [pad] * (most - len(i.completion_ids)) for i in sequences]),
        "completion_mask": table(
            [[1] * len(i.completion_ids) + [0] * (most - len(i.completion_ids)) for i in sequences]
        ),
        "num_images": [1] * len(sequences),
    }
    for name in ("pixel_values", "image_grid_thw"):
        inputs[name] = torch.cat([sequence.prompt.images[0].tensors[name] for sequence in sequences])
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    inputs["mm_token_type_ids"] = (ids == trainer.model.config.image_token_id).int()
    rewards = torch.tensor([[reward.total for reward in group.rewards] for group in groups])
    assert (rewards.std(1) > 0).any(), "the script gives no group with unequal rewards"
    spread = rewards.std(1, keepdim=True) + 1e-4
    inputs["advantages"] = ((rewards - rewards.mean(1, keepdim=True)) / spread).flatten()
    with torch.no_grad():
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        seen = {name: inputs[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
        inputs["ref_per_token_logps"] = trainer._get_per_token_logps_and_entropies(
            trainer.ref_model, ids, mask, most, **seen
        )[0]
    return inputs


@pytest.mark.parametrize("chunk_tokens", [100_000, 200])
@pytest.mark.parametrize("shares", [True, False])
def test_the_grpo_row_is_trls_own_loss(
    tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path, chunk_tokens: int, shares: bool
) -> None:
    config = small_config(tiny_folder("qwen2_5_vl"), "grpo", rollout={"prefix_sharing": shares})
    trainer = ready(make_trainer(config, samples, tmp_path))
    trainer._chunk_tokens = chunk_tokens
    (batch,) = trainer._roll_out_step(samples[:2], 1)
    assert len(trainer._split(batch)) == (1 if chunk_tokens == 100_000 else 2 if shares else 8)
    loss, gradients = update(trainer, batch)
    expected = GRPOTrainer._compute_loss(trainer, trainer.model, trl_inputs(trainer, trainer.last_groups))
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-6)
    assert_near(gradients, gradients_of(trainer.model))


def test_without_preference_ap_grpo_has_the_weights_of_grpo_bit_for_bit(
    tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path
) -> None:
    config = small_config(tiny_folder("qwen3_vl"), "ap_grpo", method={"preference_scale": 0.0})
    trainer = ready(make_trainer(config, samples, tmp_path))
    groups = trainer._roll_out(samples[:2])
    plain = [
        replace(
            group,
            group=group.group.model_copy(
                update={
                    "credits": credit_group(
                        [reward.total for reward in group.rewards],
                        METHODS["grpo"],
                        preference_scale=0.6,
                        beta=BETA,
                    )
                }
            ),
        )
        for group in groups
    ]
    assert {len(sequences) for group in groups for sequences in group.sequences} >= {2}, (
        "no rollout reached its answer turn"
    )
    results = []
    for rolled in (groups, plain):
        rows = build_rows(rolled, count_rollouts(rolled), "turn")
        batch = MicroBatch([row for group in rows for row in group])
        batch.ref_logps = trainer._reference_logps(batch)
        results.append((*update(trainer, batch), [row.credit for row in batch.rows]))
    (loss, gradients, credits), (other_loss, other_gradients, other_credits) = results
    assert credits == other_credits
    assert any(credit.advantage for credit in credits)
    assert loss == other_loss
    assert all(torch.equal(gradients[name], other_gradients[name]) for name in other_gradients)


def test_equal_rewards_leave_the_kl_alone(tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path) -> None:
    config = small_config(tiny_folder("qwen3_vl"), "ap_grpo", method={"beta": BETA})
    wrong = [sample.model_copy(update={"choices": (), "answer": "green"}) for sample in samples]
    trainer = ready(make_trainer(config, wrong, tmp_path))
    (batch,) = trainer._roll_out_step(wrong[:2], 1)
    assert {reward.total for group in trainer.last_groups for reward in group.rewards} == {0.0}
    scores = trainer._score(trainer.model, batch)
    expected = 0.0
    for row, logps, ref in zip(batch.rows, scores.logps, batch.ref_logps or [], strict=True):
        gap = (ref - logps.detach()).double()
        expected += row.weight * BETA * float((gap.exp() - gap - 1).sum())
    loss, gradients = update(trainer, batch)
    assert expected > 1e-6
    assert loss == pytest.approx(expected, rel=1e-4)
    assert any(part.abs().max() > 0 for part in gradients.values())
    for row in batch.rows:  # at the reference itself nothing moves
        assert row.credit.advantage == 0.0
    batch.ref_logps = [part.detach() for part in trainer._score(trainer.model, batch).logps]
    loss, gradients = update(trainer, batch)
    assert loss == pytest.approx(0.0, abs=1e-7)
    assert all(part.abs().max() < 1e-7 for part in gradients.values())


def test_a_second_update_on_the_same_rollouts_weighs_by_the_ratio(
    tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path
) -> None:
    """Its gradient is that of the loss with the log-probabilities from before the first update."""
    config = small_config(tiny_folder("qwen3_vl"), "ap_grpo", schedule={"num_iterations": 2})
    trainer = ready(make_trainer(config, samples, tmp_path))
    trainer._chunk_tokens = 400
    (batch,) = trainer._roll_out_step(samples[:2], 1)
    assert len(trainer._split(batch)) > 1
    first_loss, _ = update(trainer, batch)
    with torch.no_grad():
        old = compute_logps(trainer.model, [row.sequence for row in batch.rows]).logps
    for index, part in enumerate(old):
        torch.testing.assert_close(batch.old_logps[index], part, atol=1e-5, rtol=0)
    assert "clip_ratio" not in trainer._accumulator.values()
    disturb(trainer.model, scale=0.05)
    second_loss, second = update(trainer, batch)
    logps, mask = stack_rows(compute_logps(trainer.model, [row.sequence for row in batch.rows]).logps)
    assert batch.ref_logps is not None
    columns = {
        name: torch.tensor([getattr(row.credit, name) for row in batch.rows])
        for name in ("advantage", "policy_weight", "kl_weight")
    }
    expected = policy_loss(
        logps,
        stack_rows(old)[0],
        stack_rows(batch.ref_logps)[0],
        mask,
        row_weight=torch.tensor([row.weight for row in batch.rows]),
        clip_epsilon=config.method.clip_epsilon,
        **columns,
    )
    expected.loss.backward()
    assert second_loss == pytest.approx(float(expected.loss.detach()), rel=1e-4)
    assert_near(second, gradients_of(trainer.model))
    assert second_loss != pytest.approx(first_loss, rel=1e-2) and int(expected.clipped) > 0
    share = int(expected.clipped) / int(mask.sum())
    assert trainer._accumulator.values()["clip_ratio"] == pytest.approx(share)


def test_rollouts_serve_as_many_updates_as_set(
    tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path
) -> None:
    config = small_config(tiny_folder("qwen3_vl"), "ap_grpo", schedule={"num_iterations": 2, "rl_steps": 4})
    trainer: Any = make_trainer(config, samples, tmp_path)
    sampled: list[list[str]] = []
    roll_out = trainer._roll_out

    def watch(some: list[Any], resampling_round: int = 0) -> Any:
        sampled.append([sample.id for sample in some])
        return roll_out(some, resampling_round)

    trainer._roll_out = watch
    trainer.train()
    steps = [log for log in trainer.state.log_history if "loss" in log]
    assert len(steps) == 4 and len(sampled) == 2
    assert sorted(sampled[0] + sampled[1]) == ["s0", "s1", "s2", "s3"]
    assert ["reward" in step for step in steps] == [True, False, True, False]
    assert ["clip_ratio" in step for step in steps] == [False, True, False, True]


def test_groups_without_reward_differences_are_replaced(
    tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path
) -> None:
    config = small_config(tiny_folder("qwen3_vl"), "ap_grpo", rollout={"max_resampling_rounds": 4})
    trainer = ready(make_trainer(config, samples, tmp_path))
    groups = trainer._roll_out(samples)
    varied = [group for group in groups if has_reward_differences(group)]
    assert varied, "the script gives no group with unequal rewards"
    equal = replace(varied[0], rewards=(varied[0].rewards[0],) * len(varied[0].rewards))
    failed = trainer._roll_out([samples[0].model_copy(update={"image": str(tmp_path / "gone.png")})])
    given = [equal, varied[0], *failed]
    replaced = trainer._resample(given)
    assert replaced[1] is varied[0]
    assert all(has_reward_differences(group) for group in replaced)
    assert trainer._accumulator.values()["resampled_share"] == pytest.approx(2 / 3)
    again = trainer._resample(given)
    assert [group.sample.id for group in again] == [group.sample.id for group in replaced], "the same seed"
    none_left = ready(make_trainer(config, [samples[0].model_copy(update={"image": "gone.png"})], tmp_path / "b"))
    assert none_left._resample(failed) == failed, "the rounds are bounded"


def test_without_a_kl_term_groups_of_equal_rewards_are_not_computed(
    tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path
) -> None:
    config = small_config(tiny_folder("qwen3_vl"), "grpo", method={"beta": 0.0})
    trainer = ready(make_trainer(config, samples, tmp_path))
    groups = trainer._roll_out(samples)
    varied = [group for group in groups if has_reward_differences(group)]
    assert varied, "the script gives no group with unequal rewards"
    equal = trainer._roll_out(samples[:1])[0]
    credits = credit_group([1.0] * 4, METHODS["grpo"], preference_scale=0.6, beta=0.0)
    flat = replace(equal, group=equal.group.model_copy(update={"credits": credits}))
    rows = build_rows([flat, varied[0]], count_rollouts([flat, varied[0]]), "turn")
    assert not rows[0] and rows[1]
    shares = [row.weight * row.sequence.trained_count for row in rows[1]]
    assert shares == pytest.approx([1 / 8] * 4), "rollouts that are not computed count in N"


def test_rows_of_a_step_weigh_one_and_failures_nothing(
    tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path
) -> None:
    config = small_config(tiny_folder("qwen3_vl"), "ap_grpo")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    missing = samples[1].model_copy(update={"id": "broken", "image": str(broken)})
    trainer = ready(make_trainer(config, [samples[0], missing], tmp_path))
    batches = trainer._roll_out_step([samples[0], missing], 2)
    assert [len(batch.rows) > 1 for batch in batches] == [True, False]
    filler = batches[1].rows[0]
    assert (filler.weight, filler.sequence.trained_count) == (0.0, 0)
    rows = [row for batch in batches for row in batch.rows]
    assert sum(row.weight * row.sequence.trained_count for row in rows) == pytest.approx(1.0)
    assert trainer._accumulator.values()["failed_share"] == 0.5
    loss, gradients = update(trainer, batches[1])
    assert loss == 0.0
    assert all(part.abs().max() == 0 for part in gradients.values())


def test_a_step_in_which_everything_fails_changes_nothing(
    tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path
) -> None:
    config = small_config(tiny_folder("qwen2_5_vl"), "grpo", schedule={"rl_steps": 1})
    broken = [sample.model_copy(update={"image": str(tmp_path / "gone.png")}) for sample in samples]
    trainer = make_trainer(config, broken, tmp_path)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 1
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.named_parameters())


def test_a_strip_of_an_image_is_trained_on_like_any_other(
    tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path
) -> None:
    strip = tmp_path / "strip.png"
    Image.new("RGB", (4000, 10), "red").save(strip)
    config = small_config(tiny_folder("qwen2_5_vl"), "ap_grpo", schedule={"rl_steps": 1})
    odd = [samples[0].model_copy(update={"image": str(strip)}), samples[1]]
    trainer = make_trainer(config, odd, tmp_path)
    trainer.train()
    assert trainer.state.log_history[0]["failed_share"] == 0.0


def test_reward_terms_that_could_turn_a_weight_negative_are_refused_before_the_first_step(
    tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path
) -> None:
    config = small_config(tiny_folder("qwen2_5_vl"), method={"format_reward_weight": 1.0, "preference_scale": 0.9})
    with pytest.raises(InputError, match=r"lower method\.format_reward_weight"):
        make_trainer(config, samples, tmp_path)


@pytest.mark.parametrize("method", ["ap_grpo", "mgpo", "grpo"])
def test_frozen_towers_and_adapters(
    tiny_folder: Callable[[str], Path], samples: Any, tmp_path: Path, method: str
) -> None:
    config = small_config(tiny_folder("qwen2_5_vl"), method, model={"lora": "on", "gradient_checkpointing": "on"})
    trainer = make_trainer(config, samples, tmp_path)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed and all("lora_" in name and ".language_model." in name for name in changed)
    figures = trainer.state.log_history[0]
    assert figures["kl"] == pytest.approx(0.0, abs=1e-6), "fresh adapters are the reference"
    assert figures["reward"] > 0
