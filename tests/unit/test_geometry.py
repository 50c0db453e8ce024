import math
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hart_studio.geometry import (
    BoxFrame,
    area_share,
    clip,
    fit_inside,
    from_original,
    grow_to_side,
    intersection_area,
    iog,
    iou,
    limit_aspect,
    mean_pairwise_iou,
    merge_duplicates,
    pad,
    plan_crops,
    snap_to_pixels,
    to_original,
    union_area,
)
from hart_studio.records import Box

sides = st.integers(28, 8192)
sizes = st.tuples(sides, sides)
any_sizes = st.tuples(st.integers(1, 8192), st.integers(1, 8192))
frames = st.sampled_from(list(BoxFrame))


def box(x_min: float, y_min: float, x_max: float, y_max: float, label: str = "") -> Box:
    return Box.from_xyxy((x_min, y_min, x_max, y_max), label=label)


@st.composite
def spans(draw: st.DrawFn, low: float, high: float) -> tuple[float, float]:
    first, second = sorted(draw(st.tuples(st.floats(low, high), st.floats(low, high))))
    assume(first < second)
    return first, second


@st.composite
def boxes_in(draw: st.DrawFn, wh: tuple[int, int]) -> Box:
    x_min, x_max = draw(spans(0, wh[0]))
    y_min, y_max = draw(spans(0, wh[1]))
    return box(x_min, y_min, x_max, y_max)


@st.composite
def images(draw: st.DrawFn) -> tuple[tuple[int, int], Box]:
    wh = draw(any_sizes)
    return wh, draw(boxes_in(wh))


@st.composite
def wild_boxes(draw: st.DrawFn) -> Box:
    """Boxes anywhere near an image: inside, across its edges, around it, far outside."""
    x_min, x_max = draw(spans(-9000, 18000))
    y_min, y_max = draw(spans(-9000, 18000))
    return box(x_min, y_min, x_max, y_max)


cells = st.integers(0, 11)
whole_boxes = st.tuples(cells, cells, cells, cells).map(
    lambda at: box(min(at[:2]), min(at[2:]), max(at[:2]) + 1, max(at[2:]) + 1)
)


def is_inside(inner: Box, wh: tuple[int, int]) -> bool:
    return inner.x_min >= 0 and inner.y_min >= 0 and inner.x_max <= wh[0] and inner.y_max <= wh[1]


def holds(outer: Box, inner: Box) -> bool:
    low = all(a <= b + 1e-6 for a, b in zip(outer.xyxy[:2], inner.xyxy[:2], strict=True))
    return low and all(a >= b - 1e-6 for a, b in zip(outer.xyxy[2:], inner.xyxy[2:], strict=True))


# --- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "xyxy", "expected"),
    [
        (BoxFrame.MODEL_PIXELS, (0, 0, 1204, 812), (0, 0, 2076, 1434)),
        (BoxFrame.MODEL_PIXELS, (602, 203, 903, 406), (1038, 358.5, 1557, 717)),
        (BoxFrame.NORMALIZED_1000, (0, 0, 1000, 1000), (0, 0, 2076, 1434)),
        (BoxFrame.NORMALIZED_1000, (250, 500, 750, 501), (519, 717, 1557, 718.434)),
        (BoxFrame.NORMALIZED_1, (0.25, 0.5, 1.0, 1.0), (519, 717, 2076, 1434)),
        # The square has side 2076; the image lies (2076 - 1434) / 2 = 321 px below its top edge.
        (BoxFrame.UNIT_PADDED_SQUARE, (0.25, 0.5, 0.5, 1.0), (519, 717, 1038, 1755)),
    ],
)
def test_frames_by_hand(frame: BoxFrame, xyxy: tuple[float, ...], expected: tuple[float, ...]) -> None:
    # A 2076 x 1434 image that a Qwen2.5-VL processor shows the model as 1204 x 812.
    assert to_original(xyxy, frame, (2076, 1434), (1204, 812)) == pytest.approx(expected)


