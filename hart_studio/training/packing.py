"""Prefix sharing: pack sequences into rows in which the sequences of a group share their prompt, with exact results.

    row      = prompt[:-1]  then one branch per sequence, one after the other
    branch   = [prompt[-1], c_1 .. c_{T-1}]      its labels = [c_1 .. c_T]

The last prompt token starts every branch, so labels are local to a branch. A token attends to the prompt of its tree
and earlier tokens of its branch, never to another branch, and its rotary position is that of its own sequence. So
log-probabilities and gradients equal those of separate sequences, while a prompt with its image is computed once per
group. Several trees share a row without attending to each other.

The plain layout, one sequence per row with padding, is used for models without prefix sharing, and as the reference in
tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from hart_studio.training.sequences import IGNORED, TrainingSequence, VisionInput

PREFIX: Final = 0
"""Branch number of the shared prompt; branches count from 1."""
PADDING: Final = -1

ReadPositions = Callable[[Sequence[TrainingSequence]], list[torch.Tensor]]
"""Rotary positions ``[axes, length]`` of each sequence's whole sequence."""


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Sequences as the rows of one model call; B rows, padded on the right to S tokens.

    Attributes:
        input_ids: ``[B, S]``.
        positions: ``[axes, B, S]`` rotary positions: three axes on patch grids, otherwise one.
        tree: ``[B, S]`` number of the tree within its row, ``PADDING`` after the last.
        branch: ``[B, S]`` ``PREFIX``, a branch number from 1, or ``PADDING``.
        labels: ``[B, S]`` token to predict AFTER this position, or ``IGNORED``.
        images: In the order of the placeholders, row by row; an image in two rows is listed twice.
        scored: Index and trained tokens of each scored sequence, in the order of their labels in the rows.
        is_shared: Whether sequences share prompts and rows; determines the attention mask.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    tree: torch.Tensor
    branch: torch.Tensor
    labels: torch.Tensor
    images: list[VisionInput]
    scored: list[tuple[int, int]]
    is_shared: bool

    def split(self, values: torch.Tensor, count: int) -> list[torch.Tensor]:
        """Split values of labeled positions by sequence.

        Args:
            values: One per label, row by row.
            count: Number of packed sequences.

        Returns:
            ``count`` tensors, one value per trained token; empty for sequences without one.
        """
        pieces = torch.split(values, [trained for _, trained in self.scored])
        parts = {index: piece for (index, _), piece in zip(self.scored, pieces, strict=True)}
        return [parts.get(index, values[:0]) for index in range(count)]


@dataclass(frozen=True, eq=False)
class _Tree:
    """The sequences of a group in one tree."""

    ids: list[int]
    branch: list[int]
    labels: list[int]
    positions: torch.Tensor
    images: list[VisionInput]
    scored: list[tuple[int, int]]


def pack(sequences: Sequence[TrainingSequence], read_positions: ReadPositions, *, share: bool = True) -> PackedBatch:
    """Pack sequences for one model call.

    Sequences without a trained token are omitted. If there is no other, the first one is used, so that there is a
    model call with a gradient of zero and every process of a distributed step takes part in it.

    Args:
        sequences: At least one.
        read_positions: Positions of unshared sequences.
        share: Whether sequences of one group share their prompt and trees share rows; otherwise one sequence per row.

    Returns:
        The rows, on the CPU. Shared rows are filled to the length of the longest tree.

    Raises:
        ValueError: If there are no sequences.
    """
    if not sequences:
        raise ValueError("expected at least one sequence, got none")
    indices = [index for index, sequence in enumerate(sequences) if sequence.trained_count] or [0]
    groups = group_by_prompt(sequences, indices) if share else [[index] for index in indices]
    trees = [_build_tree(sequences, group, read_positions) for group in groups]
    rows = fill_rows([len(tree.ids) for tree in trees]) if share else [[number] for number in range(len(trees))]
    filler = sequences[0].prompt.ids[-1]  # a text token: padding must not be a placeholder
    return _stack([[trees[number] for number in row] for row in rows], filler, share)


