"""Pack sequences into rows in which the items of a group share their prompt, exactly.

    row      = prompt[:-1]  then one branch per item, one after the other
    branch   = [prompt[-1], c_1 .. c_{T-1}]      its labels = [c_1 .. c_T]

The last prompt token begins every branch, so labels are local to a branch. A token sees the prompt of its own tree and
its own branch before it, never another branch, and its rotary position is the one that it has in its own sequence. So
the log-probabilities and gradients are those of the sequences one by one, while a prompt with its picture is computed
once for a whole group. Several trees stand side by side in a row without seeing each other.

The plain layout, one item per row with padding, is what models that cannot share use, and the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from hart_studio.training.items import IGNORED, Item, TowerPicture

PREFIX: Final = 0
"""Branch number of the shared prompt; branches count from 1."""
PADDING: Final = -1

ReadPositions = Callable[[Sequence[Item]], list[torch.Tensor]]
"""Rotary positions ``[axes, length]`` of each item's whole sequence."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Items as the rows of one model call; B rows, padded on the right to S tokens.

    Attributes:
        input_ids: ``[B, S]``.
        positions: ``[axes, B, S]`` rotary positions: three axes on patch grids, else one.
        tree: ``[B, S]`` number of the tree within its row, ``PADDING`` after the last.
        branch: ``[B, S]`` ``PREFIX``, a branch number from 1, or ``PADDING``.
        labels: ``[B, S]`` token to predict AFTER this position, or ``IGNORED``.
        pictures: In the order of the placeholders, row by row; one shown in two rows is listed twice.
        scored: Index and trained tokens of each scored item, in the order in which their labels stand in the rows.
        is_shared: Whether items share prompts and rows; decides what mask the model needs.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    tree: torch.Tensor
    branch: torch.Tensor
    labels: torch.Tensor
    pictures: list[TowerPicture]
    scored: list[tuple[int, int]]
    is_shared: bool

    def split(self, values: torch.Tensor, count: int) -> list[torch.Tensor]:
        """Give values of labelled positions back to their items.

        Args:
            values: One per label, row by row.
            count: Items that were packed.

        Returns:
            ``count`` tensors, one value per trained token; empty for items without one.
        """
        pieces = torch.split(values, [trained for _, trained in self.scored])
        parts = {index: piece for (index, _), piece in zip(self.scored, pieces, strict=True)}
        return [parts.get(index, values[:0]) for index in range(count)]


@dataclass(frozen=True, eq=False)
class _Tree:
    """The items of a group in one line."""

    ids: list[int]
    branch: list[int]
    labels: list[int]
    positions: torch.Tensor
    pictures: list[TowerPicture]
    scored: list[tuple[int, int]]


def pack(items: Sequence[Item], read_positions: ReadPositions, *, share: bool = True) -> Layout:
    """Lay items out for one model call.

    Items without a trained token are left out. When there is no other, the first one stands in, so that there is a
    model call with a gradient of zero and every process of a distributed step takes part in it.

    Args:
        items: At least one.
        read_positions: Positions of unshared sequences.
        share: Whether items of one group share their prompt and trees share rows; else one item per row.

    Returns:
        The rows, on the CPU. Shared rows are filled up to the length of the longest tree.

    Raises:
        ValueError: If there is no item.
    """
    if not items:
        raise ValueError("expected at least one item, got none")
    indices = [index for index, item in enumerate(items) if item.trained_count] or [0]
    groups = group_items(items, indices) if share else [[index] for index in indices]
    trees = [_grow(items, group, read_positions) for group in groups]
    rows = fill_rows([len(tree.ids) for tree in trees]) if share else [[number] for number in range(len(trees))]
    filler = items[0].prompt.ids[-1]  # a text token: what stands in the padding must not be a placeholder
    return _stack([[trees[number] for number in row] for row in rows], filler, share)