def test_padded_square_of_odd_difference_starts_on_a_whole_pixel() -> None:
    # 101 x 50: the padding above is 25 of 51 rows, so the first row of the image is row 25 of the square.
    assert to_original((0, 25 / 101, 1, 75 / 101), BoxFrame.UNIT_PADDED_SQUARE, (101, 50), (0, 0)) == pytest.approx(
        (0, 0, 101, 50)
    )


@given(frame=frames, original=sizes, model=sizes, data=st.data())
def test_round_trip_is_exact(
    frame: BoxFrame, original: tuple[int, int], model: tuple[int, int], data: st.DataObject
) -> None:
    xyxy = data.draw(boxes_in(original)).xyxy
    there = from_original(xyxy, frame, original, model)
    assert to_original(there, frame, original, model) == pytest.approx(xyxy, rel=0, abs=1e-6)


@given(original=sizes, overview=sizes, model=sizes, data=st.data())
def test_original_to_overview_to_model_and_back(
    original: tuple[int, int], overview: tuple[int, int], model: tuple[int, int], data: st.DataObject
) -> None:
    xyxy = data.draw(boxes_in(original)).xyxy
    on_overview = from_original(xyxy, BoxFrame.MODEL_PIXELS, original, overview)
    on_model = from_original(on_overview, BoxFrame.MODEL_PIXELS, overview, model)
    assert on_model == pytest.approx(from_original(xyxy, BoxFrame.MODEL_PIXELS, original, model), rel=0, abs=1e-6)
    back = to_original(on_model, BoxFrame.MODEL_PIXELS, overview, model)
    assert to_original(back, BoxFrame.MODEL_PIXELS, original, overview) == pytest.approx(xyxy, rel=0, abs=1e-6)


@pytest.mark.parametrize("frame", [BoxFrame.MODEL_PIXELS, BoxFrame.NORMALIZED_1000])
@given(original=sizes, model=sizes, data=st.data())
def test_whole_number_text_costs_at_most_half_a_step(
    frame: BoxFrame, original: tuple[int, int], model: tuple[int, int], data: st.DataObject
) -> None:
    xyxy = data.draw(boxes_in(original)).xyxy
    written = tuple(float(round(value)) for value in from_original(xyxy, frame, original, model))
    read = to_original(written, frame, original, model)  # type: ignore[arg-type]
    units = model if frame is BoxFrame.MODEL_PIXELS else (1000, 1000)
    for axis in range(4):
        half_step = 0.5 * original[axis % 2] / units[axis % 2]
        assert abs(read[axis] - xyxy[axis]) <= half_step + 1e-6


@given(
    frame=st.sampled_from([BoxFrame.NORMALIZED_1000, BoxFrame.NORMALIZED_1, BoxFrame.UNIT_PADDED_SQUARE]),
    original=sizes,
)
def test_relative_frames_ignore_the_resize(frame: BoxFrame, original: tuple[int, int]) -> None:
    xyxy = (0.125, 0.25, 0.5, 0.75)
    assert to_original(xyxy, frame, original, (28, 28)) == to_original(xyxy, frame, original, (8192, 32))


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wh", "max_pixels", "max_side", "expected"),
    [
        ((4096, 3072), None, 1024, (1024, 768)),
        ((4096, 3072), 786_432, None, (1024, 768)),
        ((4096, 3072), 786_432, 512, (512, 384)),
        ((1000, 700), None, 300, (300, 210)),
        ((640, 480), 10**9, 10**6, (640, 480)),
        ((640, 480), None, None, (640, 480)),
        ((10_000, 1), 100, None, (100, 1)),
        ((1, 10_000), None, 100, (1, 100)),
    ],
)
def test_fit_inside_by_hand(
    wh: tuple[int, int], max_pixels: int | None, max_side: int | None, expected: tuple[int, int]
) -> None:
    assert fit_inside(wh, max_pixels, max_side) == expected