def group_by_prompt(sequences: Sequence[TrainingSequence], indices: Sequence[int]) -> list[list[int]]:
    """Group the indices of sequences with the same prompt: equal tokens and the same image objects. Order is kept."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index in indices:
        prompt = sequences[index].prompt
        groups.setdefault((prompt.ids, *(id(image) for image in prompt.images)), []).append(index)
    return list(groups.values())


def fill_rows(lengths: Sequence[int]) -> list[list[int]]:
    """First-fit decreasing bin packing of trees into rows of the length of the longest tree.

    Args:
        lengths: Tokens of each tree; at least one.

    Returns:
        Indices of the trees of each row.
    """
    capacity = max(lengths)
    rows: list[list[int]] = []
    remaining: list[int] = []
    for tree in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        row = next((number for number, free in enumerate(remaining) if free >= lengths[tree]), len(rows))
        if row == len(rows):
            rows.append([])
            remaining.append(capacity)
        rows[row].append(tree)
        remaining[row] -= lengths[tree]
    return rows


def split_by_tokens(sequences: Sequence[TrainingSequence], token_budget: int, *, share: bool = True) -> list[list[int]]:
    """Split sequences into batches for one model call each: similar lengths together, groups kept whole.

    Sequences without a trained token are not counted, as in ``pack``. They are put into the last batch.

    Args:
        sequences: Any number.
        token_budget: Maximum tokens of a batch, including padding; a larger group is a separate batch.
        share: See ``pack``.

    Returns:
        Indices of the sequences of each batch; every sequence is in exactly one.
    """
    trained = [index for index, sequence in enumerate(sequences) if sequence.trained_count]
    untrained = [index for index, sequence in enumerate(sequences) if not sequence.trained_count]
    groups = group_by_prompt(sequences, trained) if share else [[index] for index in trained]
    lengths = [_tree_length(sequences, group) for group in groups]
    batches: list[list[int]] = []
    batch: list[int] = []
    for number in sorted(range(len(groups)), key=lambda number: lengths[number]):
        if batch and _padded_tokens([lengths[one] for one in [*batch, number]], share) > token_budget:
            batches.append(batch)
            batch = []
        batch.append(number)
    if batch:
        batches.append(batch)
    indices = [[index for number in batch for index in groups[number]] for batch in batches]
    if untrained:
        indices = [*indices[:-1], [*(indices[-1] if indices else []), *untrained]]
    return indices


def tree_mask(tree: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
    """Attention mask of shared rows.

    Args:
        tree: ``[B, S]`` (see ``PackedBatch``).
        branch: ``[B, S]``.

    Returns:
        ``[B, 1, S, S]`` bool, True where the query (third axis) attends to the key (last axis). Padding attends to
        padding, so that no row of the softmax is empty.
    """
    length = tree.shape[1]
    is_past = torch.ones(length, length, dtype=torch.bool, device=tree.device).tril()
    is_same_tree = tree[:, :, None] == tree[:, None, :]
    is_visible = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == PREFIX)
    return (is_past & is_same_tree & is_visible)[:, None]


def _tree_length(sequences: Sequence[TrainingSequence], group: Sequence[int]) -> int:
    prompt = sequences[group[0]].prompt
    return len(prompt.ids) - 1 + sum(max(1, len(sequences[index].completion_ids)) for index in group)


def _padded_tokens(lengths: Sequence[int], share: bool) -> int:
    return max(lengths) * (len(fill_rows(lengths)) if share else len(lengths))


def _build_tree(sequences: Sequence[TrainingSequence], group: Sequence[int], read_positions: ReadPositions) -> _Tree:
    prompt = sequences[group[0]].prompt
    start = len(prompt.ids) - 1
    ids, branch, labels = list(prompt.ids[:-1]), [PREFIX] * start, [IGNORED] * start
    images = list(prompt.images)
    item_positions = read_positions([sequences[index] for index in group])
    positions = [item_positions[0][:, :start]]
    for number, (index, own_positions) in enumerate(zip(group, item_positions, strict=True), start=1):
        sequence = sequences[index]
        inputs = [prompt.ids[-1], *sequence.completion_ids[:-1]]
        ids += inputs
        branch += [number] * len(inputs)
        labels += sequence.labels or [IGNORED]
        images += sequence.completion_images
        positions.append(own_positions[:, start : start + len(inputs)])
    scored = [(index, sequences[index].trained_count) for index in group]
    return _Tree(ids, branch, labels, torch.cat(positions, 1), images, scored)


def _stack(rows: Sequence[Sequence[_Tree]], filler: int, is_shared: bool) -> PackedBatch:
    length = max(sum(len(tree.ids) for tree in row) for row in rows)

    def pad(values: Callable[[int, _Tree], list[int]], fill: int) -> torch.Tensor:
        table = torch.full((len(rows), length), fill)
        for index, row in enumerate(rows):
            row_values = [value for number, tree in enumerate(row) for value in values(number, tree)]
            table[index, : len(row_values)] = torch.tensor(row_values)
        return table

    axes = rows[0][0].positions.shape[0]
    positions = torch.zeros(axes, len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        row_values = torch.cat([tree.positions for tree in row], 1)
        positions[:, index, : row_values.shape[1]] = row_values
    return PackedBatch(
        input_ids=pad(lambda _, tree: tree.ids, filler),
        positions=positions,
        tree=pad(lambda number, tree: [number] * len(tree.ids), PADDING),
        branch=pad(lambda _, tree: tree.branch, PADDING),
        labels=pad(lambda _, tree: tree.labels, IGNORED),
        images=[image for row in rows for tree in row for image in tree.images],
        scored=[entry for row in rows for tree in row for entry in tree.scored],
        is_shared=is_shared,
    )
