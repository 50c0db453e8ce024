"""What the page bears: ``python -m benchmarks.load [--visitors 50] [--minutes 5] [--json FILE]``.

One server, ``app.py`` in a process of its own, and visitors who speak HTTP to it from this one. Scenarios, in one run:

- idle: no one asks; how fast the page comes.
- load: every visitor uploads images, asks, waits, thinks, asks again; one in twenty goes away before the answer.
- departed: twenty ask and go away at once; how long the next one waits.
- burst: all visitors ask in the same moment; those for whom the line has no room are told so.
- swap: the questions go to three models in turn, one more than stay in memory.
- trainings: two trainings are ordered from the page, one after the other in its queue, while people ask.

Anything but an answer or a clear refusal is a failure. Memory is the server process's own; its slope is fitted through
the last four fifths of a scenario. The served copies may have ``--cache-mb``, so that the bound is reached.
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
from benchmarks.load_sessions import EXAMPLES, Habits, Tally, ask, upload, visit
from benchmarks.studio import Studio
from hart_studio.models.catalog import BUILT_IN, BUILT_IN_HART, BUILT_IN_MODEL
from hart_studio.runs.reader import RunSummary, list_runs

IDLE_LOOKS = 20
DEPARTING = 20
TRAINING = {
    "set-method-chain": "ap_grpo",
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
"""Fields of the page -> values of a training of a minute or two."""


class Bench:
    """The scenarios on one server."""

    def __init__(self, folder: Path, visitors: int, minutes: float, cache_mb: int) -> None:
        """Start the server.

        Args:
            folder: Of everything that it writes.
            visitors: At once.
            minutes: Of the scenario "load"; the others take a fifth of it or so.
            cache_mb: Size that its served copies may have.
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
        """How fast the page comes when no one asks."""
        watch = Watch(self.folder)
        for _ in range(IDLE_LOOKS):
            await watch.time_pages(self.client)
        return watch.sum_up()

    async def visits(self, habits: Habits, seconds: float) -> dict[str, Any]:
        """All visitors for some time."""
        tally, watch, until = Tally(), Watch(self.folder), time.monotonic() + seconds
        tasks = [visit(self.client, number, habits, until, tally) for number in range(self.visitors)]
        before = await asyncio.to_thread(watch.disk)
        await asyncio.gather(watch.follow(self.studio, self.client, until), *tasks)
        found = {**tally.sum_up(), **watch.sum_up()}
        asked = len(tally.seconds) + tally.left
        grown = await asyncio.to_thread(watch.disk) - before
        return {**found, "kb_left_per_question": round(grown / 1024 / max(1, asked), 1)}

    async def departed(self) -> dict[str, Any]:
        """How long a question takes alone, and behind many whose visitors are gone."""
        (example, *_) = json.loads((EXAMPLES / "examples.json").read_text("utf-8"))
        image = await upload(self.client, example["image"])
        alone, behind, gone = Tally(), Tally(), Tally()
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
        """All visitors ask in the same moment."""
        (example, *_) = json.loads((EXAMPLES / "examples.json").read_text("utf-8"))
        image = await upload(self.client, example["image"])
        tally = Tally()
        await asyncio.gather(*(ask(self.client, image, example, "", tally) for _ in range(self.visitors)))
        return tally.sum_up()

    async def trainings(self) -> dict[str, Any]:
        """Two trainings from the page while people ask, until both have ended."""
        for seed in (1, 2):
            told = await asyncio.to_thread(self.studio.press, "train-start", {**TRAINING, "set-seed": seed})
            if len(self._runs()) != seed:
                return {"failures": {f"the page did not start a training: {told[-1]}"[:2000]: 1}}
        seen: list[list[str]] = []
        looking = asyncio.create_task(self._follow_runs(seen))
        found = await self.visits(Habits(), max(30.0, self.seconds / 5))
        await looking
        states = sorted(run.state for run in self._runs())
        failures = found["failures"] | ({f"trainings ended as {states}": 1} if states != ["completed"] * 2 else {})
        return {**found, "failures": failures, "trainings": states, "at_work_most": max(map(_count_running, seen))}

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
        """Every scenario, in order."""
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
    """A scenario as lines of a table."""
    lines = [f"{name:10s} {key:28s} {value}" for key, value in found.items() if value not in ({}, "", None)]
    return "\n".join(lines)


def count_failures(found: dict[str, Any]) -> int:
    """Everything that should not have happened."""
    parts = [part for part in found.values() if isinstance(part, dict)]
    return sum(sum(part.get("failures", {}).values()) for part in parts) + len(found["left_after_the_end"])


def main() -> int:
    """Run every scenario; returns 1 when anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=50, help="at once (50)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the scenario load (5)")
    parser.add_argument("--cache-mb", type=int, default=48, help="most MiB of served copies (48)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to FILE")
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
