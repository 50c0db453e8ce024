from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessor

from hart_studio.models.chat import ImageInput
from hart_studio.models.families import FAMILIES, Family, PixelBudget
from hart_studio.models.served_images import SentImage, SentImageCache, encode_image, resize_for_server
from hart_studio.models.served_limits import KeptTokens
from hart_studio.models.served_settings import ServedSettings
from tests.unit.models.served import noise, opened

AREA = [family for family in FAMILIES.values() if family.budget_kind == "area"]
OTHERS = [family for family in FAMILIES.values() if family.budget_kind != "area"]


def sending(family: Family, **more: Any) -> ServedSettings:
    return ServedSettings(url="http://127.0.0.1:8000/v1", family=family.key, **more)


def processor_of(factor: int, budget: tuple[int, int]) -> Qwen2VLImageProcessor:
    size = {"shortest_edge": budget[0], "longest_edge": budget[1]}
    return Qwen2VLImageProcessor(patch_size=factor // 2, merge_size=2, size=size)


@pytest.mark.parametrize("family", AREA, ids=lambda family: family.key)
@pytest.mark.parametrize("wh", [(300, 200), (640, 480), (90, 700), (33, 35)], ids=str)
def test_a_processor_makes_the_same_of_what_is_sent(family: Family, wh: tuple[int, int]) -> None:
    budget = PixelBudget(64 * family.resize_factor**2, 256 * family.resize_factor**2)
    image = noise(*wh, budget=budget)
    in_process = processor_of(family.resize_factor, budget)(images=[image.pixels], return_tensors="pt")
    sent = encode_image(image, sending(family))
    generous = processor_of(family.resize_factor, (1, 10**8))  # of the server, which leaves our size alone
    served = generous(images=[opened(sent.url)], return_tensors="pt")
    assert torch.equal(served["image_grid_thw"], in_process["image_grid_thw"])
    assert torch.equal(served["pixel_values"], in_process["pixel_values"])
    _, rows, columns = in_process["image_grid_thw"][0].tolist()
    assert (
        sent.size_wh == opened(sent.url).size == (columns * family.resize_factor // 2, rows * family.resize_factor // 2)
    )
    assert sent.visual_tokens == rows * columns // 4


@pytest.mark.parametrize("family", OTHERS, ids=lambda family: family.key)
def test_families_of_tiles_get_the_image_as_it_is(family: Family) -> None:
    image = noise(301, 203, budget=family.overview_budget)
    sent = encode_image(image, sending(family))
    assert np.array_equal(np.array(opened(sent.url)), np.array(image.pixels))
    assert (sent.size_wh, sent.visual_tokens) == ((301, 203), 0)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.key)
def test_strips_and_dots_are_made_usable(family: Family) -> None:
    for wh in [(2000, 3), (1, 1), (5, 900)]:
        width, height = resize_for_server(noise(*wh, budget=family.crop_budget), family).size
        assert min(width, height) >= family.min_side
        assert max(width, height) / min(width, height) <= family.max_aspect


def test_a_narrower_processor_is_foreseen() -> None:
    # 512 x 512 is 16 x 16 tokens; a processor of at most 100 tokens makes 10 x 10 of them.
    image = noise(512, 512, budget=(512 * 512, 512 * 512))
    sent = encode_image(
        image, sending(FAMILIES["qwen3_vl"], processor_min_pixels=32 * 32, processor_max_pixels=100 * 32 * 32)
    )
    assert opened(sent.url).size == (512, 512)
    assert (sent.size_wh, sent.visual_tokens) == ((320, 320), 100)


def test_jpeg_when_asked_for_and_rgb_always() -> None:
    image = ImageInput(Image.new("RGBA", (64, 64), (255, 0, 0, 255)), 64 * 64, 64 * 64)
    sent = encode_image(image, sending(FAMILIES["qwen3_vl"], image_format="jpeg"))
    found = opened(sent.url)
    assert (found.format, found.mode, found.size) == ("JPEG", "RGB", (64, 64))
    red, green, blue = np.array(found)[32, 32].tolist()
    assert red > 250
    assert max(green, blue) < 5


def test_each_image_is_cached_once_and_dropped() -> None:
    made: list[tuple[int, int]] = []

    def encode(image: ImageInput) -> SentImage:
        made.append(image.pixels.size)
        return encode_image(image, sending(FAMILIES["qwen3_vl"]))

    shared, lone = noise(64, 64), noise(64, 96)
    cache = SentImageCache(encode)
    threads = [threading.Thread(target=cache.get, args=(shared,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    cache.get(lone)
    assert made == [(64, 64), (64, 96)]
    del lone
    gc.collect()
    assert list(cache._cached) == [shared]
    cache.clear()
    cache.get(shared)
    assert made[2:] == [(64, 64)]


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_lossless_formats_keep_every_pixel(image_format: str) -> None:
    image = noise(96, 64)
    found = opened(encode_image(image, sending(FAMILIES["qwen3_vl"], image_format=image_format)).url)
    assert found.format == image_format.upper()
    assert np.array_equal(np.array(found), np.array(image.pixels))


def test_servers_that_read_with_pillow_get_webp() -> None:
    formats = {
        server: sending(AREA[0], server=server).sent_format for server in ("openai", "transformers", "vllm", "sglang")
    }
    assert formats == {"openai": "png", "transformers": "webp", "vllm": "webp", "sglang": "webp"}


def test_a_size_that_the_server_keeps() -> None:
    sent = encode_image(
        noise(512, 512, budget=(512 * 512, 512 * 512)), sending(FAMILIES["qwen2_5_vl"]), KeptTokens(4, 100)
    )
    assert opened(sent.url).size == sent.size_wh == (280, 280)
    assert sent.visual_tokens == 100
