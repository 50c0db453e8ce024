"""Dry run: split sizes, memory, devices. Writes nothing and loads no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoModelForImageTextToText

from hart_studio.data.run_samples import load_samples, split_config
from hart_studio.errors import HartError
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.config_files import check_config_files
from hart_studio.models.quantization import is_quantized_layer
from hart_studio.runs.config import RunConfig
from hart_studio.runs.devices import describe_device
from hart_studio.training.initial_model import computation_dtype, is_adapted, is_lora, uses_gradient_checkpointing
from hart_studio.training.trainable_model import freeze_vision_tower

_GIB: Final = 2**30
_FLOAT: Final = 4
"""Bytes of a float32 value: trained weights, gradients and each of the two AdamW moments."""

_QUANTIZED_BYTES: Final = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}
"""Bytes of a quantized weight. 4-bit weights have an 8-bit scale for 64 of them, and a float32 scale for 256 scales."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one process in bytes, without activations and sharding.

    Attributes:
        weight_count: Number of weights of the model.
        trained_count: Number of trained weights.
        weights: Bytes of the policy.
        reference: Bytes of a copy as the reference policy; 0 with adapters, which are disabled instead.
        optimizer: Bytes of gradients and moments.
        is_lora: Whether adapters are trained.
        uses_gradient_checkpointing: Whether activations are recomputed.
    """

    weight_count: int
    trained_count: int
    weights: int
    reference: int
    optimizer: int
    is_lora: bool
    uses_gradient_checkpointing: bool

    @property
    def total(self) -> int:
        """Total bytes."""
        return self.weights + self.reference + self.optimizer


def estimate_memory(config: RunConfig, device: torch.device) -> MemoryEstimate | None:
    """Estimate the memory from the ``config.json`` of the model; None if it is not on this machine."""
    folder = find_model_folder(config)
    if folder is None:
        return None
    check_config_files(str(folder), folder)
    settings = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        auto: Any = AutoModelForImageTextToText
        model = auto.from_config(settings, trust_remote_code=False)
    count = sum(weight.numel() for weight in model.parameters())
    uses_lora = is_lora(config.model, count)
    if not uses_lora and config.model.freeze_vision_tower:
        freeze_vision_tower(model)
    in_full = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    trained = _count_adapters(model, config) if uses_lora else in_full
    is_half = computation_dtype(config.model, device) == "bfloat16"
    size = 2 if uses_lora and is_half else _FLOAT
    quantized = _count_quantized(model) if config.model.quantization != "none" else 0
    kept = (count - quantized) * size + round(quantized * _QUANTIZED_BYTES.get(config.model.quantization, 0))
    needs_copy = config.method.beta > 0 and not uses_lora and any(stage != "sft" for stage in config.method.stage_names)
    return MemoryEstimate(
        weight_count=count,
        trained_count=trained,
        weights=kept + (trained * _FLOAT if uses_lora else 0),
        reference=count * size if needs_copy else 0,
        optimizer=3 * trained * _FLOAT,
        is_lora=uses_lora,
        uses_gradient_checkpointing=uses_gradient_checkpointing(config.model, count),
    )


@dataclass(frozen=True)
class DryRunReport:
    """Report of a dry run.

    Attributes:
        lines: Lines to print.
        is_usable: False if the samples cannot be read or split, so that the run would fail.
    """

    lines: tuple[str, ...]
    is_usable: bool


def describe_batching(config: RunConfig, stage: str, processes: int) -> str:
    """Describe the micro-batches of a step of a stage.

    Raises:
        InputError: If the step does not divide evenly.
    """
    portions = config.schedule.count_micro_batches(stage, processes)
    items = "samples" if stage == "sft" else "questions"
    how = f"in {portions} micro-batches" if portions > 1 else "in one batch"
    return f"every step processes its {items} {how}" + (f", on each of {processes} processes" if processes > 1 else "")


def describe_dry_run(config: RunConfig, device: torch.device, processes: int, images: Path) -> DryRunReport:
    """Describe the plan of a run.

    Args:
        config: Settings of the run.
        device: Device of this process.
        processes: Number of processes per step.
        images: Folder for generated images; not created.
    """
    device_text = describe_device(f"{processes} x {device.type}")
    lines = [f"device: {device_text}", f"steps: {config.total_steps} ({config.method.stages})"]
    lines += [f"  {stage}: {describe_batching(config, stage, processes)}" for stage in config.method.stage_names]
    lines += [f"warning: {warning}" for warning in config.warnings]
    split, is_usable = _describe_split(config, images)
    lines.append(split)
    memory = estimate_memory(config, device)
    if memory is None:
        lines.append("memory: unknown, the model is not downloaded yet")
        return DryRunReport(tuple(lines), is_usable)
    how = "adapters" if memory.is_lora else "full fine-tuning, no adapters"
    lines.append(
        f"model: {memory.weight_count:,} weights, {memory.trained_count:,} trained ({how}), gradient checkpointing "
        f"{'on' if memory.uses_gradient_checkpointing else 'off'}"
    )
    lines.append(
        f"memory per process before activations: {memory.total / _GIB:.2f} GiB (weights {memory.weights / _GIB:.2f}, "
        f"reference {memory.reference / _GIB:.2f}, gradients and optimizer {memory.optimizer / _GIB:.2f})"
    )
    return DryRunReport(tuple(lines), is_usable)


def _describe_split(config: RunConfig, images: Path) -> tuple[str, bool]:
    """Describe the samples, and whether they are valid, as far as known."""
    if config.data.source == "hf":
        return "samples: not read, the Hub dataset would be downloaded", True
    try:
        split = split_config(config, load_samples(config.data, images, makes_folder=False))
    except HartError as error:
        return f"samples: {error}", False
    return f"samples: {len(split.rl)} for RL, {len(split.sft)} for SFT, {len(split.evaluation)} held out", True


def find_model_folder(config: RunConfig) -> Path | None:
    """Folder with the ``config.json`` of the model, without using the Hub; None if it is not on this machine."""
    name = config.model.id or BUILT_IN_MODEL
    if (Path(name) / "config.json").is_file():
        return Path(name)
    if Path(name).is_absolute() or name.count("/") != 1:
        return None
    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def _count_quantized(model: torch.nn.Module) -> int:
    """Number of weights that are quantized: matrices of the linear layers, without the vision tower and output."""
    return sum(
        layer.weight.numel()
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and is_quantized_layer(name)
    )


def _count_adapters(model: torch.nn.Module, config: RunConfig) -> int:
    """Number of weights of the adapters."""
    layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and is_adapted(name, config.model)
    ]
    return sum(config.model.lora_r * (layer.in_features + layer.out_features) for layer in layers)
