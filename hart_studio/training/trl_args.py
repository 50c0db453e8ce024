"""Convert run settings to trainer arguments. Everything the method depends on is set explicitly.

TRL's own defaults (``beta=0``, ``loss_type="dapo"``, a KL term times the ratio, bfloat16, activation checkpointing) are
different from the paper.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from trl.trainer.grpo_config import GRPOConfig

from hart_studio.runs.config import RunConfig
from hart_studio.training.initial_model import computation_dtype


def rl_args(
    config: RunConfig, output: Path, device: torch.device, *, processes: int, uses_gradient_checkpointing: bool
) -> GRPOConfig:
    """Arguments of an RL stage.

    Args:
        config: Settings of the run.
        output: Draft folder of the checkpoints.
        device: Device of this process.
        processes: Number of processes per step.
        uses_gradient_checkpointing: Whether activations are recomputed.

    Raises:
        InputError: If a step does not divide evenly.
    """
    rollout, method, schedule = config.rollout, config.method, config.schedule
    micro_batches = schedule.count_micro_batches("rl", processes)
    return GRPOConfig(
        **_shared_args(config, output, device, uses_gradient_checkpointing),
        max_steps=schedule.rl_steps,
        learning_rate=config.optim.learning_rate,
        per_device_train_batch_size=schedule.rl_micro_batch_size * rollout.group_size,
        gradient_accumulation_steps=micro_batches,
        steps_per_generation=micro_batches,  # one optimizer step per rollout
        num_iterations=1,
        num_generations=rollout.group_size,
        temperature=rollout.temperature,
        max_completion_length=max(rollout.max_grounding_tokens, rollout.max_answer_tokens),
        beta=method.beta,
        epsilon=method.clip_epsilon,
        epsilon_high=method.clip_epsilon,
        loss_type="grpo",
        scale_rewards="group",
        use_bias_correction_kl=False,  # the KL term of Eq. 2 and 4 is not weighted by the ratio
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        entropy_coef=0.0,
        mask_truncated_completions=False,
        sync_ref_model=False,
        shuffle_dataset=False,  # rows come in the order of the run
        disable_dropout=False,
        log_completions=False,
        use_vllm=False,
    )


def sft_args(
    config: RunConfig, output: Path, device: torch.device, *, processes: int, uses_gradient_checkpointing: bool
) -> TrainingArguments:
    """Arguments of an SFT stage; see ``rl_args``."""
    schedule = config.schedule
    return TrainingArguments(
        **_shared_args(config, output, device, uses_gradient_checkpointing),
        max_steps=schedule.sft_steps,
        learning_rate=config.optim.sft_learning_rate,
        per_device_train_batch_size=schedule.sft_micro_batch_size,
        gradient_accumulation_steps=schedule.count_micro_batches("sft", processes),
    )


def _shared_args(
    config: RunConfig, output: Path, device: torch.device, uses_gradient_checkpointing: bool
) -> dict[str, Any]:
    optim = config.optim
    return {
        "output_dir": str(output),
        "seed": config.seed,
        "use_cpu": device.type == "cpu",
        # Trained weights stay in float32 and are computed in the precision of the settings.
        "bf16": computation_dtype(config.model, device) == "bfloat16",
        "fp16": False,
        "optim": "adamw_torch",
        "weight_decay": optim.weight_decay,
        "adam_beta1": optim.betas[0],
        "adam_beta2": optim.betas[1],
        "max_grad_norm": optim.max_grad_norm,
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(optim.lr_scheduler_type, optim.lr_scheduler_type),
        "warmup_steps": optim.warmup_steps,
        "activation_checkpointing": uses_gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "ddp_find_unused_parameters": True,  # a pass without an image does not use a trained vision tower
        "average_tokens_across_devices": False,  # row weights already include all processes
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # non-finite values must be visible
        "save_strategy": "no",  # the run callback decides
        "eval_strategy": "no",
        "report_to": list(config.trackers) or "none",
        "run_name": config.name or None,
        "disable_tqdm": True,  # there is one progress bar for the whole run
    }
