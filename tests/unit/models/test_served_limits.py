from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from hart_studio.errors import ModelError
from hart_studio.models import endpoint as endpoint_module
from hart_studio.models.families import FAMILIES, PixelBudget
from hart_studio.models.served import ServedChatModel
from hart_studio.models.served_limits import KeptTokens, ServerLimits, fit_size, stated_limits
from hart_studio.pipeline.closed_loop import ground_and_crop, prepare_samples
from hart_studio.pipeline.settings import LoopSettings
from hart_studio.records import Sample
from tests.fake_endpoint import Answer, serving
from tests.smart_resize_server import MARK_RGB, SmartResizeScript
from tests.unit.models.served import settings_of

FAMILY = FAMILIES["qwen2_5_vl"]
SIZES = [(640, 480), (500, 375), (1920, 1080), (4096, 3072), (3000, 4000), (7001, 1003), (1003, 3001)]
LIMITS = {
    "defaults": (3136, 12_845_056),
    "enlarges": (1_003_520, 12_845_056),
    "shrinks a little": (3136, 995_000),
    "shrinks": (3136, 501_760),
    "both": (501_760, 995_000),
}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_INITIAL_BACKOFF_SECONDS", 0.01)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Sample, tuple[float, ...]]]:
    """Images with one rectangle, a tenth of the sides and more, and where it is."""
    folder = tmp_path_factory.mktemp("marked")
    found = []
    for width, height in SIZES:
        pixels = np.full((height, width, 3), 128, np.uint8)
        box = (int(width * 0.31), int(height * 0.27), int(width * 0.62), int(height * 0.71))
        pixels[box[1] : box[3], box[0] : box[2]] = MARK_RGB
        path = folder / f"{width}x{height}.png"
        Image.fromarray(pixels).save(path, compress_level=1)
        found.append((Sample(id=path.stem, image=str(path), question="Where is the red mark?"), box))
    return found


def errors_px(model: ServedChatModel, marked: list[tuple[Sample, tuple[float, ...]]]) -> list[float]:
    views = prepare_samples(model, [sample for sample, _ in marked], LoopSettings())
    groups = ground_and_crop(model, views, LoopSettings())
    errors = []
    for (found,), (_, gold) in zip(groups, marked, strict=True):
        (box,) = found.grounding.boxes  # type: ignore[union-attr]  # a failure has no grounding and fails the test
        errors.append(max(abs(edge - right) for edge, right in zip(box.xyxy, gold, strict=True)))
    return errors


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("is_stated", [False, True])
def test_boxes_lie_where_they_are_whatever_the_server_does(
    marked: list[tuple[Sample, tuple[float, ...]]], limits: tuple[int, int], is_stated: bool
) -> None:
    script = SmartResizeScript(*limits)
    stated = {"processor_min_pixels": limits[0], "processor_max_pixels": limits[1]} if is_stated else {}
    with serving(script) as server:
        model = ServedChatModel(settings_of(server, family="qwen2_5_vl", **stated))
        found = errors_px(model, marked)
        model.close()
    # Half a pixel of the overview is up to 3 pixels of an image of 7001 x 1003.
    assert max(found) <= 4
    assert script.changed == 0  # nothing was left to the server


@pytest.mark.parametrize(
    ("limits", "stated"),
    [
        ((1_003_520, 12_845_056), (3136, 12_845_056)),
        ((3136, 995_000), (3136, 1_003_520)),
        ((3136, 501_760), (3136, 12_845_056)),
    ],
)
def test_wrong_stated_limits_are_refused_with_both_numbers(
    marked: list[tuple[Sample, tuple[float, ...]]], limits: tuple[int, int], stated: tuple[int, int]
) -> None:
    with serving(SmartResizeScript(*limits)) as server:
        model = ServedChatModel(
            settings_of(server, family="qwen2_5_vl", processor_min_pixels=stated[0], processor_max_pixels=stated[1])
        )
        with pytest.raises(
            ModelError, match=r"a difference of -?\d+ instead of \d+. Correct MIN and MAX of --served-pix"
        ):
            errors_px(model, marked)
        model.close()


def test_a_server_without_usage_is_refused_or_warned_of(marked: list[tuple[Sample, tuple[float, ...]]]) -> None:
    with serving(SmartResizeScript(3136, 501_760, reports_usage=False)) as server:
        model = ServedChatModel(settings_of(server, family="qwen2_5_vl"))
        with pytest.raises(ModelError, match=r"does not report usage.prompt_tokens.*--served-pixels MIN MAX"):
            errors_px(model, marked)
        stated = ServedChatModel(
            settings_of(server, family="qwen2_5_vl", processor_min_pixels=3136, processor_max_pixels=501_760)
        )
        assert max(errors_px(stated, marked)) <= 5
        assert "is not verified" in stated.image_size_warning()
        normalized = ServedChatModel(settings_of(server, family="qwen2_vl"))
        errors_px_needs_no_size = prepare_samples(normalized, [marked[0][0]], LoopSettings())
        ground_and_crop(normalized, errors_px_needs_no_size, LoopSettings())
        assert normalized.image_size_warning() == ""


