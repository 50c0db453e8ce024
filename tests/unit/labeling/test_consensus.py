from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from hart_studio.labeling.consensus import compute_consensus, compute_support
from hart_studio.records import Box

ALL = (True, True, True, True)


def at(x: float, y: float = 0, side: float = 100) -> Box:
    return Box.from_xyxy((x, y, x + side, y + side))


def test_consensus_is_the_median_of_most_boxes() -> None:
    found = compute_consensus([(at(0),), (at(10),), (at(20),), (at(5000),)], ALL)
    assert [box.xyxy for box in found] == [(10, 0, 110, 100)]


def test_only_voters_say_where() -> None:
    wrong, right = at(0), at(1000)
    sets = [(wrong,), (wrong,), (wrong,), (right,)]
    assert compute_consensus(sets, (False, False, False, True)) == (right,)
    assert compute_consensus(sets, ALL) == (wrong,)


def test_when_no_voter_has_a_box_all_rollouts_vote() -> None:
    assert compute_consensus([(at(0),), ()], (False, True)) == (at(0),)


def test_two_regions_that_most_mean_are_both_kept() -> None:
    sets = [(at(0), at(500)), (at(500), at(2)), (at(1), at(501)), (at(0),)]
    assert [box.xyxy for box in compute_consensus(sets, ALL)] == [(0.5, 0, 100.5, 100), (500, 0, 600, 100)]


def test_without_a_majority_the_region_with_most_votes_is_returned() -> None:
    sets = [(at(0),), (at(3),), (at(1000),), (at(2000),), (at(3000),), (at(4000),)]
    assert compute_consensus(sets, [True] * 6) == (Box.from_xyxy((1.5, 0, 101.5, 100)),)


def test_no_rollout_has_a_box() -> None:
    assert compute_consensus([(), ()], (True, True)) == ()
    assert compute_consensus([], ()) == ()


def test_one_rollout_counts_once_however_often_it_repeats_itself() -> None:
    stutter = (at(0), at(1), at(2), at(3))
    assert compute_consensus([stutter, (at(1000),), (at(1001),)], (True,) * 3) == (
        Box.from_xyxy((1000.5, 0, 1100.5, 100)),
    )


@given(st.lists(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), max_size=3), max_size=6), st.randoms())
def test_the_order_of_rollouts_does_not_move_a_clear_majority(
    places: list[list[tuple[int, int]]], rng: random.Random
) -> None:
    majority = [[at(5000), at(7000)]] * (len(places) + 1)
    sets = [[at(*place) for place in own] for own in places] + majority
    shuffled = list(sets)
    rng.shuffle(shuffled)
    for order in (sets, shuffled):
        assert set(compute_consensus(order, [True] * len(order))[:2]) == {at(5000), at(7000)}


def test_support_is_the_share_that_points_at_all_of_them() -> None:
    sets = [(at(0), at(500)), (at(0),), (at(10), at(490)), ()]
    assert compute_support(sets, (at(0), at(500))) == 0.5
    assert compute_support(sets, (at(0),)) == 0.75
    assert compute_support(sets, ()) is None
    assert compute_support([], (at(0),)) is None
