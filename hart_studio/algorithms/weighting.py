"""Weights of training rows in the loss of an optimizer step. No torch.

Weights are computed before rows are shuffled and split into micro-batches, and losses are weighted sums:

    loss = sum over rows of row_weight * (sum over the row's trained tokens of token_loss)

So the loss of a rollout does not depend on the batch composition, and the losses of micro-batches and of
processes add up to the loss of the step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

LossAggregation = Literal["turn", "rollout"]
"""How a rollout of several rows is averaged: over each row first, or over all tokens of the rollout."""


def row_weights(
    token_counts: Sequence[int],
    rollout_of_row: Sequence[Hashable],
    rollouts_in_step: int,
    loss_aggregation: LossAggregation,
) -> tuple[float, ...]:
    """Weight of each row, so that the weighted sum of token losses is the mean over the rollouts of a step.

    A HART rollout is two rows, one per turn. ``log pi(o_i)`` is the SUM of the two turns. Project
    default: a rollout's loss is the MEAN over its rows of the mean over a row's tokens,

        J = 1/N sum over rollouts of 1/rows sum over rows of 1/T sum over tokens of J_token.

    Both turns have the same weight, and a rollout has the same weight with one row (GRPO, MGPO) or two (AP-GRPO), so
    all methods share one scale of learning rates. The sum would keep the gradient of each turn at the scale of GRPO,
    and double that of AP-GRPO relative to its baselines. A rollout without an answer turn has one row with its whole
    weight.

    With ``loss_aggregation`` ``rollout`` a rollout's loss is the mean over all its tokens, ``1 / (T1 + T2)`` each: the
    longer turn has more weight.

    Args:
        token_counts: Trained tokens of each row, 0 or more. A row without trained tokens has weight 0 and does not
            count as a row of its rollout. This excludes a turn from training, and both turns of a rollout that could
            not be scored.
        rollout_of_row: Which rollout each row belongs to. All rows of a rollout must be in the same call.
        rollouts_in_step: N, rollouts with at least one trained token in the optimizer step, over all its micro-batches
            and processes. For SFT a rollout is a sample.
        loss_aggregation: ``turn`` or ``rollout``.

    Returns:
        One weight per row; over a whole step ``weight * token_count`` adds up to 1.

    Raises:
        ValueError: If the lists differ in length, a count is negative, or N is below the number of rollouts given.
    """
    if len(token_counts) != len(rollout_of_row):
        raise ValueError(f"expected one rollout per row, got {len(rollout_of_row)} for {len(token_counts)} rows")
    if min(token_counts, default=0) < 0:
        raise ValueError(f"expected token counts of at least 0, got {min(token_counts)}")
    rows: Counter[Hashable] = Counter()
    tokens: Counter[Hashable] = Counter()
    for count, rollout in zip(token_counts, rollout_of_row, strict=True):
        if count:
            rows[rollout] += 1
            tokens[rollout] += count
    if rollouts_in_step < len(rows):
        raise ValueError(f"expected at least {len(rows)} rollouts in the step, got {rollouts_in_step}")
    weights = []
    for count, rollout in zip(token_counts, rollout_of_row, strict=True):
        shared = {"turn": rows[rollout] * count, "rollout": tokens[rollout]}[loss_aggregation]
        weights.append(1.0 / (rollouts_in_step * shared) if count else 0.0)
    return tuple(weights)
