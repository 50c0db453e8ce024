"""Device and precision of a model that runs in this process.

``auto`` is CUDA, then Apple's MPS, then the CPU. Large models compute in bfloat16 on a CPU with instructions for it.
"""

from __future__ import annotations

import re
from typing import Final

import torch

from hart_studio.errors import ModelError

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

LARGE_WEIGHT_BYTES: Final = 2**30
"""Size of the weight files from which ``auto`` may choose bfloat16 on the CPU. A small model gains nothing, and
float32 makes its output the same on every CPU. Project default."""

_MPS_BFLOAT16_MACOS: Final = (14, 0)
"""First version of macOS whose MPS has bfloat16."""


def resolve_device(device: str) -> torch.device:
    """Resolve the name of a device.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ModelError: If the name is invalid, or this machine does not have the device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise ModelError(f"Invalid device {device!r}: use auto, cpu, cuda, cuda:N or mps.")
    found = torch.device(device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"Device {device!r} is not available: this machine has {torch.cuda.device_count()} CUDA devices. "
            "Use device='cpu', or install a CUDA build of torch and a driver."
        )
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError(
            "Device 'mps' is not available: it needs a Mac with Apple silicon and a torch build for macOS. "
            "Use device='cpu'."
        )
    return found


def resolve_dtype(dtype: str, device: torch.device, weight_bytes: int = 0) -> torch.dtype:
    """Resolve the name of a precision.

    Args:
        dtype: ``auto`` or a name in ``DTYPES``. ``auto`` is bfloat16 on CUDA, and on MPS from macOS 14. On the CPU it
            is bfloat16 if the weights have at least ``LARGE_WEIGHT_BYTES`` and the CPU has bfloat16 instructions.
            Otherwise it is float32.
        device: The device.
        weight_bytes: Size of the weight files; 0 = a small model.

    Raises:
        ModelError: If the name is invalid.
    """
    if dtype != "auto":
        if dtype not in DTYPES:
            raise ModelError(f"Invalid dtype {dtype!r}: use auto, {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16
    if device.type == "mps":
        is_new = torch.backends.mps.is_macos_or_newer(*_MPS_BFLOAT16_MACOS)
        return torch.bfloat16 if is_new else torch.float32
    if weight_bytes >= LARGE_WEIGHT_BYTES and has_cpu_bfloat16():
        return torch.bfloat16
    return torch.float32


def has_cpu_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware (AVX512-BF16 or AMX)."""
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
