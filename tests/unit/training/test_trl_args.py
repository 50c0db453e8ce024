from pathlib import Path

import pytest
import torch

from hart_studio.errors import InputError
from hart_studio.runs.config import RunConfig
from hart_studio.training.trl_args import rl_args, sft_args

CPU = torch.device("cpu")


def test_what_the_method_rests_on_is_said_in_full(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "method": {"beta": 0.07, "clip_epsilon": 0.3},
            "rollout": {"group_size": 4, "temperature": 0.9},
            "schedule": {"rl_batch_size": 6, "rl_micro_batch_size": 2, "rl_steps": 11},
            "optim": {"learning_rate": 3e-4, "lr_scheduler_type": "cosine", "betas": (0.8, 0.95), "weight_decay": 0.01},
            "seed": 5,
        }
    )
    args = rl_args(config, tmp_path, CPU, processes=1, uses_gradient_checkpointing=True)
    assert (args.loss_type, args.beta, args.epsilon, args.epsilon_high) == ("grpo", 0.07, 0.3, 0.3)
    assert (args.num_iterations, args.scale_rewards, args.use_bias_correction_kl) == (1, "group", False)
    assert (args.num_generations, args.temperature, args.max_steps) == (4, 0.9, 11)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (8, 3)
    assert args.steps_per_generation == 3, "rollouts would be used for more or less than one step"
    assert (args.learning_rate, args.lr_scheduler_type, args.weight_decay) == (3e-4, "cosine", 0.01)
    assert (args.adam_beta1, args.adam_beta2, args.seed) == (0.8, 0.95, 5)
    assert (args.bf16, args.fp16, args.shuffle_dataset, args.remove_unused_columns) == (False, False, False, False)
    assert args.gradient_checkpointing and args.gradient_checkpointing_kwargs == {"use_reentrant": False}


def test_sft_has_its_own_rate_and_batch(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "optim": {"sft_learning_rate": 2e-4},
            "schedule": {"sft_batch_size": 12, "sft_micro_batch_size": 3, "sft_steps": 7},
        }
    )
    args = sft_args(config, tmp_path, CPU, processes=1, uses_gradient_checkpointing=False)
    assert (args.learning_rate, args.max_steps) == (2e-4, 7)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (3, 4)
    assert not args.gradient_checkpointing


def test_processes_that_do_not_divide_a_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 processes"):
        rl_args(RunConfig(), tmp_path, CPU, processes=3, uses_gradient_checkpointing=False)


@pytest.mark.parametrize(("dtype", "expected"), [("auto", False), ("float32", False), ("bfloat16", True)])
def test_the_number_type_is_what_is_computed_with(tmp_path: Path, dtype: str, expected: bool) -> None:
    config = RunConfig.model_validate({"model": {"dtype": dtype}})
    assert rl_args(config, tmp_path, CPU, processes=1, uses_gradient_checkpointing=False).bf16 is expected
    assert sft_args(config, tmp_path, CPU, processes=1, uses_gradient_checkpointing=False).bf16 is expected
