"""Core guarantee: the crops-only turn contains no pixel of the full image outside the crops.

Everything outside the region carries a signature that occurs nowhere inside it: full red. The first part checks
what the loop hands to any model, the second at the tensors that enter a real one. Both show first that the detector
fires where the image is NOT withheld, so that its silence means something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hart_studio.geometry import XYXY, from_original
from hart_studio.imaging import SourceImage
from hart_studio.models.chat import ChatRequest, ImageInput
from hart_studio.models.families import FAMILIES, Family
from hart_studio.models.generation import LocalChatModel
from hart_studio.models.inputs import image_token_id, process_image
from hart_studio.models.loading import load_model
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Protocol, Sample
from tests.fakes import PointingModel, ScriptedModel, TurnKind, fed_wh, images_in, turn_kind

WIDTH, HEIGHT = 960, 640
REGION = (240, 160, 480, 320)
"""Original pixels: a quarter of each side. In thousandths [250, 250, 500, 500]."""
SECOND = (672, 384, 864, 544)
"""Original pixels; in thousandths [700, 600, 900, 850]."""
BOXES = "[[250, 250, 500, 500], [700, 600, 900, 850]]"


def paint(path: Path, seed: int) -> Path:
    """An image whose regions hold noise without red, always the same, on full red with noise that ``seed`` changes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[..., 0] = 255
    inside = np.random.default_rng(99).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    inside[..., 0] = 0
    for x_min, y_min, x_max, y_max in (REGION, SECOND):
        pixels[y_min:y_max, x_min:x_max] = inside[y_min:y_max, x_min:x_max]
    Image.fromarray(pixels).save(path)
    return path


def count_signature(image: ImageInput) -> int:
    """Pixels with more red than any mixture of the regions' own pixels can have."""
    return int((np.asarray(image.pixels)[..., 0] > 0).sum())


def make_sample(path: Path) -> Sample:
    return Sample(id="s", image=str(path), question="Which digit?", choices=("3", "7"), answer="B")


def write_boxes(regions: Sequence[XYXY], family: Family, seen_wh: tuple[int, int]) -> str:
    """Regions in original pixels as a model of the family would write them, without its rounding."""
    return str([from_original(region, family.box_frame, (WIDTH, HEIGHT), seen_wh) for region in regions])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return paint(tmp_path / "signed.png", seed=1)


# What the loop hands over -------------------------------------------------------------------------------------------


def ask_scripted(image: Path, protocol: Protocol, **settings: Any) -> ScriptedModel:
    model = ScriptedModel(grounding=BOXES, crops_only="B", direct="B", full_and_crops="B")
    closed_loop.run(model, [make_sample(image)], protocol, LoopSettings(**settings), group_size=3)
    return model


def test_the_detector_fires_where_the_image_is_shown(image: Path) -> None:
    shown: list[tuple[Protocol, TurnKind]] = [
        ("direct", "direct"),
        ("full_and_crops", "full_and_crops"),
        ("crops_only", "grounding"),
    ]
    for protocol, kind in shown:
        overview, *crops = images_in(ask_scripted(image, protocol).requests(kind)[0])
        assert count_signature(overview) > 0.8 * overview.pixels.width * overview.pixels.height
        assert all(count_signature(crop) == 0 for crop in crops)


def test_the_crops_only_request_is_a_new_conversation_of_crops(image: Path) -> None:
    model = ask_scripted(image, "crops_only")
    (overview,) = images_in(model.requests("grounding")[0])
    original = SourceImage(image).full()
    requests = model.requests("crops_only")
    assert len(requests) == 3
    for request in requests:
        assert len(request.messages) == 1
        assert request.messages[0].role == "user"
        shown = images_in(request)
        assert len(shown) == 2
        assert overview not in shown
        for crop, region in zip(shown, (REGION, SECOND), strict=True):
            assert crop.pixels.tobytes() == original.crop(region).tobytes()
            assert crop.pixels.info == {}, "metadata could carry a thumbnail of the image"
            assert count_signature(crop) == 0
        said = "".join(part for part in request.messages[0].parts if isinstance(part, str))
        assert BOXES not in said


def test_without_a_usable_box_nothing_is_shown_at_all(image: Path) -> None:
    for said in ("I see nothing.", "[[500, 500, 250, 250]]", ""):
        model = ScriptedModel(grounding=said)
        (group,) = closed_loop.run(model, [make_sample(image)], "crops_only", LoopSettings(), group_size=2)
        assert {turn_kind(request) for call in model.calls for request in call.requests} == {"grounding"}
        assert all(rollout.answer_turn is None and rollout.score.value == 0.0 for rollout in group.rollouts)


def test_a_rollout_never_sees_the_crops_of_another(image: Path) -> None:
    model = ScriptedModel(grounding=["[[250, 250, 500, 500]]", "[[700, 600, 900, 850]]"], crops_only="B")
    closed_loop.run(model, [make_sample(image)], "crops_only", LoopSettings(), group_size=2)
    sizes = [[crop.pixels.size for crop in images_in(request)] for request in model.requests("crops_only")]
    assert sizes == [[(240, 160)], [(192, 160)]]