def group_items(items: Sequence[Item], indices: Sequence[int]) -> list[list[int]]:
    """Indices of the items that share a prompt: equal tokens and the same picture objects. Order is kept."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index in indices:
        prompt = items[index].prompt
        groups.setdefault((prompt.ids, *(id(picture) for picture in prompt.pictures)), []).append(index)
    return list(groups.values())


def fill_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Put trees into rows as long as the longest tree: the longest first, each into the first row with room.

    Args:
        lengths: Tokens of each tree; at least one.

    Returns:
        Numbers of the trees of each row.
    """
    capacity = max(lengths)
    rows: list[list[int]] = []
    room: list[int] = []
    for tree in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        row = next((number for number, free in enumerate(room) if free >= lengths[tree]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(tree)
        room[row] -= lengths[tree]
    return rows


def split_items(items: Sequence[Item], token_budget: int, *, share: bool = True) -> list[list[int]]:
    """Cut a list of items into batches for one model call each: neighbours in length together, groups kept whole.

    Items without a trained token are counted as ``pack`` lays them out: not at all. They go into the last batch.

    Args:
        items: Any number.
        token_budget: Most tokens of a batch, padding included; a group that is larger is a batch by itself.
        share: As for ``pack``.

    Returns:
        Indices of the items of each batch; every item is in one.
    """
    trained = [index for index, item in enumerate(items) if item.trained_count]
    untrained = [index for index, item in enumerate(items) if not item.trained_count]
    groups = group_items(items, trained) if share else [[index] for index in trained]
    lengths = [_tree_length(items, group) for group in groups]
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
    """Who sees whom in shared rows.

    Args:
        tree: ``[B, S]`` (see ``Layout``).
        branch: ``[B, S]``.

    Returns:
        ``[B, 1, S, S]`` bool, True where the query (third axis) sees the key (last axis). Padding sees padding, so that
        no row of the softmax is empty.
    """
    length = tree.shape[1]
    is_past = torch.ones(length, length, dtype=torch.bool, device=tree.device).tril()
    is_same_tree = tree[:, :, None] == tree[:, None, :]
    is_visible = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == PREFIX)
    return (is_past & is_same_tree & is_visible)[:, None]


def _tree_length(items: Sequence[Item], group: Sequence[int]) -> int:
    prompt = items[group[0]].prompt
    return len(prompt.ids) - 1 + sum(max(1, len(items[index].completion_ids)) for index in group)


def _padded_tokens(lengths: Sequence[int], share: bool) -> int:
    return max(lengths) * (len(fill_rows(lengths)) if share else len(lengths))


def _grow(items: Sequence[Item], group: Sequence[int], read_positions: ReadPositions) -> _Tree:
    prompt = items[group[0]].prompt
    start = len(prompt.ids) - 1
    ids, branch, labels = list(prompt.ids[:-1]), [PREFIX] * start, [IGNORED] * start
    pictures = list(prompt.pictures)
    sequences = read_positions([items[index] for index in group])
    positions = [sequences[0][:, :start]]
    for number, (index, sequence) in enumerate(zip(group, sequences, strict=True), start=1):
        item = items[index]
        inputs = [prompt.ids[-1], *item.completion_ids[:-1]]
        ids += inputs
        branch += [number] * len(inputs)
        labels += item.labels or [IGNORED]
        pictures += item.completion_pictures
        positions.append(sequence[:, start : start + len(inputs)])
    scored = [(index, items[index].trained_count) for index in group]
    return _Tree(ids, branch, labels, torch.cat(positions, 1), pictures, scored)


def _stack(rows: Sequence[Sequence[_Tree]], filler: int, is_shared: bool) -> Layout:
    length = max(sum(len(tree.ids) for tree in row) for row in rows)

    def pad(values: Callable[[int, _Tree], list[int]], fill: int) -> torch.Tensor:
        table = torch.full((len(rows), length), fill)
        for index, row in enumerate(rows):
            line = [value for number, tree in enumerate(row) for value in values(number, tree)]
            table[index, : len(line)] = torch.tensor(line)
        return table

    axes = rows[0][0].positions.shape[0]
    positions = torch.zeros(axes, len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        line = torch.cat([tree.positions for tree in row], 1)
        positions[:, index, : line.shape[1]] = line
    return Layout(
        input_ids=pad(lambda _, tree: tree.ids, filler),
        positions=positions,
        tree=pad(lambda number, tree: [number] * len(tree.ids), PADDING),
        branch=pad(lambda _, tree: tree.branch, PADDING),
        labels=pad(lambda _, tree: tree.labels, IGNORED),
        pictures=[picture for row in rows for tree in row for picture in tree.pictures],
        scored=[entry for row in rows for tree in row for entry in tree.scored],
        is_shared=is_shared,
    )
