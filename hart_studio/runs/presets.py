"""Table of presets. Settings that a preset does not set keep the default of ``RunConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hart_studio.errors import InputError
from hart_studio.runs.config import RunConfig


@dataclass(frozen=True)
class Preset:
    """A named preset.

    Attributes:
        title: Display title: what it trains, and on what machine.
        config: Its settings.
    """

    title: str
    config: RunConfig


_PAPER_DATA: Final = {
    # The split of the paper (Sec. 4.3); the number of held-out rows is a project default.
    "source": "mme_realworld",
    "path": "data/MME-RealWorld",
    "rl_samples": 10_000,
    "eval_samples": 200,
}


def _full_size(model_id: str, **changes: Mapping[str, Any]) -> RunConfig:
    """One pass over the RL samples, then one over the SFT samples. The paper states neither steps nor rates."""
    sections: dict[str, Mapping[str, Any]] = {
        "model": {"id": model_id, "lora": "on", "gradient_checkpointing": "on"},
        "data": _PAPER_DATA,
        "optim": {"learning_rate": 1e-5, "sft_learning_rate": 1e-5, "warmup_steps": 20},
        "schedule": {
            "rl_steps": 625,  # 10,000 samples
            "sft_steps": 359,  # 11,490 samples
            "rl_batch_size": 16,
            "sft_batch_size": 32,
            "sft_micro_batch_size": 1,
            "save_steps": 100,
            "rollout_log_steps": 10,
            "eval_steps": 100,
        },
    }
    for name, section in changes.items():
        sections[name] = {**sections.get(name, {}), **section}
    return RunConfig.model_validate(sections)


_BUILT_IN_ROLLOUT: Final = {"max_grounding_tokens": 64, "max_answer_tokens": 32}

PRESETS: Final[dict[str, Preset]] = {
    "cpu-demo": Preset(
        "CPU demo, 10 minutes",
        RunConfig.model_validate(
            {
                "rollout": _BUILT_IN_ROLLOUT,
                "method": {"stages": "ap_grpo", "answer_format": "option_text"},
                "optim": {"learning_rate": 1e-4},
                "schedule": {"rl_steps": 60, "rl_batch_size": 8, "rl_micro_batch_size": 8},
            }
        ),
    ),
    "cpu-miniature": Preset(
        "The paper's recipe in miniature, CPU",
        RunConfig.model_validate(
            {
                "data": {"needle_samples": 1700, "rl_samples": 480, "sft_samples": 960, "eval_samples": 200},
                "rollout": _BUILT_IN_ROLLOUT,
                "method": {"answer_format": "option_text"},
                "optim": {"learning_rate": 1e-4, "sft_learning_rate": 1e-4},
                "schedule": {
                    "rl_steps": 60,
                    "sft_steps": 60,
                    "rl_micro_batch_size": 8,
                    "sft_micro_batch_size": 16,
                    "rollout_log_steps": 10,
                    "eval_steps": 20,
                },
            }
        ),
    ),
    "qwen2.5-vl-7b-lora": Preset(
        "The paper's setup: Qwen2.5-VL-7B, LoRA, one GPU or several",
        _full_size("Qwen/Qwen2.5-VL-7B-Instruct"),
    ),
    "qwen2.5-vl-3b-lora": Preset(
        "Qwen2.5-VL-3B, LoRA",
        _full_size("Qwen/Qwen2.5-VL-3B-Instruct"),
    ),
    "qwen2.5-vl-7b-qlora-24gb": Preset(
        "Qwen2.5-VL-7B, QLoRA (4-bit), one GPU with 24 GB",
        _full_size(
            "Qwen/Qwen2.5-VL-7B-Instruct",
            model={"quantization": "4bit"},
            rollout={"overview_max_pixels": 1_003_520, "crop_max_pixels": 501_760},  # limits the activations
        ),
    ),
    "internvl3-8b-lora": Preset(
        "InternVL3-8B, LoRA",
        _full_size("OpenGVLab/InternVL3-8B-hf"),
    ),
    "llava-onevision-7b-lora": Preset(
        "LLaVA-OneVision-7B, LoRA",
        _full_size("llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    ),
    "full-finetune-zero3": Preset(
        "Qwen2.5-VL-7B, all weights, ZeRO-3",
        _full_size(
            "Qwen/Qwen2.5-VL-7B-Instruct",
            model={"lora": "off"},
            optim={"learning_rate": 1e-6, "sft_learning_rate": 5e-6},
        ),
    ),
}
"""Presets by the name for ``--preset``."""

DEFAULT_PRESET: Final = "cpu-demo"
"""Preset of a command without settings, and of a new form."""


def get_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        InputError: If there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"Unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
