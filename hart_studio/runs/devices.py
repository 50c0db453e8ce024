"""What this machine can train on, found without loading a deep-learning library."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

_QUERY: Final = ("--query-gpu=index,name,memory.total,memory.used", "--format=csv,noheader,nounits")
_PATIENCE_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Gpu:
    """A graphics processor as its driver tells.

    Attributes:
        index: Number by which the driver knows it.
        name: For people.
        total_mib: Its memory.
        used_mib: How much of it is taken.
    """

    index: int
    name: str
    total_mib: int
    used_mib: int


def list_gpus() -> list[Gpu]:
    """The NVIDIA processors; none when there is no driver, or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        told = subprocess.run(
            [program, *_QUERY], capture_output=True, text=True, check=True, timeout=_PATIENCE_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [gpu for line in told.splitlines() if (gpu := _read_line(line)) is not None]


def _read_line(line: str) -> Gpu | None:
    """``0, NVIDIA A100-SXM4-80GB, 81920, 12`` -> a processor; None for anything else."""
    parts = [part.strip() for part in line.split(",")]
    try:
        index, name, total, used = parts[0], ", ".join(parts[1:-2]), parts[-2], parts[-1]
        return Gpu(int(index), name, int(total), int(used))
    except (IndexError, ValueError):
        return None
