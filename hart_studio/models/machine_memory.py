"""Free memory of the devices of this machine: CUDA, MPS, and the main memory for the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of one device.

    Attributes:
        device: ``cuda:N``, ``mps`` or ``cpu``.
        title: Display name.
        free_bytes: Free memory; None = unknown.
    """

    device: str
    title: str
    free_bytes: int | None


def list_device_memory() -> tuple[DeviceMemory, ...]:
    """List the devices, the preferred one first."""
    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    names += ["mps"] if torch.backends.mps.is_available() else []
    found = []
    for name in (*names, "cpu"):
        device = torch.device(name)
        title = torch.cuda.get_device_name(device) if device.type == "cuda" else {"mps": "Apple GPU"}.get(name, "CPU")
        found.append(DeviceMemory(name, title, free_memory(device)))
    return tuple(found)


def free_memory(device: torch.device) -> int | None:
    """Free memory of a device in bytes; None if it is unknown.

    MPS shares the main memory: it is what the driver recommends, minus what it has allocated.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None
