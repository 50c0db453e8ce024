"""Undocumented API of TRL 1.16.0 and its base trainer used by training.

Each failure names the file to edit.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import transformers
import trl
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

TRAINING = Path(__file__).resolve().parents[2] / "hart_studio" / "training"
HART = "edit hart_studio/training/hart_trainer.py"
SFT = "edit hart_studio/training/sft.py"
CHECKPOINTS = "edit hart_studio/training/checkpoints.py"
NON_FINITE = "edit hart_studio/training/non_finite.py"


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_the_version_that_was_read() -> None:
    assert trl.__version__ == "1.16.0", "read the trainer of this version again, then edit this test"


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("_prepare_inputs", ["self", "generation_batch"]),
        ("compute_loss", ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]),
        ("training_step", ["self", "model", "inputs", "num_items_in_batch"]),
        ("_send_telemetry", ["self"]),
    ],
)
def test_the_methods_that_are_replaced(method: str, wanted: list[str]) -> None:
    assert parameters(getattr(GRPOTrainer, method)) == wanted, HART


def test_the_private_attributes_that_are_read() -> None:
    source = inspect.getsource(GRPOTrainer)
    for name in ("_step", "_tokenizer", "_metrics", "ref_model", "temperature", "beta", "num_generations"):
        assert f"self.{name}" in source, f"GRPOTrainer lost {name}: {HART}"
    assert "self._step += 1" in inspect.getsource(GRPOTrainer.training_step), HART
    assert "self._metrics[mode].clear()" in inspect.getsource(GRPOTrainer.log), HART
    assert 'model.add_adapter("ref"' in source, f"adapters that a stage begins with are the reference: {HART}"
    assert GRPOTrainer.loss_is_scaled_for_ga is True, f"the loss would be divided again: {HART}"
    assert "loss_is_scaled_for_ga" in inspect.getsource(Trainer.training_step), SFT


def test_nothing_of_trls_own_rollouts_or_loss_is_reached() -> None:
    for method in ("_generate_and_score_completions", "_compute_loss"):
        callers = [
            name
            for name, function in inspect.getmembers(GRPOTrainer, inspect.isfunction)
            if f"self.{method}(" in inspect.getsource(function)
        ]
        assert set(callers) <= {"_prepare_inputs", "compute_loss"}, f"{method} has a new caller: {HART}"


def test_a_prompts_repeats_stand_side_by_side_and_a_step_is_one_generation_batch() -> None:
    rows = list(RepeatSampler(range(6), mini_repeat_count=2, batch_size=3, repeat_count=2, shuffle=False))
    assert rows == [0, 0, 1, 1, 2, 2] * 2 + [3, 3, 4, 4, 5, 5] * 2, HART
    source = inspect.getsource(GRPOTrainer.get_train_dataloader)
    assert "self._train_batch_size * self.args.steps_per_generation" in source, HART


def test_the_loop_of_the_trainer_below() -> None:
    assert parameters(Trainer.get_batch_samples) == ["self", "epoch_iterator", "num_batches", "device"], SFT
    assert parameters(Trainer._get_train_sampler)[0] == "self", SFT
    assert "self.floating_point_ops(inputs)" in inspect.getsource(Trainer._run_epoch), SFT
    assert parameters(Trainer._save_checkpoint) == ["self", "model", "trial"], CHECKPOINTS
    assert parameters(Trainer._load_from_checkpoint) == ["self", "resume_from_checkpoint", "model"], CHECKPOINTS
    assert "PREFIX_CHECKPOINT_DIR" in inspect.getsource(Trainer._save_checkpoint), CHECKPOINTS
    assert PREFIX_CHECKPOINT_DIR == "checkpoint", CHECKPOINTS
    assert "self.create_model_card" in inspect.getsource(GRPOTrainer._save_checkpoint), CHECKPOINTS
    for name in ("_load_rng_state", "_load_optimizer_and_scheduler"):
        assert "weights_only=True" in inspect.getsource(getattr(Trainer, name)), f"{name} unpickles: {CHECKPOINTS}"
    assert int(transformers.__version__.split(".")[0]) == 5


def test_gradients_are_dropped_between_the_norm_and_the_update() -> None:
    assert parameters(Trainer._get_grad_norm) == ["self", "model", "grad_norm"], NON_FINITE
    source = inspect.getsource(Trainer._run_epoch)
    order = [
        source.index(part) for part in ("self._tr_loss += tr_loss_step", "self._get_grad_norm(", "optimizer.step()")
    ]
    assert order == sorted(order), NON_FINITE
    assert "tr_loss -= tr_loss" in inspect.getsource(Trainer._maybe_log_save_evaluate), NON_FINITE
    assert "_get_grad_norm" not in GRPOTrainer.__dict__, NON_FINITE


def test_defaults_that_are_not_the_papers_are_still_overridden() -> None:
    fields = GRPOConfig.__dataclass_fields__
    given = {
        keyword.arg
        for node in ast.walk(ast.parse((TRAINING / "trl_args.py").read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
    }
    said = ("beta", "epsilon", "loss_type", "scale_rewards", "use_bias_correction_kl", "num_iterations")
    for name in said:
        assert name in fields and name in given, f"{name}: edit hart_studio/training/trl_args.py"


def test_label_boxes_are_used_by_sft_only() -> None:
    reading = {path.name for path in TRAINING.glob("*.py") if ".label_boxes" in path.read_text()}
    assert reading == {"sft.py", "preflight.py"}, "rewards, rollouts and losses see no box"


def test_gold_boxes_are_named_only_where_they_are_held_out_and_where_training_is_checked_for_them() -> None:
    reading = {
        path.name
        for path in TRAINING.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr == "gold_boxes")
        or (isinstance(node, ast.Name) and node.id == "GoldSample")
    }
    assert reading == {"held_out_evaluation.py", "preflight.py"}
