"""Load the initial model of a stage.

The first stage starts from the model of the settings, a later one from the checkpoint at the end of the previous
stage. A run that trains adapters uses one set of adapters for all stages, on the same base model, so every checkpoint
is a complete model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import ProcessorMixin, set_seed

from hart_studio.errors import ModelError
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.config_files import check_adapter_weights, check_config_files
from hart_studio.models.loading import load_model
from hart_studio.runs.config import ModelConfig, RunConfig
from hart_studio.training.trainable_model import LANGUAGE_MODEL, freeze_vision_tower

LARGE_MODEL: Final = 1_000_000_000
"""Number of weights from which ``auto`` enables adapters and gradient checkpointing. The paper uses LoRA for a 7B model
(Table 8)."""

LANGUAGE_LAYERS: Final = (
    r".*\b"
    + LANGUAGE_MODEL.replace(".", r"\.")
    + r"layers\.\d+\.(self_attn|mlp)\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
"""Linear layers of the language model by their full names, the same in every supported family. Vision towers have
layers with these names too; the name of the part excludes them."""

ALL_LINEAR: Final = "all-linear"
"""PEFT keyword for all linear layers except the output; includes the vision tower."""

ADAPTER_FILE = "adapter_config.json"


def is_lora(settings: ModelConfig, weight_count: int) -> bool:
    """Whether adapters are trained instead of the weights; always with quantized weights."""
    return (
        settings.lora == "on"
        or settings.quantization != "none"
        or (settings.lora == "auto" and weight_count >= LARGE_MODEL)
    )


def uses_gradient_checkpointing(settings: ModelConfig, weight_count: int) -> bool:
    """Whether activations are recomputed in the backward pass."""
    switch = settings.gradient_checkpointing
    return switch == "on" or (switch == "auto" and weight_count >= LARGE_MODEL)


def computation_dtype(settings: ModelConfig, device: torch.device) -> str:
    """Precision of the computation in training: ``auto`` is bfloat16 on CUDA, otherwise float32."""
    if settings.dtype != "auto":
        return settings.dtype
    return "bfloat16" if device.type == "cuda" else "float32"


def lora_config(settings: ModelConfig) -> LoraConfig:
    """LoRA config of a run. Without dropout, which would affect all completions of a group equally."""
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # its docstring allows any number
        lora_dropout=0.0,
        target_modules=LANGUAGE_LAYERS if settings.freeze_vision_tower else ALL_LINEAR,
        bias="none",
    )


def is_adapted(name: str, settings: ModelConfig) -> bool:
    """Whether the linear layer with this full name gets an adapter."""
    if settings.freeze_vision_tower:
        return re.fullmatch(LANGUAGE_LAYERS, name) is not None
    return not name.endswith("lm_head")


@dataclass(frozen=True, eq=False)
class InitialModel:
    """A model ready for training.

    Attributes:
        model: The model, or a PEFT model of it.
        processor: Its processor.
        new_adapters: Adapters to add; None = the model has them, or all weights are trained.
        base_name: Base model name in adapter configs.
        uses_gradient_checkpointing: Whether activations are recomputed in the backward pass.
    """

    model: Any
    processor: ProcessorMixin
    new_adapters: LoraConfig | None
    base_name: str
    uses_gradient_checkpointing: bool

    def with_adapters(self, seed: int) -> Any:
        """Return the model with adapters, for a trainer that does not add them."""
        if self.new_adapters is None:
            adapted = self.model
        else:
            set_seed(seed)
            adapted = get_peft_model(self.model, self.new_adapters)
        if isinstance(adapted, PeftModel) and self.uses_gradient_checkpointing:
            adapted.enable_input_require_grads()
        return adapted


def load_initial_model(config: RunConfig, device: torch.device, previous: Path | None) -> InitialModel:
    """Load the model of a stage.

    Args:
        config: Settings of the run.
        device: Device of this process.
        previous: Checkpoint at the end of the previous stage; None for the first stage.

    Raises:
        ModelError: If it cannot be loaded, or is an adapter of another model.
    """
    name = config.model.id or BUILT_IN_MODEL
    if (Path(name) / ADAPTER_FILE).is_file():
        raise ModelError(f"model.id is the adapter {name}. Merge it into its base model, and use the merged model.")
    has_adapters = previous is not None and (previous / ADAPTER_FILE).is_file()
    source = name if previous is None or has_adapters else str(previous)
    loaded = load_model(
        source,
        device=str(device),
        dtype=computation_dtype(config.model, device),
        quantization=config.model.quantization,
    )
    model, processor = loaded.model, loaded.processor
    weight_count = model.num_parameters()  # a packed 4-bit weight is half a byte of its tensor
    adapters = has_adapters or (previous is None and is_lora(config.model, weight_count))
    if not adapters:
        model = model.float()  # fine-tuning updates are smaller than the resolution of bfloat16
        if config.model.freeze_vision_tower:
            freeze_vision_tower(model)
    if config.model.attn_implementation not in ("auto", "sdpa"):
        model.set_attn_implementation(config.model.attn_implementation)
    if has_adapters and previous is not None:
        check_config_files(str(previous), previous)
        check_adapter_weights(str(previous), previous)
        model = PeftModel.from_pretrained(model, previous, is_trainable=True, local_files_only=True)
    return InitialModel(
        model=model,
        processor=processor,
        new_adapters=lora_config(config.model) if adapters and not has_adapters else None,
        base_name=str(Path(name).resolve()) if Path(name).is_dir() else name,
        uses_gradient_checkpointing=uses_gradient_checkpointing(config.model, weight_count),
    )
