"""Micro-batches of an optimizer step: weighted rows, scored in chunks, with an additive loss.

Weights are fixed before rows are split into batches (``algorithms.weighting``), so the losses of chunks, micro-batches
and processes are parts of one sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import pad_sequence

from hart_studio.algorithms.losses import PolicyLoss, policy_loss
from hart_studio.algorithms.weighting import LossAggregation, row_weights
from hart_studio.records import Credit
from hart_studio.runs.config import MethodConfig
from hart_studio.training.rollouts import TrainingGroup
from hart_studio.training.sequence_logps import SequenceLogps
from hart_studio.training.sequences import Prompt, TrainingSequence

ZERO_CREDIT = Credit(advantage=0.0, policy_weight=0.0, kl_weight=0.0)


@dataclass(frozen=True, eq=False)
class WeightedSequence:
    """A training sequence with weight and credit of its rollout.

    Attributes:
        sequence: The sequence.
        weight: Weight of each trained token in the loss of the step.
        credit: Credit of its rollout, the same for both turns.
        is_right: Whether its rollout's answer was right.
    """

    sequence: TrainingSequence
    weight: float
    credit: Credit = ZERO_CREDIT
    is_right: bool = False


@dataclass(eq=False)
class MicroBatch:
    """The rows of one gradient accumulation step, or a chunk of them: one forward and backward pass.

    Attributes:
        rows: At least one.
        ref_logps: Log-probabilities under the reference policy, one tensor per row; None without a reference.
        old_logps: Log-probabilities of each row before the first update on it; empty before ``keep_old_logps``.
    """

    rows: list[WeightedSequence]
    ref_logps: list[torch.Tensor] | None = field(default=None)
    old_logps: dict[int, torch.Tensor] = field(default_factory=dict)

    def take(self, indices: Sequence[int]) -> MicroBatch:
        """Select rows."""
        refs = None if self.ref_logps is None else [self.ref_logps[index] for index in indices]
        olds = {place: self.old_logps[index] for place, index in enumerate(indices) if index in self.old_logps}
        return MicroBatch([self.rows[index] for index in indices], refs, olds)

    def keep_old_logps(self, indices: Sequence[int], logps: Sequence[torch.Tensor]) -> None:
        """Keep the log-probabilities of rows for later updates on the same rollouts; the first ones stay."""
        for index, part in zip(indices, logps, strict=False):  # a filler has no index
            self.old_logps.setdefault(index, part.detach())


def filler_row(token_id: int) -> WeightedSequence:
    """Row without effect, for a process whose samples all failed: it must still take part in the step."""
    return WeightedSequence(TrainingSequence(Prompt((token_id,)), (), ()), 0.0)


def count_rollouts(groups: Sequence[TrainingGroup]) -> int:
    """Number of rollouts with at least one trained token."""
    return sum(
        any(sequence.trained_count for sequence in sequences) for group in groups for sequences in group.sequences
    )


def count_tokens(groups: Sequence[TrainingGroup]) -> int:
    """Number of trained tokens."""
    return sum(sequence.trained_count for group in groups for sequences in group.sequences for sequence in sequences)


def build_rows(
    groups: Sequence[TrainingGroup],
    rollouts_in_step: int,
    loss_aggregation: LossAggregation,
    *,
    tokens_in_step: int = 0,
    token_limit: int = 0,
) -> list[list[WeightedSequence]]:
    """Build the rows of all groups.

    Args:
        groups: Groups of this process in this step.
        rollouts_in_step: ``count_rollouts`` over all processes.
        loss_aggregation: As in ``row_weights``.
        tokens_in_step: ``count_tokens`` over all processes.
        token_limit: As in ``row_weights``.

    Returns:
        One list per group, in order. A rollout that could not be scored has no row, and neither has one whose loss is
        zero: equal rewards without a KL term.
    """
    sequences = [
        (number, index, sequence)
        for number, group in enumerate(groups)
        for index, parts in enumerate(group.sequences)
        for sequence in parts
    ]
    weights = row_weights(
        [sequence.trained_count for _, _, sequence in sequences],
        [(number, index) for number, index, _ in sequences],
        rollouts_in_step,
        loss_aggregation,
        tokens_in_step=tokens_in_step,
        token_limit=token_limit,
    )
    rows: list[list[WeightedSequence]] = [[] for _ in groups]
    for (number, index, sequence), weight in zip(sequences, weights, strict=True):
        is_right = groups[number].rewards[index].correct == 1.0
        credit = groups[number].group.credits[index]
        if credit.advantage or credit.kl_weight:
            rows[number].append(WeightedSequence(sequence, weight, credit, is_right))
    return rows


def make_micro_batches(
    rows: Sequence[Sequence[WeightedSequence]], micro_batches: int, filler: WeightedSequence
) -> list[MicroBatch]:
    """Assign whole groups to micro-batches of equal size; a batch without rows gets the filler.

    Raises:
        ValueError: If the groups do not divide evenly.
    """
    if len(rows) % micro_batches:
        raise ValueError(f"expected groups that divide into {micro_batches} micro-batches, got {len(rows)}")
    size = len(rows) // micro_batches
    portions = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [MicroBatch([row for group in portion for row in group] or [filler]) for portion in portions]


def rows_loss(batch: MicroBatch, scores: SequenceLogps, settings: MethodConfig) -> PolicyLoss:
    """Eq. 2 or 4 over some rows.

    Args:
        batch: The rows, their reference log-probabilities, and those before the first update.
        scores: Of the rows' sequences, in order.
        settings: Clip and KL estimator.
    """
    logps, mask = stack_rows(scores.logps)
    device = logps.device

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=logps.dtype, device=device)

    return policy_loss(
        logps,
        # Before the first update on these rollouts, the policy that sampled is the one that is trained.
        stack_rows([batch.old_logps[index] for index in range(len(batch.rows))])[0] if batch.old_logps else None,
        None if batch.ref_logps is None else stack_rows(batch.ref_logps)[0],
        mask,
        row_weight=column([row.weight for row in batch.rows]),
        advantage=column([row.credit.advantage for row in batch.rows]),
        policy_weight=column([row.credit.policy_weight for row in batch.rows]),
        kl_weight=column([row.credit.kl_weight for row in batch.rows]),
        clip_epsilon=settings.clip_epsilon,
        clip_epsilon_high=settings.clip_epsilon_high,
        kl_estimator=settings.kl_estimator,
    )


def sum_row_kl(batch: MicroBatch, scores: SequenceLogps, is_right: bool) -> tuple[float, int]:
    """Sum over the rows of right or of wrong rollouts of their mean KL per token, and the number of rows."""
    chosen = [index for index, row in enumerate(batch.rows) if row.is_right == is_right and row.sequence.trained_count]
    if batch.ref_logps is None or not chosen:
        return 0.0, 0
    logps, mask = stack_rows([scores.logps[index].detach() for index in chosen])
    nothing = torch.zeros_like(logps[:, 0])
    loss = policy_loss(
        logps,
        None,
        stack_rows([batch.ref_logps[index] for index in chosen])[0],
        mask,
        row_weight=1 / mask.sum(1),
        advantage=nothing,
        policy_weight=nothing,
        kl_weight=nothing,
        clip_epsilon=0.0,
    )
    return 0.0 if loss.kl is None else float(loss.kl), len(chosen)


def stack_rows(parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal length as ``[B, T]`` padded on the right, and the mask of what is not padding."""
    values = pad_sequence(list(parts), batch_first=True)
    lengths = torch.tensor([len(part) for part in parts], device=values.device)
    return values, torch.arange(values.shape[1], device=values.device) < lengths[:, None]
