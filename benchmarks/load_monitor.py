"""What is measured of a server while visitors keep it busy: memory, disk, and how fast its page comes."""

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
"""Share of the time whose memory does not count: models are loaded, and threads started."""


@dataclass
class Watch:
    """Samples of one scenario."""

    folder: Path
    """The server's folder for temporary files."""
    seconds: list[float] = field(default_factory=list)
    """When each sample was taken, from the beginning."""
    server_mb: list[float] = field(default_factory=list)
    """Resident memory of the server's process, MiB."""
    tree_mb: list[float] = field(default_factory=list)
    """The same with every process that it has started."""
    disk_mb: list[float] = field(default_factory=list)
    """Size of the folder of served copies, MiB."""
    latency: dict[str, list[float]] = field(default_factory=dict)
    """Page -> seconds until it was there."""

    async def follow(self, studio: Studio, client: httpx.AsyncClient, until: float) -> None:
        """Take samples until a moment of ``time.monotonic``."""
        began = time.monotonic()
        while time.monotonic() < until:
            self.seconds.append(time.monotonic() - began)
            self.server_mb.append(memory_of(studio.process.pid, with_children=False) / 2**20)
            self.tree_mb.append(memory_of(studio.process.pid) / 2**20)
            self.disk_mb.append(await asyncio.to_thread(self.disk) / 2**20)
            await self.time_pages(client)
            await asyncio.sleep(SAMPLE_SECONDS)

    def disk(self) -> int:
        """Bytes of the server's cache now."""
        return sum(size_of(folder) for folder in self.folder.glob("hart-studio-*"))

    async def time_pages(self, client: httpx.AsyncClient) -> None:
        """Open each page once."""
        for page in PAGES:
            began = time.monotonic()
            (await client.get(page)).raise_for_status()
            self.latency.setdefault(page, []).append(time.monotonic() - began)

    def sum_up(self) -> dict[str, Any]:
        """Figures for a table."""
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
    """Slope of a straight line through values, per second, and its standard error."""
    if len(times) < 3:
        return 0.0, 0.0
    slope, intercept = statistics.linear_regression(times, values)
    squares = sum((value - slope * one - intercept) ** 2 for one, value in zip(times, values, strict=True))
    spread = sum((one - statistics.fmean(times)) ** 2 for one in times)
    return slope, (squares / (len(times) - 2) / spread) ** 0.5
