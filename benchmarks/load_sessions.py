"""SessionStore of a page, each a coroutine: they upload, ask, wait for the answer, think, and ask again."""

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
    """What visitors do."""

    models: Sequence[str] = ("",)
    """Asked one after another; empty = the page's own."""
    think_seconds: float = 10.0
    """Mean time between an answer and the next question."""
    fresh_every: int = 2
    """Questions about one image before the next one is uploaded."""
    leaving_share: float = 0.05
    """Share of questions whose visitor goes away before the answer."""


@dataclass
class Tally:
    """What came of the questions."""

    seconds: list[float] = field(default_factory=list)
    """From asking to the answer, of each question that was answered."""
    refused: Counter[str] = field(default_factory=Counter)
    """Words in which a question was refused, because others wait -> how often. Digits are told as #."""
    failures: Counter[str] = field(default_factory=Counter)
    """Everything else -> how often. None is wanted."""
    left: int = 0
    """Questions that no one waited for."""
    example: str = ""
    """One refusal as it came."""

    def count_end(self, name: str, data: Any, seconds: float) -> None:
        """Count the end of a question."""
        if name == "complete":
            self.seconds.append(seconds)
        elif name == "error" and isinstance(data, dict) and data.get("title") == "Busy":
            self.refuse(str(data.get("error")))
        else:
            self.failures[f"{name}: {json.dumps(data)[:200]}"] += 1

    def refuse(self, text: str) -> None:
        """Count a refusal."""
        self.example = text
        self.refused["".join("#" if each.isdigit() else each for each in text)] += 1

    def sum_up(self) -> dict[str, Any]:
        """Figures for a table."""
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


async def visit(client: httpx.AsyncClient, number: int, habits: Habits, until: float, tally: Tally) -> None:
    """One visitor, until a moment of ``time.monotonic``."""
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
            await ask(client, image, example, model, tally, patience=chance.uniform(0.05, 2) if is_leaving else None)
        except httpx.HTTPError as error:
            tally.failures[f"{type(error).__name__}: {str(error)[:200]}"] += 1
        asked += 1
        await asyncio.sleep(min(chance.expovariate(1 / habits.think_seconds), max(0.0, until - time.monotonic())))


async def upload(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """Send an image that the server has not seen before, as real visitors do."""
    data = (EXAMPLES / name).read_bytes() + uuid.uuid4().bytes  # what stands behind the end of a JPEG is ignored
    answer = await client.post("/gradio_api/upload", files={"files": (name, data)})
    return {"path": answer.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}


async def ask(
    client: httpx.AsyncClient,
    image: dict[str, Any],
    example: dict[str, Any],
    model: str,
    tally: Tally,
    patience: float | None = None,
) -> None:
    """One question; with a patience, the connection is closed after that many seconds."""
    body = {"data": [image, example["question"], "\n".join(example["choices"]), example["answer"], model, None]}
    began = time.monotonic()
    answer = await client.post(ASK, json=body)
    if answer.status_code == 503:
        tally.refuse(answer.text)
        return
    place = f"{ASK}/{answer.raise_for_status().json()['event_id']}"
    try:
        text = (await asyncio.wait_for(client.get(place), patience)).raise_for_status().text
    except TimeoutError:
        tally.left += 1
        return
    tally.count_end(*read_end(text), time.monotonic() - began)
