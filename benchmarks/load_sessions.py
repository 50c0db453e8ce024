"""Simulated visitors of a page, each a coroutine: upload, ask, wait for the answer, pause, and ask again."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.studio import read_end

ASK = "/gradio_api/call/ask"
EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"


@dataclass(frozen=True)
class Habits:
    """Behavior of visitors."""

    models: Sequence[str] = ("",)
    """Models, used in turn; empty = the default of the page."""
    think_seconds: float = 10.0
    """Mean time between an answer and the next question."""
    fresh_every: int = 2
    """Questions about one image before the next one is uploaded."""
    leaving_share: float = 0.05
    """Share of questions whose visitor disconnects before the answer."""


@dataclass
class QuestionStats:
    """Statistics of the questions."""

    seconds: list[float] = field(default_factory=list)
    """Seconds from request to answer, of each answered question."""
    refused: Counter[str] = field(default_factory=Counter)
    """Text of refusals because of a full queue -> count. Digits are replaced by #."""
    failures: Counter[str] = field(default_factory=Counter)
    """All other results -> count; should be empty."""
    left: int = 0
    """Questions whose visitor disconnected."""
    example: str = ""
    """One refusal, unmodified."""

    def add_result(self, name: str, data: Any, seconds: float) -> None:
        """Count the result of a question."""
        if name == "complete":
            self.seconds.append(seconds)
        elif name == "error" and isinstance(data, dict) and data.get("title") == "Busy":
            self.add_refusal(str(data.get("error")))
        else:
            self.failures[f"{name}: {json.dumps(data)[:200]}"] += 1

    def add_refusal(self, text: str) -> None:
        """Count a refusal."""
        self.example = text
        self.refused["".join("#" if each.isdigit() else each for each in text)] += 1

    def summarize(self) -> dict[str, Any]:
        """Summarize the statistics for a table."""
        ordered = sorted(self.seconds)
        return {
            "answered": len(ordered),
            "refused": self.refused.total(),
            "refusal": self.example,
            "left": self.left,
            "failures": dict(self.failures),
            "seconds_p50": round(statistics.median(ordered), 2) if ordered else None,
            "seconds_p95": round(ordered[int(0.95 * (len(ordered) - 1))], 2) if ordered else None,
        }


async def visit(client: httpx.AsyncClient, number: int, habits: Habits, until: float, stats: QuestionStats) -> None:
    """Simulate one visitor, until a time of ``time.monotonic``."""
    chance = random.Random(number)
    questions = json.loads((EXAMPLES / "examples.json").read_text("utf-8"))
    await asyncio.sleep(chance.uniform(0, habits.think_seconds))
    image: dict[str, Any] = {}
    asked = 0
    while time.monotonic() < until:
        example = questions[(number + asked // habits.fresh_every) % len(questions)]
        model = habits.models[(number + asked) % len(habits.models)]
        try:
            if asked % habits.fresh_every == 0:
                image = await upload(client, example["image"])
            is_leaving = chance.random() < habits.leaving_share
            await ask(client, image, example, model, stats, patience=chance.uniform(0.05, 2) if is_leaving else None)
        except httpx.HTTPError as error:
            stats.failures[f"{type(error).__name__}: {str(error)[:200]}"] += 1
        asked += 1
        await asyncio.sleep(min(chance.expovariate(1 / habits.think_seconds), max(0.0, until - time.monotonic())))


async def upload(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """Upload an image that is new to the server."""
    data = (EXAMPLES / name).read_bytes() + uuid.uuid4().bytes  # bytes after the end of a JPEG are ignored
    answer = await client.post("/gradio_api/upload", files={"files": (name, data)})
    return {"path": answer.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}


async def ask(
    client: httpx.AsyncClient,
    image: dict[str, Any],
    example: dict[str, Any],
    model: str,
    stats: QuestionStats,
    patience: float | None = None,
) -> None:
    """Ask one question; with ``patience``, close the connection after that many seconds."""
    body = {"data": [image, example["question"], "\n".join(example["choices"]), example["answer"], model, None]}
    began = time.monotonic()
    answer = await client.post(ASK, json=body)
    if answer.status_code == 503:
        stats.add_refusal(answer.text)
        return
    url = f"{ASK}/{answer.raise_for_status().json()['event_id']}"
    try:
        text = (await asyncio.wait_for(client.get(url), patience)).raise_for_status().text
    except TimeoutError:
        stats.left += 1
        return
    stats.add_result(*read_end(text), time.monotonic() - began)
