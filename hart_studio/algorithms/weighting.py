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

LossAggregation = Literal["turn", "rollout", "step", "token_limit", "sum"]
"""How the losses of tokens are combined: mean over each row first; mean over the tokens of a rollout; mean over the
tokens of a step (DAPO); sum divided by a constant (Dr. GRPO); sum (Eq. 4 as written)."""


def row_weights(
    token_counts: Sequence[int],
    rollout_of_row: Sequence[Hashable],
    rollouts_in_step: int,
    loss_aggregation: LossAggregation,
    *,
    tokens_in_step: int = 0,
    token_limit: int = 0,
) -> tuple[float, ...]:
    """Weight of each row, so that the weighted sum of token losses is the mean over the rollouts of a step.

    A HART rollout is two rows, one per turn. ``log pi(o_i)`` is the SUM of the two turns. Project
    default: a rollout's loss is the MEAN over its rows of the mean over a row's tokens,

        J = 1/N sum over rollouts of 1/rows sum over rows of 1/T sum over tokens of J_token.

    Both turns have the same weight, and a rollout has the same weight with one row (GRPO, MGPO) or two (AP-GRPO), so
    all methods share one scale of learning rates. The sum would keep the gradient of each turn at the scale of GRPO,
    and double that of AP-GRPO relative to its baselines. A rollout without an answer turn has one row with its whole
    weight.

    The other values of ``loss_aggregation``, each with its weight of a token:

    - ``rollout``, ``1 / (N (T1 + T2))``: the mean over the tokens of a rollout; the longer turn has more weight.
    - ``step``, ``1 / (all tokens of the step)``: longer rollouts have more weight (DAPO, arXiv 2503.14476).
    - ``token_limit``, ``1 / (N limit)``: a constant, so that length has no effect (Dr. GRPO, arXiv 2503.20783).
    - ``sum``, ``1 / N``: ``log pi(o_i)`` of Eq. 4 is the sum over the tokens of both turns. On rollouts of the same
      policy its gradient is that of Eq. 4 as written.

    Args:
        token_counts: Trained tokens of each row, 0 or more. A row without trained tokens has weight 0 and does not
            count as a row of its rollout. This excludes a turn from training, and both turns of a rollout that could
            not be scored.
        rollout_of_row: Which rollout each row belongs to. All rows of a rollout must be in the same call.
        rollouts_in_step: N, rollouts with at least one trained token in the optimizer step, over all its micro-batches
            and processes. For SFT a rollout is a sample.
        loss_aggregation: See above.
        tokens_in_step: Trained tokens of the optimizer step, over all its micro-batches and processes; for ``step``.
        token_limit: Maximum number of tokens of a rollout; for ``token_limit``.

    Returns:
        One weight per row. Over a whole step ``weight * token_count`` adds up to 1 for the three means.

    Raises:
        ValueError: If the lists differ in length, a count is negative, or N or a needed number of tokens is too low.
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
    if loss_aggregation == "step" and tokens_in_step < sum(token_counts):
        raise ValueError(f"expected at least {sum(token_counts)} tokens in the step, got {tokens_in_step}")
    if loss_aggregation == "token_limit" and token_limit < max(tokens.values(), default=1):
        raise ValueError(f"expected a limit of at least {max(tokens.values(), default=1)} tokens, got {token_limit}")
    weights = []
    for count, rollout in zip(token_counts, rollout_of_row, strict=True):
        divisors = {
            "turn": rollouts_in_step * rows[rollout] * count,
            "rollout": rollouts_in_step * tokens[rollout],
            "step": tokens_in_step,
            "token_limit": rollouts_in_step * token_limit,
            "sum": rollouts_in_step,
        }
        weights.append(1.0 / divisors[loss_aggregation] if count else 0.0)
    return tuple(weights)
