from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hart_studio.imaging import SourceImage
from hart_studio.labeling.box_refinement import BoxRefinementSettings, CachedRegion, compute_limits, refine_boxes
from hart_studio.models.chat import ChatRequest
from hart_studio.pipeline.closed_loop import FailedSample, prepare_samples
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Box, Rollout, Sample
from tests.fakes import ScriptedModel, images_in

LOOSE = Box.from_xyxy((200, 200, 800, 600), label="sign")
POINTED = Box.from_xyxy((400, 300, 600, 500))
TARGET = (450, 350, 550, 450)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Black, with a white square."""
    drawing = Image.new("RGB", (1000, 800), "black")
    drawing.paste("white", TARGET)
    drawing.save(tmp_path / "square.png")
    return tmp_path / "square.png"


def sees_whole_square(request: ChatRequest) -> str:
    (image,) = images_in(request)
    white = int((np.asarray(image.pixels)[..., 0] > 128).sum())
    return "B" if white == 100 * 100 else "A"


def is_right(rollout: Rollout) -> bool:
    return rollout.score.value == 1.0


def refine(image: Path, settings: BoxRefinementSettings, model: ScriptedModel, box: Box = LOOSE) -> Box:
    sample = Sample(id="s", image=str(image), question="?", choices=("no", "yes"), answer="B")
    views = prepare_samples(model, [sample], LoopSettings())
    found = refine_boxes(
        model, views, [(box,)], [[(POINTED,)] * 4], [is_right], LoopSettings(temperature=1.0), settings
    )
    ((tight,),) = found
    return tight


def test_limits_by_hand() -> None:
    assert compute_limits([LOOSE], [(POINTED,)], 0.0) == pytest.approx([1 / 3, 0.25, 1 / 3, 0.25])
    assert compute_limits([LOOSE], [(POINTED,)], 0.05) == pytest.approx([1 / 3 + 0.05, 0.3, 1 / 3 + 0.05, 0.3])
    assert compute_limits([LOOSE], [], 0.2) == [0, 0, 0, 0]
    assert compute_limits([LOOSE], [(Box.from_xyxy((900, 700, 950, 750)),)], 0.2) == [0, 0, 0, 0]
    assert compute_limits([POINTED], [(LOOSE,)], 0.0) == [0, 0, 0, 0], "what is larger says nothing"


def test_limits_of_several_boxes_are_those_of_the_one_that_may_move_least() -> None:
    second = Box.from_xyxy((0, 0, 100, 100))
    assert compute_limits([LOOSE, second], [(POINTED, Box.from_xyxy((10, 0, 100, 90)))], 0.0) == pytest.approx(
        [0.1, 0, 0, 0.1]
    )


def test_edges_go_where_the_rollouts_point(image: Path) -> None:
    model = ScriptedModel(crops_only=sees_whole_square)
    tight = refine(image, BoxRefinementSettings(), model)
    assert tight.xyxy == pytest.approx(POINTED.xyxy)
    assert tight.label == "sign"


def test_no_edge_moves_past_the_needed_region(image: Path) -> None:
    model = ScriptedModel(crops_only=sees_whole_square)
    tight = refine(image, BoxRefinementSettings(steps=6, overshoot=0.3), model)
    assert tight.x_min <= 450 and tight.y_min <= 350 and tight.x_max >= 550 and tight.y_max >= 450
    assert np.abs(np.array(tight.xyxy) - TARGET).max() < 15, "a search in six steps comes near"


def test_the_number_of_calls_is_bounded(image: Path) -> None:
    settings = BoxRefinementSettings(steps=3, answers=5)
    model = ScriptedModel(crops_only=sees_whole_square)
    refine(image, settings, model)
    assert len(model.calls) == settings.calls == 13
    assert {call.group_size for call in model.calls} == {5}


def test_a_box_that_is_not_enough_stays(image: Path) -> None:
    model = ScriptedModel(crops_only="A")
    assert refine(image, BoxRefinementSettings(), model) == LOOSE
    assert sum(len(call.requests) for call in model.calls) == 1


def test_a_box_without_predicted_boxes_inside_is_not_refined(image: Path) -> None:
    away = Box.from_xyxy((850, 650, 950, 750))
    assert refine(image, BoxRefinementSettings(), ScriptedModel(), away) == away


def test_one_answer_is_a_greedy_one(image: Path) -> None:
    model = ScriptedModel(crops_only=sees_whole_square)
    refine(image, BoxRefinementSettings(answers=1), model)
    assert {call.sampling.temperature for call in model.calls} == {0.0}


def test_an_image_that_failed_keeps_its_boxes() -> None:
    failure = FailedSample(Sample(id="s", image="gone.png", question="?"), "gone")
    found = refine_boxes(
        ScriptedModel(), [failure], [(LOOSE,)], [[(POINTED,)]], [is_right], LoopSettings(), BoxRefinementSettings()
    )
    assert found == [(LOOSE,)]


def test_a_kept_region_cuts_the_same_pixels_as_the_original(image: Path) -> None:
    original = SourceImage(image)
    part = Box.from_xyxy((100, 100, 900, 700))
    region = CachedRegion(part, original.crop(part))
    inner = Box.from_xyxy((440, 340, 500, 400))
    assert region.crops([inner])[0].tobytes() == original.crop(inner).tobytes()
