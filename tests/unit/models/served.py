"""Requests and settings for the tests of served models."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from hart_studio.models.chat import ChatRequest, ImageInput, Message
from hart_studio.models.served_settings import ServedSettings
from tests.fake_endpoint import FakeEndpoint


def noise(width: int, height: int, seed: int = 0, budget: tuple[int, int] = (64 * 64, 256 * 256)) -> ImageInput:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return ImageInput(Image.fromarray(pixels), *budget)


def question(text: str, *images: ImageInput) -> ChatRequest:
    return ChatRequest((Message("user", (*images, text)),))


def settings_of(server: FakeEndpoint, **more: Any) -> ServedSettings:
    return ServedSettings(**{"url": server.url, "family": "qwen3_vl", "retries": 0, "timeout_seconds": 20, **more})


def opened(url: str) -> Image.Image:
    head, _, text = url.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64", "data:image/webp;base64")
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