@pytest.mark.parametrize("family_key", sorted(FAMILIES))
def test_no_family_is_shown_more_than_the_region(image: Path, family_key: str) -> None:
    family = FAMILIES[family_key]

    def point(request: ChatRequest) -> str:
        return write_boxes([REGION], family, fed_wh(images_in(request)[0], family.resize_factor))

    model = ScriptedModel(grounding=point, crops_only="B", family_key=family_key)
    closed_loop.run(model, [make_sample(image)], "crops_only", LoopSettings())
    (request,) = model.requests("crops_only")
    (crop,) = images_in(request)
    assert crop.pixels.size == (240, 160)
    assert count_signature(crop) == 0


# What enters a real model -------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """Inputs of the vision tower and the language model."""

    pixel_values: list[torch.Tensor] = field(default_factory=list)
    input_ids: list[torch.Tensor] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    """All tensor arguments of all forward passes, except the key-value cache."""


@contextmanager
def watching(model: LocalChatModel) -> Iterator[Seen]:
    """Record the inputs of the network, starting with an empty image cache."""
    model.clear_features()
    seen = Seen()
    encode = model.model.get_image_features

    def watched_encode(**arguments: Any) -> Any:
        seen.pixel_values.append(arguments["pixel_values"].clone())
        return encode(**arguments)

    def watch(_: torch.nn.Module, args: tuple[Any, ...], arguments: dict[str, Any]) -> None:
        assert not args, "inputs are given by name"
        seen.input_ids.append(arguments["input_ids"].clone())
        seen.tensors.extend(tensor.clone() for name, tensor in flatten(arguments) if name != "past_key_values")

    hook = model.model.register_forward_pre_hook(watch, with_kwargs=True)
    model.model.get_image_features = watched_encode
    try:
        yield seen
    finally:
        hook.remove()
        del model.model.get_image_features


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in nested arguments, each with the name of its argument."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, name or key)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from flatten(item, name)
    elif hasattr(value, "__dataclass_fields__"):
        yield from flatten(vars(value), name)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def real_model(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> LocalChatModel:
    return load_model(str(tiny_folder(request.param)), device="cpu")


def watch_answer_turn(model: LocalChatModel, image: Path, protocol: Protocol) -> tuple[Seen, list[ChatRequest]]:
    """Run turn 1, then watch turn 2 alone."""
    overview = ImageInput(SourceImage(image).overview(model.overview_budget.max_pixels), *model.overview_budget)
    seen_wh = process_image(model.processor, model.family, overview, is_alone=True).size_wh
    pointing = PointingModel(model, write_boxes([REGION, SECOND], model.family, seen_wh))
    settings = LoopSettings(max_new_tokens=4)
    views = closed_loop.prepare_samples(pointing, [make_sample(image)], settings)
    attempts = closed_loop.ground_and_crop(pointing, views, settings)
    with watching(model) as seen:
        (group,) = closed_loop.run_answering(pointing, attempts, protocol, settings)
    assert [crop.xyxy for crop in group.rollouts[0].crops] == [REGION, SECOND]
    return seen, pointing.last_requests


def red_of(model: LocalChatModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """The red channel of flattened patches, back in 0 to 1. A patch is [channel, time, rows, columns]."""
    images = model.processor.image_processor
    red = pixel_values.reshape(pixel_values.shape[0], 3, -1)[:, 0]
    restored: torch.Tensor = red * images.image_std[0] + images.image_mean[0]
    return restored


@pytest.mark.integration
def test_the_tensors_of_the_crops_only_turn_are_those_of_the_crops(real_model: LocalChatModel, image: Path) -> None:
    shown, _ = watch_answer_turn(real_model, image, "full_and_crops")
    assert len(shown.pixel_values) == 3, "the detector sees the overview where it is shown"
    assert (red_of(real_model, shown.pixel_values[0]) > 0.5).float().mean() > 0.8

    seen, (request,) = watch_answer_turn(real_model, image, "crops_only")
    expected = [
        process_image(real_model.processor, real_model.family, crop, is_alone=False) for crop in images_in(request)
    ]
    assert len(seen.pixel_values) == len(expected) == 2
    for actual, one in zip(seen.pixel_values, expected, strict=True):
        assert torch.equal(actual, one.tensors["pixel_values"])
        assert red_of(real_model, actual).abs().max() < 1e-3
    image_token = image_token_id(real_model.processor)
    assert int(torch.eq(seen.input_ids[0], image_token).sum()) == sum(one.visual_tokens for one in expected)


@pytest.mark.integration
def test_what_lies_outside_the_regions_cannot_change_a_single_number(
    real_model: LocalChatModel, image: Path, tmp_path: Path
) -> None:
    other = paint(tmp_path / "other.png", seed=2)
    first, _ = watch_answer_turn(real_model, image, "crops_only")
    second, _ = watch_answer_turn(real_model, other, "crops_only")
    assert len(first.tensors) == len(second.tensors)
    assert any(tensor.is_floating_point() for tensor in first.tensors), "the features of the crops are among them"
    for one, two in zip(first.tensors, second.tensors, strict=True):
        assert torch.equal(one, two)
    # The same comparison distinguishes two overviews.
    first, _ = watch_answer_turn(real_model, image, "full_and_crops")
    second, _ = watch_answer_turn(real_model, other, "full_and_crops")
    assert not all(torch.equal(one, two) for one, two in zip(first.tensors, second.tensors, strict=False))
