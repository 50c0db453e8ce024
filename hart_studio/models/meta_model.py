"""A model without weights, built from its ``config.json`` on the meta device, and its sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from hart_studio.errors import ModelError
from hart_studio.models.config_files import check_config_files
from hart_studio.models.memory import Architecture
from hart_studio.models.quantization import is_quantized_layer


def build_meta_model(folder: Path) -> Any:
    """Build the model of a folder without weights.

    Args:
        folder: Folder with ``config.json``; the weights may be missing.

    Raises:
        ModelError: If a file names another resource to open, or ``config.json`` is invalid.
    """
    check_config_files(str(folder), folder)
    try:
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            auto: Any = AutoModelForImageTextToText
            return auto.from_config(settings, trust_remote_code=False)
    except Exception as error:  # a damaged file can raise any error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"config.json in {folder} is invalid: {reason}. Download or save the model again.") from error


def count_quantized(model: torch.nn.Module) -> int:
    """Number of weights that are quantized: matrices of the linear layers, without the vision tower and output."""
    return sum(
        layer.weight.numel()
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and is_quantized_layer(name)
    )


def read_architecture(folder: Path) -> Architecture:
    """Read the sizes of the model in a folder, counting the weights of a model on the meta device.

    Raises:
        ModelError: See ``build_meta_model``.
    """
    return describe_architecture(build_meta_model(folder))


def describe_architecture(model: Any) -> Architecture:
    """Return the sizes of a transformers model.

    Args:
        model: A model of a supported family, on any device.
    """
    text, vision = model.config.get_text_config(), model.config.vision_config
    heads = text.num_attention_heads
    # Qwen2-VL calls the width embed_dim, and hidden_size the width of the output.
    vision_hidden = getattr(vision, "embed_dim", None) or vision.hidden_size
    return Architecture(
        family=model.config.model_type,
        parameters=sum(weight.numel() for weight in model.parameters()),
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        vision_hidden_size=vision_hidden,
        vision_intermediate_size=getattr(vision, "intermediate_size", None) or 4 * vision_hidden,
    )