@given(wh=any_sizes, max_pixels=st.none() | st.integers(1, 10**8), max_side=st.none() | st.integers(1, 10_000))
def test_fit_inside_limits(wh: tuple[int, int], max_pixels: int | None, max_side: int | None) -> None:
    width, height = fit_inside(wh, max_pixels, max_side)
    assert 1 <= width <= wh[0]
    assert 1 <= height <= wh[1]
    assert max_pixels is None or width * height <= max_pixels
    assert max_side is None or max(width, height) <= max_side
    if max_pixels is not None and max_side is None and min(width, height) > 1 and (width, height) != wh:
        assert (width + 1) * (height + 1) > max_pixels  # no larger image of this shape fits
        assert width / height == pytest.approx(wh[0] / wh[1], rel=2 / min(width, height))


# --- areas ----------------------------------------------------------------------------------------------------------


def test_overlap_by_hand() -> None:
    left, right = box(0, 0, 10, 10), box(5, 2, 15, 8)  # 100 and 60, sharing 5 x 6
    assert intersection_area(left, right) == 30
    assert iou(left, right) == 30 / 130
    assert iog(left, right) == 0.5  # half of the gold box on the right
    assert iog(right, left) == 0.3
    assert union_area([left, right]) == 130


def test_touching_boxes_do_not_overlap() -> None:
    assert intersection_area(box(0, 0, 5, 5), box(5, 0, 10, 5)) == 0
    assert iou(box(0, 0, 5, 5), box(5, 5, 10, 10)) == 0


def test_whole_image_has_iog_one_and_gives_itself_away_by_area() -> None:
    whole, gold = box(0, 0, 100, 50), box(10, 10, 20, 20)
    assert iog(whole, gold) == 1.0
    assert iou(whole, gold) == 100 / 5000
    assert area_share([whole], (100, 50)) == 1.0


def test_union_by_hand() -> None:
    assert union_area([]) == 0
    assert union_area([box(0, 0, 4, 4)] * 3) == 16
    # A plus sign: 3 x 9 and 9 x 3 crossing in 3 x 3; then a far 2 x 2; then one that is inside.
    assert union_area([box(3, 0, 6, 9), box(0, 3, 9, 6), box(20, 20, 22, 22), box(4, 4, 5, 5)]) == 27 + 27 - 9 + 4
    assert area_share([box(-5, -5, 5, 5), box(5, 5, 50, 50)], (10, 10)) == 0.5
    assert area_share([box(20, 20, 30, 30)], (10, 10)) == 0
    assert area_share([], (10, 10)) == 0


@given(st.lists(whole_boxes, max_size=8))
def test_union_counts_cells(boxes: list[Box]) -> None:
    covered = sum(
        any(b.x_min <= x < b.x_max and b.y_min <= y < b.y_max for b in boxes) for x, y in product(range(12), repeat=2)
    )
    assert union_area(boxes) == covered


@given(whole_boxes, whole_boxes)
def test_overlap_invariants(first: Box, second: Box) -> None:
    assert iou(first, second) == iou(second, first)
    assert 0 <= iou(first, second) <= iog(first, second) <= 1
    assert iou(first, first) == iog(first, first) == 1
    assert union_area([first, second]) == first.area + second.area - intersection_area(first, second)


def test_hair_thin_boxes_do_not_divide_by_zero() -> None:
    thin = box(0, 0, 1e-300, 1e-300)
    assert iou(thin, thin) == iog(thin, thin) == 0
    assert mean_pairwise_iou([[thin], [thin]]) == 0


def test_consensus_by_hand() -> None:
    left, right = box(0, 0, 10, 10), box(5, 0, 15, 10)  # IoU 50 / 150
    assert mean_pairwise_iou([]) is None
    assert mean_pairwise_iou([[left]]) is None
    assert mean_pairwise_iou([[left], [left]]) == 1
    assert mean_pairwise_iou([[left], [right]]) == pytest.approx(1 / 3)
    assert mean_pairwise_iou([[left], [left], [right]]) == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert mean_pairwise_iou([[left], []]) == 0
    assert mean_pairwise_iou([[], []]) == 0
    # Two halves are the same region as the whole, however they are cut.
    assert mean_pairwise_iou([[left], [box(0, 0, 4, 10), box(4, 0, 10, 10)]]) == pytest.approx(1)


