"""Low-rank adapters: on the language model only, unless the vision tower is asked for by name."""

from __future__ import annotations

import re
from typing import Final

from peft import LoraConfig

from hart_studio.runs.config import ModelConfig
from hart_studio.training.vision_tower import LANGUAGE_MODEL

LARGE_MODEL: Final = 1_000_000_000
"""Weights from which ``auto`` means adapters and gradient checkpointing, ours (paper, Table 8 fits adapters only)."""

LANGUAGE_LAYERS: Final = (
    r".*\b"
    + LANGUAGE_MODEL.replace(".", r"\.")
    + r"layers\.\d+\.(self_attn|mlp)\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
"""Linear layers of the language model by their full names, the same in every supported family. Vision towers have
layers of these names too, so the name of the part is what keeps them out."""

ALL_LINEAR: Final = "all-linear"
"""PEFT's word for every linear layer but the output; with it the vision tower is trained too."""


def is_lora(settings: ModelConfig, weight_count: int) -> bool:
    """Whether adapters are trained instead of the weights."""
    return settings.lora == "on" or (settings.lora == "auto" and weight_count >= LARGE_MODEL)


def uses_gradient_checkpointing(settings: ModelConfig, weight_count: int) -> bool:
    """Whether activations are recomputed in the backward pass."""
    switch = settings.gradient_checkpointing
    return switch == "on" or (switch == "auto" and weight_count >= LARGE_MODEL)


def lora_config(settings: ModelConfig) -> LoraConfig:
    """The adapters of a run. Without dropout: it would hit all completions of a group alike."""
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # its docstring allows any number
        lora_dropout=0.0,
        target_modules=LANGUAGE_LAYERS if settings.trainable_part == "language_model" else ALL_LINEAR,
        bias="none",
    )


def is_adapted(name: str, settings: ModelConfig) -> bool:
    """Whether the linear layer of that full name gets an adapter."""
    if settings.trainable_part == "language_model":
        return re.fullmatch(LANGUAGE_LAYERS, name) is not None
    return not name.endswith("lm_head")
