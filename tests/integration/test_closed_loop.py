"""The closed loop with a small model of each family's architecture; only its boxes are scripted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hart_studio.geometry import from_original
from hart_studio.imaging import SourceImage
from hart_studio.models.chat import ImageInput
from hart_studio.models.families import FAMILIES
from hart_studio.models.generation import LocalChatModel
from hart_studio.models.inputs import process_image
from hart_studio.models.loading import load_model
from hart_studio.pipeline import closed_loop
from hart_studio.pipeline.inference import ask_question
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.pipeline.trace import load_trace, render_images, save_trace
from hart_studio.records import PROTOCOLS, Sample
from tests.fakes import PointingModel

pytestmark = [pytest.mark.core, pytest.mark.integration]

WH = (960, 640)
REGIONS = ((240, 160, 480, 320), (672, 384, 864, 544))


@pytest.fixture
def image_path(tmp_path: Path) -> Path:
    path = tmp_path / "noise.jpg"
    noise = np.random.default_rng(5).integers(0, 256, (WH[1], WH[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    return path


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def real_model(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> LocalChatModel:
    return load_model(str(tiny_folder(request.param)), device="cpu")


@pytest.fixture
def model(real_model: LocalChatModel, image_path: Path) -> PointingModel:
    """Points at ``REGIONS`` in its family's own frame, at the size at which its processor shows the overview."""
    budget, family = real_model.overview_budget, real_model.family
    overview = ImageInput(SourceImage(image_path).overview(budget.max_pixels), *budget)
    seen_wh = process_image(real_model.processor, family, overview, is_alone=True).size_wh
    return PointingModel(real_model, str([from_original(box, family.box_frame, WH, seen_wh) for box in REGIONS]))


def test_boxes_of_every_family_land_on_the_right_pixels(model: PointingModel, image_path: Path) -> None:
    sample = Sample(id="s", image=str(image_path), question="Which digit?", choices=("3", "7"), answer="B")
    settings = LoopSettings(temperature=1.0, seed=1, max_new_tokens=4)
    for protocol in PROTOCOLS:
        (group,) = closed_loop.run(model, [sample], protocol, settings, group_size=2)
        assert len(group.rollouts) == 2
        for rollout in group.rollouts:
            assert rollout.outcome in ("ok", "truncated")
            assert rollout.answer_turn is not None
            assert rollout.answer_turn.visual_tokens > 0
            assert rollout.score.value is not None
            if protocol == "direct":
                continue
            for box, region in zip(rollout.boxes, REGIONS, strict=True):
                assert box.xyxy == pytest.approx(region, abs=1e-6)
            enclosing = [(240, 160, 864, 544)]
            assert [crop.xyxy for crop in rollout.crops] == (
                enclosing if model.family.max_crops == 1 else list(REGIONS)
            )
            shown = len(rollout.crops) + (protocol == "full_and_crops")
            assert len(rollout.answer_turn.image_sizes_wh) == shown


def test_a_question_becomes_a_trace_that_reopens(model: PointingModel, image_path: Path, tmp_path: Path) -> None:
    settings = LoopSettings(max_new_tokens=4)
    trace = ask_question(model, str(image_path), "Which digit?", ("3", "7"), "7", PROTOCOLS, settings)
    assert trace.verification is not None
    assert trace.verification.masked is not None
    assert trace.verification.area_share == pytest.approx((240 * 160 + 192 * 160) / (960 * 640))
    save_trace(trace, tmp_path / "trace", render_images(trace, SourceImage(image_path)))
    saved = load_trace(tmp_path / "trace")
    assert saved.trace == trace
    grounding = trace.protocols["crops_only"].grounding_turn
    assert grounding is not None
    with Image.open(saved.overview) as overview:
        assert overview.size == grounding.image_sizes_wh[0]


def test_a_model_that_does_not_point_never_gets_to_answer(real_model: LocalChatModel, image_path: Path) -> None:
    model, protocols = PointingModel(real_model, "There."), ("crops_only", "direct")
    settings = LoopSettings(max_new_tokens=4)
    verification = ask_question(model, str(image_path), "Which digit?", (), "7", protocols, settings).verification
    assert verification
    assert verification.rollouts[0].outcome == "no_box"
    assert (verification.sufficiency, verification.masked, verification.area_share) == (0.0, None, None)