@given(st.lists(st.lists(whole_boxes, max_size=3), min_size=2, max_size=5))
def test_consensus_is_a_share_and_ignores_order(box_sets: list[list[Box]]) -> None:
    agreement = mean_pairwise_iou(box_sets)
    assert agreement is not None
    assert 0 <= agreement <= 1
    assert mean_pairwise_iou(box_sets[::-1]) == pytest.approx(agreement)


# --- shaping --------------------------------------------------------------------------------------------------------


def test_clip_by_hand() -> None:
    clipped = clip(Box.from_xyxy((-5, 2, 50, 8), label="sign", score=0.5), (20, 10))
    assert clipped == Box.from_xyxy((0, 2, 20, 8), label="sign", score=0.5)
    assert clip(box(20, 0, 30, 10), (20, 10)) is None
    assert clip(box(-9, -9, 0, 0), (20, 10)) is None


def test_pad_by_hand() -> None:
    assert pad(box(40, 40, 60, 50), 0.25, (100, 100)).xyxy == (35, 37.5, 65, 52.5)
    assert pad(box(0, 90, 20, 100), 0.5, (100, 100)).xyxy == (0, 85, 30, 100)
    assert pad(box(1, 2, 3, 4), 0, (100, 100)).xyxy == (1, 2, 3, 4)


def test_grow_by_hand() -> None:
    assert grow_to_side(box(50, 50, 52, 60), 28, (100, 100)).xyxy == (37, 41, 65, 69)
    assert grow_to_side(box(0, 98, 4, 100), 28, (100, 100)).xyxy == (0, 72, 28, 100)  # moved inside, not cut
    assert grow_to_side(box(3, 3, 5, 5), 28, (10, 100)).xyxy == (0, 0, 10, 28)  # the image is the limit
    assert grow_to_side(box(10, 10, 60, 70), 28, (100, 100)).xyxy == (10, 10, 60, 70)


def test_aspect_by_hand() -> None:
    assert limit_aspect(box(0, 50, 200, 52), 20, (400, 100)).xyxy == (0, 46, 200, 56)
    assert limit_aspect(box(50, 0, 52, 200), 20, (100, 400)).xyxy == (46, 0, 56, 200)
    assert limit_aspect(box(0, 0, 200, 10), 20, (400, 100)).xyxy == (0, 0, 200, 10)
    assert limit_aspect(box(0, 2, 400, 3), 20, (400, 5)).xyxy == (0, 0, 400, 5)


def test_snap_by_hand() -> None:
    assert snap_to_pixels(box(1.2, 1.8, 3.1, 4.0), (10, 10)).xyxy == (1, 1, 4, 4)
    # Edges that only float noise moved off a pixel stay on it.
    assert snap_to_pixels(box(1.9999999, 2.0000001, 5.0000001, 5.9999999), (10, 10)).xyxy == (2, 2, 5, 6)
    # Thinner than the tolerance is still one pixel, also on the far edge.
    assert snap_to_pixels(box(10 - 1e-9, 5, 10, 5 + 1e-9), (10, 10)).xyxy == (9, 5, 10, 6)


def test_merge_keeps_the_first_and_the_order() -> None:
    first, near, far = box(0, 0, 100, 100, "a"), box(0, 0, 100, 95, "b"), box(50, 0, 150, 100, "c")
    assert iou(first, near) == 0.95
    assert merge_duplicates([first, near, far]) == (first, far)
    assert merge_duplicates([far, near, first]) == (far, near)
    assert merge_duplicates([first, near], iou_threshold=0.95) == (first, near)  # above, not at
    assert merge_duplicates([first, first], iou_threshold=0.95) == (first,)


