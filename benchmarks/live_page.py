"""Cost of watching a run: ``python -m benchmarks.live_page``.

A server process, a short and a long run, and 1, 4 and 16 tabs that poll the run once per second, like
the page. In the first half of each measurement nothing is written, in the second half one step per second.
Bytes are those of request and answer bodies; CPU time is of the server process, per poll. The runs alternate within a
round, for equal conditions; the result is the ratio of the long run to the short one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.studio import Studio
from hart_studio.runs.config import RunConfig
from hart_studio.runs.events import EventLog, RolloutsSaved, StepDone
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.status import read_status, write_status
from hart_studio.runs.writer import create_run
from hart_studio.training.metrics import STEP_METRICS

TABS = (1, 4, 16)
LENGTHS = (500, 50_000)


@dataclass
class Tab:
    """A tab that polls a run and keeps its cursor, like the script of the page."""

    client: httpx.Client
    component: int
    run: str
    seen: dict[str, Any] = field(default_factory=dict)

    def poll(self) -> tuple[int, bool]:
        """Poll once; return the transferred bytes, and whether there were changes."""
        body = {
            "session_hash": "live",
            "component_id": self.component,
            "fn_name": "poll",
            "data": {"run": self.run, **self.seen},
        }
        content = json.dumps(body).encode()
        answer = self.client.post(
            "/gradio_api/component_server", content=content, headers={"content-type": "application/json"}
        )
        reply = answer.raise_for_status().json()
        if reply:
            if "cursor" in reply:
                self.seen["cursor"] = reply["cursor"]
            if "status" in reply:
                self.seen["status"] = reply["status"]["signature"]
            if "log" in reply:
                self.seen |= {"attempt": reply["log"]["attempt"], "log_offset": reply["log"]["offset"]}
        return len(content) + len(answer.content), bool(reply)


def write_long_run(root: Path, steps: int) -> RunLayout:
    """Write a run with this number of steps, as a trainer would; it appears to run in this process."""
    layout = create_run(root, "training", RunConfig(name=f"{steps} steps"), "ap_grpo", steps + 100_000)
    log = EventLog(layout.events)
    for step in range(1, steps + 1):
        append_step(log, step)
    layout.log_of(1).write_text("step\n" * steps)
    write_status(layout, read_status(layout).replace(state="stopped", step=steps, attempt=1))
    return layout


def append_step(log: EventLog, step: int) -> None:
    """Append a step with all metrics, and rollouts every tenth time."""
    metrics = dict.fromkeys(STEP_METRICS, step * 7919 % 1000 / 1000)
    log.append(StepDone(stage="ap_grpo", metrics=metrics), step)
    if step % 10 == 0:
        log.append(RolloutsSaved(groups=2), step)


def measure(studio: Studio, layout: RunLayout, tabs: int, seconds: int, is_writing: bool) -> dict[str, float]:
    """Poll from several tabs once per second; return medians per poll."""
    pages = [Tab(studio.client, studio.component_of("poll"), layout.run_id) for _ in range(tabs)]
    log = EventLog(layout.events)
    step = read_status(layout).step
    with ThreadPoolExecutor(tabs) as pool:
        while any(is_new for _, is_new in pool.map(Tab.poll, pages)):
            pass  # read the initial state
        before = studio.cpu_seconds()
        sizes: list[int] = []
        for _ in range(seconds):
            began = time.monotonic()
            if is_writing:
                step += 1
                append_step(log, step)
                write_status(layout, read_status(layout).replace(step=step))
            sizes += [size for size, _ in pool.map(Tab.poll, pages)]
            time.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
        used = studio.cpu_seconds() - before
    return {"bytes": statistics.median(sizes), "cpu_ms": 1000 * used / len(sizes)}


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="polls of each tab per measurement (10)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all measurements to FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        layouts = {steps: write_long_run(Path(folder), steps) for steps in LENGTHS}
        sizes = ", ".join(
            f"{steps:,}: {layout.events.stat().st_size / 1e6:.1f} MB" for steps, layout in layouts.items()
        )
        print(f"events of a run by its steps: {sizes}")
        studio = Studio("--runs-root", folder)
        try:
            first = {}
            for steps, layout in layouts.items():
                began = time.monotonic()
                tab = Tab(studio.client, studio.component_of("poll"), layout.run_id)
                while tab.poll()[1]:
                    pass
                first[steps] = time.monotonic() - began
            print("first view of a run, s: " + ", ".join(f"{steps:,}: {value:.2f}" for steps, value in first.items()))
            found: dict[str, Any] = {"first_view_seconds": first}
            print(f"{'':28s}" + "".join(f"{f'{steps:,} steps':>26s}" for steps in LENGTHS) + f"{'ratio (range)':>30s}")
            for is_writing in (False, True):
                for tabs in TABS:
                    rounds = [
                        {
                            steps: measure(studio, layout, tabs, options.seconds, is_writing)
                            for steps, layout in layouts.items()
                        }
                        for _ in range(options.rounds)
                    ]
                    name = f"{tabs} tab{'s' * (tabs > 1)}, {'one step per second' if is_writing else 'no changes'}"
                    found[name] = rounds
                    print(describe(name, rounds), flush=True)
        finally:
            studio.close()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def describe(name: str, rounds: list[dict[int, dict[str, float]]]) -> str:
    """Format bytes and CPU time per poll for each length, and the ratio of the long run to the short one."""
    short, long = LENGTHS
    cells = [
        f"{statistics.median(one[steps]['bytes'] for one in rounds):.0f} B "
        f"{statistics.median(one[steps]['cpu_ms'] for one in rounds):.1f} ms"
        for steps in LENGTHS
    ]
    sizes = statistics.median(one[long]["bytes"] / one[short]["bytes"] for one in rounds)
    times = [one[long]["cpu_ms"] / max(one[short]["cpu_ms"], 0.01) for one in rounds]
    ratio = f"{sizes:.2f} B {statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f}) CPU"
    return f"{name:28s}" + "".join(f"{cell:>26s}" for cell in cells) + f"{ratio:>30s}"


if __name__ == "__main__":
    raise SystemExit(main())
