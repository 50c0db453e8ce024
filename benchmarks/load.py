"""Load test: ``python -m benchmarks.load [--visitors 50] [--minutes 5] [--json FILE]``.

One server, ``app.py`` in its own process, and simulated visitors, HTTP clients in this process. Scenarios:

- idle: no requests; page load time.
- load: each visitor uploads images, asks, waits, pauses, asks again; one in twenty disconnects before the answer.
- departed: twenty visitors ask and disconnect at once; wait time of the next one.
- burst: all visitors ask at the same time; those above the queue limit are refused.
- swap: the questions go to three models in turn, one more than fit in memory.
- trainings: two training runs are started from the page and queued, while visitors ask.

Anything but an answer or a clear refusal is a failure. Memory is of the server process; its slope is fitted to
the last four fifths of a scenario. ``--cache-mb`` limits served copies, so that the limit is reached.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.load_monitor import Watch
from benchmarks.load_sessions import EXAMPLES, Habits, QuestionStats, ask, upload, visit
from benchmarks.studio import Studio
from hart_studio.models.catalog import BUILT_IN, BUILT_IN_HART, BUILT_IN_MODEL
from hart_studio.runs.reader import RunSummary, list_runs

IDLE_REQUESTS = 20
DEPARTING = 20
TRAINING = {
    "set-method-stages": "ap_grpo",
    "set-data-rl-samples": 64,
    "set-data-eval-samples": 0,
    "set-data-needle-samples": 64,
    "set-rollout-group-size": 4,
    "set-schedule-rl-steps": 4,
    "set-schedule-rl-batch-size": 8,
    "set-schedule-eval-steps": 0,
    "set-schedule-rollout-log-steps": 0,
    "set-schedule-save-steps": 0,
}
"""Form fields -> values of a training run of one or two minutes."""


class Bench:
    """The scenarios on one server."""

    def __init__(self, folder: Path, visitors: int, minutes: float, cache_mb: int) -> None:
        """Start the server.

        Args:
            folder: Folder of all its files.
            visitors: Number of concurrent visitors.
            minutes: Duration of the scenario "load"; the others take about a fifth of it.
            cache_mb: Size limit of served copies.
        """
        self.folder = folder
        self.visitors = visitors
        self.seconds = 60 * minutes
        flags = ["--runs-root", "runs", "--labels-root", "labels", "--cache-mb", str(cache_mb)]
        self.studio = Studio(*flags, folder=folder)
        copied = folder / "another-model"
        shutil.copytree(BUILT_IN_MODEL, copied)
        self.models = (BUILT_IN, BUILT_IN_HART, str(copied))
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=visitors, keepalive_expiry=2)
        self.client = httpx.AsyncClient(base_url=self.studio.url, timeout=600, limits=limits)

    async def idle(self) -> dict[str, Any]:
        """Measure the page load time without requests."""
        watch = Watch(self.folder)
        for _ in range(IDLE_REQUESTS):
            await watch.time_pages(self.client)
        return watch.summarize()

    async def visits(self, habits: Habits, seconds: float) -> dict[str, Any]:
        """Run all visitors for some time."""
        stats, watch, until = QuestionStats(), Watch(self.folder), time.monotonic() + seconds
        tasks = [visit(self.client, number, habits, until, stats) for number in range(self.visitors)]
        before = await asyncio.to_thread(watch.disk)
        await asyncio.gather(watch.follow(self.studio, self.client, until), *tasks)
        found = {**stats.summarize(), **watch.summarize()}
        asked = len(stats.seconds) + stats.left
        grown = await asyncio.to_thread(watch.disk) - before
        return {**found, "kb_left_per_question": round(grown / 1024 / max(1, asked), 1)}

    async def departed(self) -> dict[str, Any]:
        """Measure the time of a question alone, and after many questions of disconnected visitors."""
        (example, *_) = json.loads((EXAMPLES / "examples.json").read_text("utf-8"))
        image = await upload(self.client, example["image"])
        alone, behind, gone = QuestionStats(), QuestionStats(), QuestionStats()
        for _ in range(3):
            await ask(self.client, image, example, "", alone)
        leaving = [ask(self.client, image, example, "", gone, patience=0.5) for _ in range(DEPARTING)]
        await asyncio.gather(*leaving)
        await ask(self.client, image, example, "", behind)
        return {
            "left": gone.left,
            "failures": dict(gone.failures + behind.failures + alone.failures),
            "alone_seconds": round(min(alone.seconds), 2),
            "behind_seconds": round(max(behind.seconds), 2),
        }

    async def burst(self) -> dict[str, Any]:
        """Let all visitors ask at the same time."""
        (example, *_) = json.loads((EXAMPLES / "examples.json").read_text("utf-8"))
        image = await upload(self.client, example["image"])
        stats = QuestionStats()
        await asyncio.gather(*(ask(self.client, image, example, "", stats) for _ in range(self.visitors)))
        return stats.summarize()

    async def trainings(self) -> dict[str, Any]:
        """Start two training runs from the page while visitors ask, until both have ended."""
        for seed in (1, 2):
            messages = await asyncio.to_thread(self.studio.press, "train-start", {**TRAINING, "set-seed": seed})
            if len(self._runs()) != seed:
                return {"failures": {f"the page did not start a training: {messages[-1]}"[:2000]: 1}}
        seen: list[list[str]] = []
        follower = asyncio.create_task(self._follow_runs(seen))
        found = await self.visits(Habits(), max(30.0, self.seconds / 5))
        await follower
        states = sorted(run.state for run in self._runs())
        failures = found["failures"] | ({f"trainings ended as {states}": 1} if states != ["completed"] * 2 else {})
        return {**found, "failures": failures, "trainings": states, "max_running": max(map(_count_running, seen))}

    async def _follow_runs(self, seen: list[list[str]]) -> None:
        deadline = time.monotonic() + 1800
        while time.monotonic() < deadline:
            seen.append([run.state for run in await asyncio.to_thread(self._runs)])
            if seen[-1] and not {"queued", "running", "stopping"} & set(seen[-1]):
                return
            await asyncio.sleep(1)

    def _runs(self) -> list[RunSummary]:
        return list_runs(self.folder / "runs")

    async def run(self) -> dict[str, Any]:
        """Run all scenarios, in order."""
        short = self.seconds / 5
        found: dict[str, Any] = {"visitors": self.visitors}
        try:
            for name, scenario in {
                "idle": self.idle,
                "load": lambda: self.visits(Habits(), self.seconds),
                "departed": self.departed,
                "burst": self.burst,
                "swap": lambda: self.visits(Habits(models=self.models), short),
                "trainings": self.trainings,
            }.items():
                found[name] = await scenario()
                print(describe(name, found[name]), flush=True)
        finally:
            await self.client.aclose()
            self.studio.close()
        left = [path.name for path in self.folder.glob("hart-studio-*")]
        found["left_after_the_end"] = left
        return found


def _count_running(states: Sequence[str]) -> int:
    return sum(state in {"running", "stopping"} for state in states)


def describe(name: str, found: dict[str, Any]) -> str:
    """Format a scenario as table lines."""
    lines = [f"{name:10s} {key:28s} {value}" for key, value in found.items() if value not in ({}, "", None)]
    return "\n".join(lines)


def count_failures(found: dict[str, Any]) -> int:
    """Count all failures."""
    parts = [part for part in found.values() if isinstance(part, dict)]
    return sum(sum(part.get("failures", {}).values()) for part in parts) + len(found["left_after_the_end"])


def main() -> int:
    """Run all scenarios; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=50, help="number of concurrent visitors (50)")
    parser.add_argument("--minutes", type=float, default=5.0, help="minutes of the scenario load (5)")
    parser.add_argument("--cache-mb", type=int, default=48, help="limit of served copies in MiB (48)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all measurements to FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), options.visitors, options.minutes, options.cache_mb)
        found = asyncio.run(bench.run())
    failures = count_failures(found)
    print(f"failures: {failures}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
