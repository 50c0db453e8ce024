"""Available training devices, detected without loading a deep-learning library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_QUERY: Final = ("--query-gpu=index,name,memory.total,memory.used", "--format=csv,noheader,nounits")
_TIMEOUT_SECONDS: Final = 10.0
_DEVICE: Final = re.compile(r"(?:(?P<count>[1-9]\d{0,5}) x )?(?P<kind>cpu|cuda|mps)(?:: (?P<name>.+))?")

VISIBLE_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
"""Environment variable with the GPUs that a program may use; set and empty = none."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as reported by its driver.

    Attributes:
        index: Number of the GPU in the driver.
        name: Display name.
        total_mib: Total memory; None = not reported, for example if it is shared with the CPU.
        used_mib: Used memory; None = not reported.
    """

    index: int
    name: str
    total_mib: int | None
    used_mib: int | None

    @property
    def title(self) -> str:
        """Display name with the number, since several GPUs may have the same name, and the free memory."""
        memory = ""
        if self.total_mib is not None and self.used_mib is not None:
            memory = f" ({(self.total_mib - self.used_mib) / 1024:.0f} of {self.total_mib / 1024:.0f} GB free)"
        return f"{self.index}: {self.name}{memory}"


def describe_device(device: str) -> str:
    """Describe the recorded device of a run for display.

    Args:
        device: Such as ``1 x cpu`` or ``2 x cuda: NVIDIA A100``; anything else is returned unchanged.
    """
    found = _DEVICE.fullmatch(device)
    if found is None:
        return device
    count, kind, name = int(found["count"] or 1), found["kind"], found["name"]
    if kind == "cpu":
        return "CPU" if count == 1 else f"CPU, {count} processes"
    if kind == "mps":
        return "Apple GPU (MPS)"
    return f"{count} GPU{'s' * (count > 1)}" + (f": {name}" if name else "")


def list_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """List the NVIDIA GPUs that this program may use; empty if there is no driver or it does not respond.

    Args:
        environment: Shared machines assign GPUs by ``CUDA_VISIBLE_DEVICES``, which the list of the driver
            ignores. Only numbers are supported; GPU names do not filter the list.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        output = subprocess.run(
            [program, *_QUERY], capture_output=True, text=True, check=True, timeout=_TIMEOUT_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = [gpu for line in output.splitlines() if (gpu := _read_line(line)) is not None]
    visible = [part.strip() for part in environment.get(VISIBLE_VARIABLE, "all").split(",") if part.strip()]
    is_limited = all(part.isdecimal() for part in visible)
    return [gpu for gpu in found if str(gpu.index) in visible] if is_limited else found


def _read_line(line: str) -> Gpu | None:
    """``0, NVIDIA A100-SXM4-80GB, 81920, 12`` -> a GPU; None for anything else."""
    parts = [part.strip() for part in line.split(",")]
    try:
        index, name, total, used = parts[0], ", ".join(parts[1:-2]), parts[-2], parts[-1]
        return Gpu(int(index), name, _read_mib(total), _read_mib(used))
    except (IndexError, ValueError):
        return None


def _read_mib(text: str) -> int | None:
    """Parse a number; None for ``[N/A]`` or ``[Not Supported]``."""
    return None if text.startswith("[") else int(text)
