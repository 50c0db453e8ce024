"""The served model against a real server: ``transformers serve`` in a separate process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from hart_studio.models.catalog import PROJECT_ROOT, TRAINED_MODEL
from hart_studio.models.chat import ChatRequest, ImageInput, Message, SamplingParams
from hart_studio.models.families import FAMILIES
from hart_studio.models.generation import LocalChatModel
from hart_studio.models.inputs import processor_default_budget
from hart_studio.models.loading import load_model
from hart_studio.models.served import ServedChatModel
from hart_studio.models.served_settings import ServedSettings
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import PROTOCOLS, Protocol, Rollout, Sample
from tests.integration.conversations import CONVERSATIONS
from tests.tiny_models import build_tiny

pytestmark = pytest.mark.integration

EXAMPLES = PROJECT_ROOT / "assets" / "examples"
STARTING_SECONDS = 120


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The beginning of the interface; the server loads each model when it is first asked for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    where = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", *where]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        try:
            until = time.monotonic() + STARTING_SECONDS
            while not _is_up(port):
                assert process.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
                assert time.monotonic() < until, f"the server does not answer: {log.read_text()[-2000:]}"
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def local() -> LocalChatModel:
    return load_model(TRAINED_MODEL, device="cpu", dtype="float32")


def connect(server: str, model: LocalChatModel, concurrency: int = 4) -> ServedChatModel:
    """The same model, served; the processor settings are given as in its config."""
    budget = processor_default_budget(model.processor, model.family)
    return ServedChatModel(
        ServedSettings(
            url=server,
            model=model.name,
            family=model.family.key,
            server="transformers",
            concurrency=concurrency,
            retries=0,
            processor_min_pixels=budget.min_pixels,
            processor_max_pixels=budget.max_pixels,
        )
    )


def examples() -> list[Sample]:
    entries = json.loads((EXAMPLES / "examples.json").read_text("utf-8"))
    return [
        Sample(
            id=entry["image"],
            image=str(EXAMPLES / entry["image"]),
            question=entry["question"],
            choices=tuple(entry["choices"]),
            answer=entry["answer"],
        )
        for entry in entries
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_loop_is_the_same_as_in_process(server: str, local: LocalChatModel, protocol: Protocol) -> None:
    served = connect(server, local)
    assert (served.overview_budget, served.crop_budget) == (local.overview_budget, local.crop_budget)
    settings = LoopSettings(temperature=0.0, max_new_tokens=128)
    groups = {model.name: closed_loop.run(model, examples(), protocol, settings) for model in (local, served)}
    for here, there in zip(groups[local.name], groups[served.name], strict=True):
        assert [_without_seconds(rollout) for rollout in there.rollouts] == [
            _without_seconds(rollout) for rollout in here.rollouts
        ]
        for rollout in there.rollouts:
            assert rollout.outcome == "ok"
            assert all(turn.text and turn.seconds > 0 for turn in rollout.turns)


def test_samples_repeat_with_their_seed(server: str, local: LocalChatModel) -> None:
    served = connect(server, local, concurrency=1)
    settings = LoopSettings(temperature=1.5, max_new_tokens=64)

    def texts(seed: int) -> list[str]:
        sampled = settings.model_copy(update={"seed": seed})
        (group,) = closed_loop.run(served, examples()[:1], "crops_only", sampled, group_size=6)
        return [turn.text for rollout in group.rollouts for turn in rollout.turns]

    once = texts(1)
    assert texts(1) == once
    assert len(set(once)) > 2  # the checkpoint itself asks for greedy decoding
    assert texts(2) != once


@pytest.mark.parametrize("family_key", sorted(FAMILIES))
def test_prompts_of_every_family_are_as_long_as_in_process(
    server: str, load_tiny: Callable[[str], LocalChatModel], family_key: str
) -> None:
    model = load_tiny(family_key)
    served = connect(server, model)
    requests = [make(model) for make in CONVERSATIONS]
    here = model.generate(requests, SamplingParams(max_new_tokens=1))
    there = served.generate(requests, SamplingParams(max_new_tokens=1))
    assert [one.prompt_tokens for (one,) in there] == [one.prompt_tokens for (one,) in here]
    assert [one.finish_reason for (one,) in there] == ["length"] * len(requests)
    if model.family.budget_kind == "area":
        assert [one.image_sizes_wh for (one,) in there] == [one.image_sizes_wh for (one,) in here]
        assert [one.visual_tokens for (one,) in there] == [one.visual_tokens for (one,) in here]


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _without_seconds(rollout: Rollout) -> Rollout:
    turns = tuple(turn.model_copy(update={"seconds": 0.0}) for turn in rollout.turns)
    return rollout.model_copy(update={"turns": turns})


@pytest.mark.parametrize("max_pixels", [12_845_056, 100 * 28 * 28])
def test_limits_of_a_real_processor_are_measured(server: str, tmp_path: Path, max_pixels: int) -> None:
    folder = build_tiny("qwen2_5_vl", tmp_path / f"at_most_{max_pixels}")
    for path in folder.glob("*processor*config.json"):
        config = json.loads(path.read_text("utf-8"))
        images = config.get("image_processor", config)
        images["size"] = {"shortest_edge": 16 * 28 * 28, "longest_edge": max_pixels}
        images.pop("min_pixels", None)
        images.pop("max_pixels", None)
        path.write_text(json.dumps(config), encoding="utf-8")
    served = ServedChatModel(
        ServedSettings(url=server, model=str(folder), family="qwen2_5_vl", server="transformers", retries=0)
    )
    image = ImageInput(Image.new("RGB", (700, 500), "red"), *served.overview_budget)
    request = ChatRequest((Message("user", (image, "Where is it?")),))
    [[found]] = served.generate([request], SamplingParams(max_new_tokens=1))
    width, height = found.image_sizes_wh[0]
    assert found.visual_tokens == width * height // 28**2 <= min(1280, max_pixels // 28**2)
    assert found.visual_tokens > 0.85 * min(500, max_pixels // 28**2)
    # An image without the text says how many tokens the server made of it.
    [[bare]] = served.generate([ChatRequest((Message("user", ("Where is it?",)),))], SamplingParams(max_new_tokens=1))
    assert 0 <= found.prompt_tokens - bare.prompt_tokens - found.visual_tokens <= 4
    served.close()
