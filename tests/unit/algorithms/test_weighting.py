from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hart_studio.algorithms.weighting import LossAggregation, row_weights

unhurried = settings(suppress_health_check=[HealthCheck.too_slow])
rows = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=20)


def test_weights_of_rows_by_hand() -> None:
    # rollout 0: turns of 4 and 10 tokens; rollout 1: one turn of 5; N = 2
    weights = row_weights([4, 10, 5], [0, 0, 1], 2, "turn")
    assert weights == pytest.approx([1 / (2 * 2 * 4), 1 / (2 * 2 * 10), 1 / (2 * 1 * 5)], rel=1e-15)


def test_weights_of_the_joint_mean_by_hand() -> None:
    weights = row_weights([4, 10, 5], [0, 0, 1], 2, "rollout")
    assert weights == pytest.approx([1 / (2 * 14), 1 / (2 * 14), 1 / (2 * 5)], rel=1e-15)


def test_weights_of_sums_by_hand() -> None:
    # the same rows: 19 tokens in the step of this process, 40 of all; at most 30 tokens in a rollout
    counts, rollouts = [4, 10, 0, 5], [0, 0, 1, 1]
    assert row_weights(counts, rollouts, 2, "sum") == (1 / 2, 1 / 2, 0.0, 1 / 2)
    assert row_weights(counts, rollouts, 2, "step", tokens_in_step=40) == (1 / 40, 1 / 40, 0.0, 1 / 40)
    assert row_weights(counts, rollouts, 2, "token_limit", token_limit=30) == (1 / 60, 1 / 60, 0.0, 1 / 60)


def test_numbers_of_tokens_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 7 tokens in the step, got 6"):
        row_weights([3, 4], [0, 0], 1, "step", tokens_in_step=6)
    with pytest.raises(ValueError, match="a limit of at least 7 tokens, got 6"):
        row_weights([3, 4], [0, 0], 1, "token_limit", token_limit=6)


@pytest.mark.parametrize("loss_aggregation", ["turn", "rollout"])
def test_a_row_without_trained_tokens_leaves_its_weight_to_the_other_turn(loss_aggregation: LossAggregation) -> None:
    assert row_weights([4, 0, 0], ["a", "a", "b"], 1, loss_aggregation) == (1 / 4, 0.0, 0.0)


@unhurried
@given(rows, st.sampled_from(["turn", "rollout"]))
def test_every_rollout_has_the_same_share_of_the_step(
    rows: list[tuple[int, int]], loss_aggregation: LossAggregation
) -> None:
    counts, rollouts = [count for count, _ in rows], [rollout for _, rollout in rows]
    trained = {rollout for count, rollout in rows if count}
    shares: dict[int, float] = defaultdict(float)
    for count, rollout, weight in zip(
        counts, rollouts, row_weights(counts, rollouts, 8, loss_aggregation), strict=True
    ):
        shares[rollout] += count * weight
    assert {rollout: pytest.approx(1 / 8) for rollout in trained} == {k: v for k, v in shares.items() if v}


@unhurried
@given(rows, st.sampled_from(["turn", "rollout"]), st.randoms(use_true_random=False))
def test_a_weight_depends_on_its_own_rollout_alone(
    rows: list[tuple[int, int]], loss_aggregation: LossAggregation, rng
) -> None:  # type: ignore[no-untyped-def]
    together = row_weights([count for count, _ in rows], [rollout for _, rollout in rows], 8, loss_aggregation)
    order = list(range(len(rows)))
    rng.shuffle(order)
    shuffled = row_weights([rows[i][0] for i in order], [rows[i][1] for i in order], 8, loss_aggregation)
    assert shuffled == tuple(together[i] for i in order)
    for rollout in range(6):
        own = [i for i, row in enumerate(rows) if row[1] == rollout]
        apart = row_weights([rows[i][0] for i in own], [0] * len(own), 8, loss_aggregation)
        assert apart == tuple(together[i] for i in own)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="one rollout per row, got 1 for 2 rows"):
        row_weights([1, 2], [0], 1, "turn")
    with pytest.raises(ValueError, match="at least 0, got -1"):
        row_weights([-1], [0], 1, "turn")
    with pytest.raises(ValueError, match="at least 2 rollouts in the step, got 1"):
        row_weights([1, 1, 0], [0, 1, 2], 1, "turn")
