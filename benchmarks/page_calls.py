"""Latency of page calls: Gradio's server functions compared with plain routes: ``python -m benchmarks.page_calls``.

Serves the page with one labeling project, and the same handler once more as a POST route of the same web server. A
client calls both in turns, in blocks; the ratios of the medians of the blocks are printed with their range.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import httpx
from fastapi import Body
from PIL import Image

CALLS = 100
"""Calls of each kind in one block."""


def measure(sends) -> list[float]:
    """Median seconds of each call, made in turns."""
    times = [[] for _ in sends]
    for _ in range(CALLS):
        for send, seconds in zip(sends, times, strict=True):
            start = time.perf_counter()
            send().raise_for_status()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def main() -> None:
    """Serve, call, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=8)
    blocks = parser.parse_args().blocks
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["GRADIO_TEMP_DIR"] = str(root / "cache")
        # Imported late, because gradio reads the environment.
        from hart_studio.data.rows import LoadedSamples  # noqa: PLC0415
        from hart_studio.labeling.importing import import_samples  # noqa: PLC0415
        from hart_studio.labeling.project_creation import create_project  # noqa: PLC0415
        from hart_studio.records import Sample  # noqa: PLC0415
        from hart_studio.ui.api.ask import AskService  # noqa: PLC0415
        from hart_studio.ui.api.handler import api_handler  # noqa: PLC0415
        from hart_studio.ui.api.labels import LabelApi  # noqa: PLC0415
        from hart_studio.ui.api.launch import RunLauncher  # noqa: PLC0415
        from hart_studio.ui.app import build_app, launch_options  # noqa: PLC0415
        from hart_studio.ui.security.origin_check import LOOPBACK_HOSTS  # noqa: PLC0415

        Image.new("RGB", (40, 30)).save(root / "a.png")
        samples = tuple(Sample(id=str(n), image=str(root / "a.png"), question=f"What {n}?") for n in range(50))
        import_samples(create_project(root / "labels" / "signs", "signs"), LoadedSamples("signs", samples))
        labels = LabelApi(root / "labels")
        service = AskService(root / "cache" / "work")
        launcher = RunLauncher(root / "runs", is_open=False)
        app = build_app(service, (), [("Built-in", "built-in")], launcher, labels)
        _, url, _ = app.launch(
            server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options(root, LOOPBACK_HOSTS)
        )
        handler = api_handler(labels.poll)

        def poll(request: Annotated[dict, Body()]):
            return handler(request)

        app.app.add_api_route("/mcp/poll", poll, methods=["POST"])  # a path that the middleware lets through
        app.app.router.routes.insert(0, app.app.router.routes.pop())
        component = next(
            number for number, block in app.blocks.items() if hasattr(block, "poll") and hasattr(block, "create")
        )
        with httpx.Client(base_url=url) as client:
            first = client.post("mcp/poll", json={"project": "signs"}).json()
            for title, signature in (("nothing new", first["signature"]), ("whole state", "")):
                request = {"project": "signs", "signature": signature}
                call = {"component_id": component, "fn_name": "poll", "session_hash": "x", "data": request}
                sends = {
                    "server function": partial(client.post, "gradio_api/component_server", json=call),
                    "route": partial(client.post, "mcp/poll", json=request),
                }
                assert sends["server function"]().json() == sends["route"]().json()
                measured = [measure(sends.values()) for _ in range(blocks + 1)][1:]  # the first block warms up
                found = dict(zip(sends, zip(*measured, strict=True), strict=True))
                ratios = [function / route for function, route in measured]
                print(json.dumps({
                    "response": title,
                    **{f"{name}_ms": round(1000 * statistics.median(times), 2) for name, times in found.items()},
                    "ratio": round(statistics.median(ratios), 2),
                    "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
                }))  # fmt: skip
        app.close(verbose=False)
        launcher.close()


if __name__ == "__main__":
    main()
