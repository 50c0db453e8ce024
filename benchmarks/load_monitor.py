"""Monitor a server under load: memory, disk, and page load time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.studio import Studio, memory_of, size_of

PAGES = ("/", "/config")
SAMPLE_SECONDS = 2.0
WARM_SHARE = 0.2
"""Share of the time at the start that is excluded from memory statistics: models are loaded, and threads started."""


@dataclass
class Watch:
    """Samples of one scenario."""

    folder: Path
    """Folder of temporary files of the server."""
    seconds: list[float] = field(default_factory=list)
    """Time of each sample, from the start."""
    server_mb: list[float] = field(default_factory=list)
    """Resident memory of the server process, MiB."""
    tree_mb: list[float] = field(default_factory=list)
    """Resident memory including child processes, MiB."""
    disk_mb: list[float] = field(default_factory=list)
    """Size of the folder of served copies, MiB."""
    latency: dict[str, list[float]] = field(default_factory=dict)
    """Page -> load time in seconds."""

    async def follow(self, studio: Studio, client: httpx.AsyncClient, until: float) -> None:
        """Take samples until a time of ``time.monotonic``."""
        began = time.monotonic()
        while time.monotonic() < until:
            self.seconds.append(time.monotonic() - began)
            self.server_mb.append(memory_of(studio.process.pid, with_children=False) / 2**20)
            self.tree_mb.append(memory_of(studio.process.pid) / 2**20)
            self.disk_mb.append(await asyncio.to_thread(self.disk) / 2**20)
            await self.time_pages(client)
            await asyncio.sleep(SAMPLE_SECONDS)

    def disk(self) -> int:
        """Current size of the server cache, bytes."""
        return sum(size_of(folder) for folder in self.folder.glob("hart-studio-*"))

    async def time_pages(self, client: httpx.AsyncClient) -> None:
        """Open each page once."""
        for page in PAGES:
            began = time.monotonic()
            (await client.get(page)).raise_for_status()
            self.latency.setdefault(page, []).append(time.monotonic() - began)

    def summarize(self) -> dict[str, Any]:
        """Summarize the samples for a table."""
        if not self.seconds:
            return {"latency_ms": {page: percentiles(times) for page, times in self.latency.items()}}
        start = next(index for index, one in enumerate(self.seconds) if one >= WARM_SHARE * self.seconds[-1])
        times, memory = self.seconds[start:], self.server_mb[start:]
        slope, error = fit_slope(times, memory)
        return {
            "memory_mb": [round(min(memory)), round(statistics.median(memory)), round(max(memory))],
            "memory_slope_mb_per_minute": [round(60 * slope, 2), round(60 * error, 2)],
            "tree_mb_most": round(max(self.tree_mb)),
            "disk_mb": [round(self.disk_mb[0], 1), round(max(self.disk_mb), 1), round(self.disk_mb[-1], 1)],
            "latency_ms": {page: percentiles(times) for page, times in self.latency.items()},
        }


def percentiles(seconds: Sequence[float]) -> list[float]:
    """Median and 95th percentile, milliseconds."""
    ordered = sorted(seconds)
    return [round(1000 * ordered[int(share * (len(ordered) - 1))], 1) for share in (0.5, 0.95)]


def fit_slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Linear fit: slope per second and its standard error."""
    if len(times) < 3:
        return 0.0, 0.0
    slope, intercept = statistics.linear_regression(times, values)
    squares = sum((value - slope * one - intercept) ** 2 for one, value in zip(times, values, strict=True))
    spread = sum((one - statistics.fmean(times)) ** 2 for one in times)
    return slope, (squares / (len(times) - 2) / spread) ** 0.5