@given(image=images(), ratio=st.floats(0, 2), side=st.floats(1, 300), aspect=st.floats(1, 200))
def test_shaping_invariants(image: tuple[tuple[int, int], Box], ratio: float, side: float, aspect: float) -> None:
    wh, start = image
    padded = pad(start, ratio, wh)
    grown = grow_to_side(padded, side, wh)
    limited = limit_aspect(grown, aspect, wh)
    snapped = snap_to_pixels(limited, wh)
    for outer, inner in ((padded, start), (grown, padded), (limited, grown), (snapped, limited)):
        assert is_inside(outer, wh)
        assert holds(outer, inner)
    assert grown.width >= min(side, wh[0]) - 1e-6
    assert grown.height >= min(side, wh[1]) - 1e-6
    assert limited.width >= min(limited.height / aspect, wh[0]) - 1e-6
    assert limited.height >= min(limited.width / aspect, wh[1]) - 1e-6
    assert all(edge == int(edge) for edge in snapped.xyxy)
    assert snapped.width < limited.width + 2
    assert snapped.height < limited.height + 2
    assert snap_to_pixels(snapped, wh) == snapped


def test_plan_by_hand() -> None:
    crops = plan_crops(
        [
            box(-50, -50, -1, -1, "outside"),
            box(100, 100, 140, 120, "first"),
            box(100.2, 100, 140, 120, "same again"),
            box(0, 0, 2, 2, "tiny"),
            box(0, 300, 400, 301, "line"),
            box(200, 200, 260, 260, "one too many"),
        ],
        (400, 400),
        padding=0.1,
        min_side=28,
        max_aspect=10,
        max_boxes=3,
    )
    assert [(crop.label, crop.xyxy) for crop in crops] == [
        ("first", (96, 96, 144, 124)),  # padded to 48 x 24, then 24 grown to 28 around 110
        ("tiny", (0, 0, 28, 28)),
        ("line", (0, 280, 400, 321)),  # 400 / 10 = 40 high around 300.5, outward to whole pixels
    ]


def test_plan_pads_from_the_clipped_box() -> None:
    (crop,) = plan_crops([box(-90, 0, 10, 10)], (100, 100), padding=1, min_side=1, max_aspect=200, max_boxes=1)
    assert crop.xyxy == (0, 0, 20, 20)


@pytest.mark.parametrize("boxes", [[], [box(10, 0, 20, 5)]])
def test_plan_of_nothing_is_nothing(boxes: list[Box]) -> None:
    assert plan_crops(boxes, (10, 10), padding=0, min_side=28, max_aspect=20, max_boxes=4) == ()


@given(
    wh=any_sizes,
    boxes=st.lists(wild_boxes(), max_size=8),
    padding=st.floats(0, 1),
    min_side=st.floats(1, 200),
    max_aspect=st.floats(1, 200),
    max_boxes=st.integers(1, 5),
)
def test_planned_crops_can_always_be_cut(
    wh: tuple[int, int], boxes: list[Box], padding: float, min_side: float, max_aspect: float, max_boxes: int
) -> None:
    policy = {"padding": padding, "min_side": min_side, "max_aspect": max_aspect}
    crops = plan_crops(boxes, wh, **policy, max_boxes=max_boxes)  # type: ignore[arg-type]
    touching = [inside for b in boxes if (inside := clip(b, wh)) is not None]
    assert len(crops) <= min(max_boxes, len(touching))
    assert bool(crops) == bool(touching)
    for crop in crops:
        assert is_inside(crop, wh)
        assert all(edge == int(edge) for edge in crop.xyxy)
        assert crop.width >= min(math.floor(min_side), wh[0])
        assert crop.height >= min(math.floor(min_side), wh[1])
        assert any(holds(crop, inside) for inside in touching)
        # Snapping may add up to 2 px to the long side after its limit was set.
        assert crop.width <= max_aspect * crop.height + 2 or crop.height == wh[1]
        assert crop.height <= max_aspect * crop.width + 2 or crop.width == wh[0]
    assert all(iou(first, second) <= 0.9 for n, first in enumerate(crops) for second in crops[:n])
    assert crops == plan_crops(boxes, wh, **policy, max_boxes=1000)[:max_boxes]  # type: ignore[arg-type]
