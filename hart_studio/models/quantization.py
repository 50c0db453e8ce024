"""4-bit and 8-bit weights through bitsandbytes. Only the language model is quantized.

Torch is imported by the functions that need it, so a command can add its option without the delay.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from hart_studio.errors import ModelError

if TYPE_CHECKING:
    import torch

Quantization = Literal["none", "4bit", "8bit"]
"""``4bit`` = NF4 with double quantization, ``8bit`` = LLM.int8()."""

UNQUANTIZED_PARTS: Final = (
    r"model\.visual",
    r"model\.vision_tower",
    r"model\.multi_modal_projector",
    "lm_head",
)
"""Patterns of modules in the original precision: the vision tower and its projector, in all families, which are a small
part of the weights and determine the boxes, and the output layer."""

BLOCK: Final = 64
"""Weights with one scale in 4-bit quantization; default of bitsandbytes."""

_DEVICES: Final = ("cpu", "cuda")
"""Supported devices. Others that bitsandbytes names are untested here."""


def add_quantization_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--quantization``."""
    parser.add_argument(
        "--quantization",
        choices=get_args(Quantization),
        default="none",
        help="weights of the language model in 4 or 8 bits; needs bitsandbytes (%(default)s)",
    )


def is_quantized_layer(name: str) -> bool:
    """Whether quantization applies to the linear layer with this full name."""
    return not any(re.match(rf"(?:{part})(?:\.|$)", name) for part in UNQUANTIZED_PARTS)


def make_quantization_config(quantization: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Make the ``quantization_config`` for ``from_pretrained``; None for ``none``.

    Args:
        quantization: ``none``, ``4bit`` or ``8bit``.
        device: Device of the model.
        dtype: Precision of the computation and of the unquantized parts.

    Raises:
        ModelError: If it is invalid, bitsandbytes is not installed, or the device is not supported.
    """
    if quantization not in get_args(Quantization):
        raise ModelError(f"Invalid quantization {quantization!r}: use {', '.join(get_args(Quantization))}.")
    if quantization == "none":
        return None
    if device.type not in _DEVICES:
        raise ModelError(
            f"Quantization {quantization} is not supported on {device.type}, only on {' and '.join(_DEVICES)}. "
            "Remove it, or use another device."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"Quantization {quantization} needs bitsandbytes, which is not installed. "
            "Run pip install -r requirements-quantization.txt, or remove it."
        )
    from transformers import BitsAndBytesConfig  # noqa: PLC0415 - takes seconds

    make: Any = BitsAndBytesConfig
    if quantization == "8bit":
        return make(load_in_8bit=True, llm_int8_skip_modules=list(UNQUANTIZED_PARTS))
    return make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(UNQUANTIZED_PARTS),
    )


def check_quantized_shapes(name: str, model: torch.nn.Module, quantization: str, device: torch.device) -> None:
    """Check the layers of a model loaded in 4 bits for the CPU, whose kernels need whole blocks in each row.

    The published checkpoints of all families have them.

    Raises:
        ModelError: If a layer has another number of inputs.
    """
    import torch  # noqa: PLC0415 - takes seconds

    if quantization != "4bit" or device.type != "cpu":
        return
    for layer, part in model.named_modules():
        if isinstance(part, torch.nn.Linear) and is_quantized_layer(layer) and part.in_features % BLOCK:
            raise ModelError(
                f"{name} cannot run with 4-bit weights on the CPU: {layer} has {part.in_features} inputs, which is not "
                f"a multiple of {BLOCK}. Use quantization 8bit or none."
            )


def keep_differentiable(model: torch.nn.Module) -> None:
    """Keep 4-bit layers in the layout that has gradients; call it before the first forward pass of training.

    On a CPU with bfloat16 instructions, bitsandbytes repacks the weights in the first pass in eval mode, for a kernel
    without a gradient, and uses that kernel in training too: layers before it would get none, without an error.
    """
    part: Any
    for part in model.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False
