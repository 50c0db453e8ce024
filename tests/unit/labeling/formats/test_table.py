"""Boxes match as in a pairwise comparison, in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.labeling.formats.table import NamedBox, get_unmatched_box

EDGES = st.tuples(*[st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 100.25])] * 4)
BOXES = st.lists(st.tuples(st.sampled_from(["", "car"]), EDGES), max_size=6)
TOLERANCES = st.sampled_from([(0.0, 0.0), (0.5, 0.5), (0.5, 1.0), (1e-6, 2.0)])


@given(BOXES, BOXES, TOLERANCES)
def test_matches_equal_those_of_pairwise_comparison(
    boxes: list[NamedBox], others: list[NamedBox], tolerance: tuple[float, float]
) -> None:
    limits = (*tolerance, *tolerance)

    def is_same(one: NamedBox, other: NamedBox) -> bool:
        return one[0] == other[0] and all(abs(a - b) <= limit for a, b, limit in zip(one[1], other[1], limits))  # noqa: B905

    expected = next((box for box in boxes if not any(is_same(box, other) for other in others)), None)
    assert get_unmatched_box(boxes, others, tolerance) == expected


@pytest.mark.parametrize("tolerance", [0.0, 0.001, 0.5, 5.0])
def test_many_boxes_with_close_edges_take_little_time(tolerance: float) -> None:
    boxes = [("z", (1.0 + k % 50, 1.0 + k // 100, 60.0 + k % 40, 90 + k % 7 + k / 1e5)) for k in range(20_000)]
    started = time.perf_counter()
    assert get_unmatched_box(boxes, list(reversed(boxes)), (tolerance, tolerance)) is None
    assert time.perf_counter() - started < 10
