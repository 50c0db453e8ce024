"""Packed rows compared with hand-written ones: tokens, branches, positions, labels and attention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hart_studio.models.inputs import ProcessedImage
from hart_studio.training.packing import PADDING, fill_rows, group_by_prompt, pack, split_by_tokens, tree_mask
from hart_studio.training.sequences import IGNORED, Prompt, TrainingSequence, turn_sequence

OUT = IGNORED


def counting(sequences: Sequence[TrainingSequence]) -> list[torch.Tensor]:
    """Plain text positions: 0, 1, 2, ... in every unshared sequence."""
    return [torch.arange(len(sequence.ids))[None] for sequence in sequences]


def make_image() -> ProcessedImage:
    return ProcessedImage({"pixel_values": torch.zeros(1, 3)}, [9], 1, (28, 28))


def sees(tree: Sequence[int], branch: Sequence[int]) -> list[list[int]]:
    """Keys that each query sees."""
    mask = tree_mask(torch.tensor([tree]), torch.tensor([branch]))
    assert mask.shape == (1, 1, len(tree), len(tree))
    assert mask.dtype == torch.bool
    return [row.nonzero().flatten().tolist() for row in mask[0, 0]]


def test_a_group_is_its_prompt_and_then_its_branches() -> None:
    prompt = Prompt((1, 2, 3))
    layout = pack([turn_sequence(prompt, ids) for ids in ((10, 11), (20,), (30, 31, 32))], counting)
    assert layout.input_ids.tolist() == [[1, 2, 3, 10, 3, 3, 30, 31]]
    assert layout.labels.tolist() == [[OUT, OUT, 10, 11, 20, 30, 31, 32]]
    assert layout.branch.tolist() == [[0, 0, 1, 1, 2, 3, 3, 3]]
    assert layout.tree.tolist() == [[0] * 8]
    assert layout.positions.tolist() == [[[0, 1, 2, 3, 2, 2, 3, 4]]]
    assert layout.scored == [(0, 2), (1, 1), (2, 3)]


def test_a_branch_sees_the_prompt_and_itself() -> None:
    assert sees([0] * 6, [0, 0, 1, 1, 2, 2]) == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 4, 5]]


def test_trees_of_a_row_do_not_see_each_other() -> None:
    seen = sees([0, 0, 0, 1, 1, 1, PADDING], [0, 1, 2, 0, 1, 1, PADDING])
    assert seen == [[0], [0, 1], [0, 2], [3], [3, 4], [3, 4, 5], [6]]


def test_padding_sees_padding_so_that_no_softmax_is_empty() -> None:
    assert sees([0, PADDING, PADDING], [0, PADDING, PADDING]) == [[0], [1], [1, 2]]


def test_short_trees_share_a_row_as_long_as_the_longest() -> None:
    sequences = [
        turn_sequence(Prompt((1, 2, 3, 4, 5)), (10, 11)),  # 4 + 2
        turn_sequence(Prompt((6, 7)), (20,)),  # 1 + 1
        turn_sequence(Prompt((8,)), (30, 31, 32)),  # 0 + 3
    ]
    layout = pack(sequences, counting)
    filler = 5
    assert layout.input_ids.tolist() == [[1, 2, 3, 4, 5, 10], [8, 30, 31, 6, 7, filler]]
    assert layout.tree.tolist() == [[0] * 6, [0, 0, 0, 1, 1, PADDING]]
    assert layout.branch.tolist() == [[0, 0, 0, 0, 1, 1], [1, 1, 1, 0, 1, PADDING]]
    assert layout.labels.tolist() == [[OUT, OUT, OUT, OUT, 10, 11], [30, 31, 32, OUT, 20, OUT]]
    assert layout.positions.tolist() == [[[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 0]]]
    assert layout.scored == [(0, 2), (2, 3), (1, 1)]


def test_the_plain_layout_is_one_padded_sequence_per_row() -> None:
    prompt = Prompt((1, 2, 3))
    layout = pack([turn_sequence(prompt, (10, 11)), turn_sequence(prompt, (20,))], counting, share=False)
    assert layout.input_ids.tolist() == [[1, 2, 3, 10], [1, 2, 3, 3]]
    assert layout.labels.tolist() == [[OUT, OUT, 10, 11], [OUT, OUT, 20, OUT]]
    assert layout.positions.tolist() == [[[0, 1, 2, 3], [0, 1, 2, 0]]]
    assert (layout.tree >= 0).tolist() == [[True] * 4, [True, True, True, False]]
    assert not layout.is_shared


def test_values_go_back_to_their_items() -> None:
    sequences = [
        turn_sequence(Prompt((7,)), (20,)),
        turn_sequence(Prompt((1, 2)), ()),
        turn_sequence(Prompt((1, 2)), (10, 11, 12)),
    ]
    layout = pack(sequences, counting)
    labels = layout.labels[layout.labels != OUT]
    assert [part.tolist() for part in layout.split(labels, 3)] == [[20], [], [10, 11, 12]]
    assert layout.input_ids.shape == (2, 4)  # the empty completion takes no place


def test_positions_are_those_of_the_unshared_sequences() -> None:
    def jumping(sequences: Sequence[TrainingSequence]) -> list[torch.Tensor]:
        # An image that takes two tokens and one place: three axes that part ways, as on a patch grid.
        steps = {9: (1, 0, 1)}
        moved = [torch.tensor([steps.get(token, (1, 1, 1)) for token in sequence.ids]).T for sequence in sequences]
        return [steps.cumsum(1) for steps in moved]

    prompt = Prompt((1, 9, 2), (make_image(),))
    said = (10, 9, 11)
    sequence = TrainingSequence(prompt, said, (True, False, True), (make_image(),))
    layout = pack([turn_sequence(prompt, (20, 21)), sequence], jumping)
    assert layout.input_ids.tolist() == [[1, 9, 2, 20, 2, 10, 9]]
    assert layout.positions[:, 0].tolist() == [
        [1, 2, 3, 4, 3, 4, 5],
        [1, 1, 2, 3, 2, 3, 3],
        [1, 2, 3, 4, 3, 4, 5],
    ]
    assert layout.labels.tolist() == [[OUT, OUT, 20, 21, 10, OUT, 11]]


def test_images_stand_in_the_order_of_their_placeholders() -> None:
    one, two, crop, other = (make_image() for _ in range(4))
    sequences = [
        turn_sequence(Prompt((1, 9, 2), (one,)), (10,)),
        TrainingSequence(Prompt((1, 9, 9, 3, 4), (two, one)), (11, 9, 12), (True, False, True), (crop,)),
        TrainingSequence(Prompt((1, 9, 9, 3, 4), (two, one)), (11, 9, 13), (True, False, True), (other,)),
    ]
    shared = pack(sequences, counting)
    assert shared.input_ids.tolist()[0] == [1, 9, 9, 3, 4, 11, 9, 4, 11, 9]
    assert [id(image) for image in shared.images] == [id(image) for image in (two, one, crop, other, one)]
    plain = pack(sequences, counting, share=False)
    assert len(plain.images) == 1 + 3 + 3


def test_a_prompt_is_shared_only_with_the_same_image_object() -> None:
    one, two = make_image(), make_image()
    prompts = [Prompt((1, 9, 2), (image,)) for image in (one, two, one)]
    sequences = [turn_sequence(prompt, (10 + index,)) for index, prompt in enumerate(prompts)]
    assert group_by_prompt(sequences, range(3)) == [[0, 2], [1]]


def test_without_a_trained_token_the_first_item_stands_in() -> None:
    nothing = [TrainingSequence(Prompt((1, 2)), (10, 11), (False, False)), turn_sequence(Prompt((3,)), ())]
    layout = pack(nothing, counting)
    assert layout.input_ids.tolist() == [[1, 2, 10]]
    assert layout.labels.tolist() == [[OUT] * 3]
    assert [part.tolist() for part in layout.split(torch.empty(0), 2)] == [[], []]
    assert pack(nothing[1:], counting).input_ids.tolist() == [[3]]


def test_no_items_no_rows() -> None:
    with pytest.raises(ValueError, match="expected at least one sequence"):
        pack([], counting)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_every_tree_is_in_one_row_and_no_row_overflows(lengths: list[int]) -> None:
    rows = fill_rows(lengths)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= max(lengths) for row in rows)
    # First fit fills every row but one by more than half, or it would have put two together.
    filled = sorted(sum(lengths[number] for number in row) for row in rows)
    assert all(one + other > max(lengths) for one, other in pairwise(filled))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=20),
    st.integers(1, 60),
    st.booleans(),
)
def test_batches_keep_groups_whole_and_the_budget(
    shapes: list[tuple[int, int]], token_budget: int, share: bool
) -> None:
    prompts = [Prompt(tuple(range(1, 3 + 4 * number))) for number in range(4)]
    sequences = [turn_sequence(prompts[prompt], range(100, 100 + length)) for prompt, length in shapes]
    batches = split_by_tokens(sequences, token_budget, share=share)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sequences)))
    for batch in batches:
        chosen = [sequences[index] for index in batch]
        trained = [index for index, sequence in enumerate(chosen) if sequence.trained_count]
        groups = group_by_prompt(chosen, trained) if share else [[index] for index in trained]
        size = pack(chosen, counting, share=share).input_ids.numel()
        assert size <= token_budget or len(groups) <= 1
    if share:
        homes = {
            shape[0]: {number for number, batch in enumerate(batches) for index in batch if shapes[index] == shape}
            for shape in shapes
            if shape[1]
        }
        assert all(len(home) == 1 for home in homes.values())


def test_sequences_without_a_trained_token_do_not_count_in_a_batch() -> None:
    # Counted as a token, the third sequence makes its row longer, and the second fits beside the first: 2 x 16 tokens.
    # Without it rows are 15 long and the second needs one of its own: 3 x 15.
    prompts = [Prompt(tuple(range(1, 3 + 4 * number))) for number in range(4)]
    shapes = [(0, 1), (2, 5), (3, 0), (3, 2)]
    sequences = [turn_sequence(prompts[prompt], range(100, 100 + length)) for prompt, length in shapes]
    assert split_by_tokens(sequences, 32) == [[0, 1], [3, 2]]
    assert split_by_tokens(sequences[2:3], 1) == [[0]]


def test_batches_put_neighbors_in_length_together() -> None:
    lengths = [40, 5, 38, 6]
    sequences = [turn_sequence(Prompt(tuple(range(1, length + 1))), (7,)) for length in lengths]
    assert split_by_tokens(sequences, 90, share=False) == [[1, 3], [2, 0]]  # 2 x 6 and 2 x 40
    assert split_by_tokens(sequences, 90) == [[1, 3, 2], [0]]  # the short ones share a row as long as the 38
    assert split_by_tokens(sequences, 10**6) == [[1, 3, 2, 0]]
    assert split_by_tokens([], 10) == []
