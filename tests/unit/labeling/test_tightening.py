from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hart_studio.imaging import SourceImage
from hart_studio.labeling.tightening import KeptRegion, TighteningSettings, find_limits, tighten_boxes
from hart_studio.models.chat import ChatRequest
from hart_studio.pipeline.closed_loop import FailedSample, prepare_samples
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Box, Rollout, Sample
from tests.fakes import ScriptedModel, pictures_in

LOOSE = Box.from_xyxy((200, 200, 800, 600), label="sign")
POINTED = Box.from_xyxy((400, 300, 600, 500))
TARGET = (450, 350, 550, 450)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Black, with a white square."""
    image = Image.new("RGB", (1000, 800), "black")
    image.paste("white", TARGET)
    image.save(tmp_path / "square.png")
    return tmp_path / "square.png"


def sees_whole_square(request: ChatRequest) -> str:
    (picture,) = pictures_in(request)
    white = int((np.asarray(picture.pixels)[..., 0] > 128).sum())
    return "B" if white == 100 * 100 else "A"


def is_right(rollout: Rollout) -> bool:
    return rollout.score.value == 1.0


def tighten(picture: Path, settings: TighteningSettings, model: ScriptedModel, box: Box = LOOSE) -> Box:
    sample = Sample(id="s", image=str(picture), question="?", choices=("no", "yes"), answer="B")
    views = prepare_samples(model, [sample], LoopSettings())
    found = tighten_boxes(
        model, views, [(box,)], [[(POINTED,)] * 4], [is_right], LoopSettings(temperature=1.0), settings
    )
    ((tight,),) = found
    return tight


def test_limits_by_hand() -> None:
    assert find_limits([LOOSE], [(POINTED,)], 0.0) == pytest.approx([1 / 3, 0.25, 1 / 3, 0.25])
    assert find_limits([LOOSE], [(POINTED,)], 0.05) == pytest.approx([1 / 3 + 0.05, 0.3, 1 / 3 + 0.05, 0.3])
    assert find_limits([LOOSE], [], 0.2) == [0, 0, 0, 0]
    assert find_limits([LOOSE], [(Box.from_xyxy((900, 700, 950, 750)),)], 0.2) == [0, 0, 0, 0]
    assert find_limits([POINTED], [(LOOSE,)], 0.0) == [0, 0, 0, 0], "what is larger says nothing"


def test_limits_of_several_boxes_are_those_of_the_one_that_may_move_least() -> None:
    second = Box.from_xyxy((0, 0, 100, 100))
    assert find_limits([LOOSE, second], [(POINTED, Box.from_xyxy((10, 0, 100, 90)))], 0.0) == pytest.approx(
        [0.1, 0, 0, 0.1]
    )


def test_edges_go_where_the_rollouts_point(picture: Path) -> None:
    model = ScriptedModel(crops_only=sees_whole_square)
    tight = tighten(picture, TighteningSettings(), model)
    assert tight.xyxy == pytest.approx(POINTED.xyxy)
    assert tight.label == "sign"


def test_no_edge_goes_past_what_the_answer_needs(picture: Path) -> None:
    model = ScriptedModel(crops_only=sees_whole_square)
    tight = tighten(picture, TighteningSettings(steps=6, overshoot=0.3), model)
    assert tight.x_min <= 450 and tight.y_min <= 350 and tight.x_max >= 550 and tight.y_max >= 450
    assert np.abs(np.array(tight.xyxy) - TARGET).max() < 15, "a search in six steps comes near"


def test_the_number_of_calls_is_bounded(picture: Path) -> None:
    settings = TighteningSettings(steps=3, answers=5)
    model = ScriptedModel(crops_only=sees_whole_square)
    tighten(picture, settings, model)
    assert len(model.calls) == settings.calls == 13
    assert {call.group_size for call in model.calls} == {5}


def test_a_box_that_is_not_enough_stays(picture: Path) -> None:
    model = ScriptedModel(crops_only="A")
    assert tighten(picture, TighteningSettings(), model) == LOOSE
    assert sum(len(call.requests) for call in model.calls) == 1


def test_a_box_that_nobody_points_into_is_not_asked_about(picture: Path) -> None:
    away = Box.from_xyxy((850, 650, 950, 750))
    assert tighten(picture, TighteningSettings(), ScriptedModel(), away) == away


def test_one_answer_is_a_greedy_one(picture: Path) -> None:
    model = ScriptedModel(crops_only=sees_whole_square)
    tighten(picture, TighteningSettings(answers=1), model)
    assert {call.sampling.temperature for call in model.calls} == {0.0}


def test_a_picture_that_failed_keeps_its_boxes() -> None:
    failure = FailedSample(Sample(id="s", image="gone.png", question="?"), "gone")
    found = tighten_boxes(
        ScriptedModel(), [failure], [(LOOSE,)], [[(POINTED,)]], [is_right], LoopSettings(), TighteningSettings()
    )
    assert found == [(LOOSE,)]


def test_a_kept_region_cuts_the_same_pixels_as_the_original(picture: Path) -> None:
    image = SourceImage(picture)
    part = Box.from_xyxy((100, 100, 900, 700))
    region = KeptRegion(part, image.crop(part))
    inner = Box.from_xyxy((440, 340, 500, 400))
    assert region.crops([inner])[0].tobytes() == image.crop(inner).tobytes()