def test_a_restarted_server_is_measured_again(marked: list[tuple[Sample, tuple[float, ...]]]) -> None:
    script = SmartResizeScript()
    with serving(script) as server:
        model = ServedChatModel(settings_of(server, family="qwen2_5_vl", retries=3, concurrency=1))
        assert max(errors_px(model, marked[:2])) <= 4
        script.max_pixels = 501_760
        server.failures = [Answer(is_dropped=True)]
        assert max(errors_px(model, marked[2:])) <= 5
        model.close()


def test_a_reply_that_contradicts_is_refused(marked: list[tuple[Sample, tuple[float, ...]]]) -> None:
    script = SmartResizeScript()
    with serving(script) as server:
        model = ServedChatModel(settings_of(server, family="qwen2_5_vl"))
        assert max(errors_px(model, marked[:1])) <= 4
        script.max_pixels = 200_704
        with pytest.raises(ModelError, match=r"expected \d+ image tokens .* counted \d+: its processor shrinks"):
            errors_px(model, marked[2:3])
        script.min_pixels, script.max_pixels = 2_007_040, 12_845_056
        with pytest.raises(ModelError, match=r"its processor enlarges .*--served-pixels"):
            errors_px(model, marked[2:3])
        model.close()


def counter(limits: tuple[int, int], calls: list[tuple[int, int]]) -> Callable[[tuple[int, int]], int]:
    def count(size_wh: tuple[int, int]) -> int:
        calls.append(size_wh)
        height, width = smart_resize(size_wh[1], size_wh[0], 28, *limits)
        return height * width // 784 + 27

    return count


@pytest.mark.parametrize(
    ("limits", "kept", "most_calls"),
    [
        ((3136, 12_845_056), KeptTokens(256, 1280), 4),
        ((1_003_520, 12_845_056), KeptTokens(1280, 4096), 20),
        ((3136, 995_000), KeptTokens(256, 1264), 10),
        ((3136, 501_760), KeptTokens(64, 640), 13),
    ],
)
def test_the_range_and_the_number_of_requests(limits: tuple[int, int], kept: KeptTokens, most_calls: int) -> None:
    calls: list[tuple[int, int]] = []
    found = ServerLimits(FAMILY, "URL", counter(limits, calls))
    assert found.find(FAMILY.overview_budget) == kept
    assert len(calls) <= most_calls
    assert len(set(calls)) == len(calls)  # nothing is measured twice
    found.find(FAMILY.overview_budget)
    assert len(calls) <= most_calls


def test_a_server_that_pads_or_limits_a_side_is_refused() -> None:
    def sides(size_wh: tuple[int, int]) -> int:  # at most 896 pixels a side
        return max(1, min(size_wh[0], 896) // 28) * max(1, min(size_wh[1], 448) // 28) + 20

    with pytest.raises(ModelError, match="--served-family"):
        ServerLimits(FAMILY, "URL", sides).find(FAMILY.overview_budget)
    with pytest.raises(ModelError, match="does not keep images of any size"):
        ServerLimits(FAMILY, "URL", lambda _: 300).find(FAMILY.overview_budget)


def test_stated_limits_without_an_image() -> None:
    assert stated_limits(PixelBudget(3136, 12_845_056), FAMILY) == KeptTokens(4, 16384)
    assert stated_limits(PixelBudget(1_003_000, 995_000 + 10_000), FAMILY) == KeptTokens(1280, 1281)
    with pytest.raises(ModelError, match="No image has between"):
        stated_limits(PixelBudget(1000, 1500), FAMILY)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 2000), st.integers(1, 3000))
def test_a_fitted_size_is_kept_and_hardly_stretched(columns: int, rows: int, least: int, more: int) -> None:
    kept = KeptTokens(least, least + more)
    try:
        width, height = fit_size((columns * 28, rows * 28), kept, 28)
    except ModelError:
        return
    assert kept.holds(width // 28 * (height // 28))
    assert width % 28 == height % 28 == 0
    assert 1 / 1.2501 <= (width / height) / (columns / rows) <= 1.2501


def test_an_image_that_fits_is_not_changed_and_one_without_a_size_is_refused() -> None:
    assert fit_size((56, 84), KeptTokens(6, 6), 28) == (56, 84)
    with pytest.raises(ModelError, match="Lower min_pixels or raise max_pixels"):
        fit_size((28 * 50, 28), KeptTokens(7, 7), 28)
