"""LoRA adapters: on the language model only, unless the settings include the vision tower."""

from __future__ import annotations

import re
from typing import Final

from peft import LoraConfig

from hart_studio.runs.config import ModelConfig
from hart_studio.training.vision_tower import LANGUAGE_MODEL

LARGE_MODEL: Final = 1_000_000_000
"""Number of weights from which ``auto`` enables adapters and gradient checkpointing (paper, Table 8). Project
default."""

LANGUAGE_LAYERS: Final = (
    r".*\b"
    + LANGUAGE_MODEL.replace(".", r"\.")
    + r"layers\.\d+\.(self_attn|mlp)\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
"""Linear layers of the language model by their full names, the same in every supported family. Vision towers have
layers with these names too; the name of the part excludes them."""

ALL_LINEAR: Final = "all-linear"
"""PEFT keyword for all linear layers except the output; includes the vision tower."""


def is_lora(settings: ModelConfig, weight_count: int) -> bool:
    """Whether adapters are trained instead of the weights."""
    return settings.lora == "on" or (settings.lora == "auto" and weight_count >= LARGE_MODEL)


def uses_gradient_checkpointing(settings: ModelConfig, weight_count: int) -> bool:
    """Whether activations are recomputed in the backward pass."""
    switch = settings.gradient_checkpointing
    return switch == "on" or (switch == "auto" and weight_count >= LARGE_MODEL)


def lora_config(settings: ModelConfig) -> LoraConfig:
    """LoRA config of a run. Without dropout, which would affect all completions of a group equally."""
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # its docstring allows any number
        lora_dropout=0.0,
        target_modules=LANGUAGE_LAYERS if settings.trainable_part == "language_model" else ALL_LINEAR,
        bias="none",
    )


def is_adapted(name: str, settings: ModelConfig) -> bool:
    """Whether the linear layer with this full name gets an adapter."""
    if settings.trainable_part == "language_model":
        return re.fullmatch(LANGUAGE_LAYERS, name) is not None
    return not name.endswith("lm_head")
