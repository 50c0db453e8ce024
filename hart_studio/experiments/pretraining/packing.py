"""Pack many exchanges about the same images into one training row, with exact results.

A row is a tree: a prefix (chat header and images), stems (an instruction shared by several exchanges) and
branches (question and answer). Every branch attends to the prefix, its stem and itself, never to another branch, and
its positions continue where its stem ends: the result for a branch equals that of the separate conversation.
``test_pretraining`` compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessor

from hart_studio.experiments.pretraining.tiny_model import MERGE, number_token_ids, token_id

IGNORED: Final = -100
STEM_STRIDE: Final = 1000
"""Branch numbers of stem k are STEM_STRIDE * k + 1, + 2, ...; STEM_STRIDE * k is its text, 0 the prefix."""
_FORMAT_WEIGHT: Final = 0.25


@dataclass(frozen=True)
class Branch:
    """One exchange: the text after the shared prefix, and the target reply.

    Attributes:
        prompt: User text after the stem, up to and including the assistant header.
        reply: Target text; the end token is added.
        is_grounding: Number tokens of the reply are coordinates, learned with a soft target.
        stem: User text before ``prompt``; branches of a row with the same stem share its tokens. It must end where
            the tokenizer always splits; otherwise the tokens would differ from those of the unsplit text.
        target_box: Box of the target object, thousandths of the image (``VisualTokenTarget``); None = no supervision.
    """

    prompt: str
    reply: str
    is_grounding: bool = False
    stem: str = ""
    target_box: tuple[float, float, float, float] | None = None


class VisualTokenTarget(NamedTuple):
    """Target of one visual token, for the auxiliary loss.

    Attributes:
        xyxy: Box of the object under the cell's center, thousandths of the image; None over background.
        words: Its color, its shape, and its detail if the detail is in this cell; "" = no target.
    """

    xyxy: tuple[float, float, float, float] | None = None
    words: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True)
class PackedRow:
    """A prefix of texts and images with its branches.

    Attributes:
        prefix: Texts and RGB uint8 images, sides multiples of 32.
        branches: Exchanges that share the prefix.
        cells: One cell per visual token, all images in order, row by row; empty = no auxiliary loss.
    """

    prefix: tuple[str | np.ndarray, ...]
    branches: tuple[Branch, ...]
    cells: tuple[VisualTokenTarget, ...] = ()


@dataclass
class Batch:
    """Rows as arrays; B rows padded on the right to S tokens.

    Attributes:
        input_ids: ``[B, S]``.
        positions: ``[3, B, S]`` multimodal rotary positions (time, row, column).
        branch: ``[B, S]``: 0 prefix, -1 padding, otherwise a stem or branch number (``STEM_STRIDE``).
        labels: ``[B, S]`` token to predict AFTER this position, or -100.
        weights: ``[B, S]`` weight of that prediction.
        coordinates: ``[B, S]`` the number to predict with a soft target, or -1.
        is_first: ``[B, S]`` this coordinate is the first one of its box or point. The others depend on it:
            an object is at that column, and objects have similar sizes.
        pixel_values: ``[patches, features]``.
        grids: ``[images, 3]``.
        cell_coordinates: ``[cells, 4]`` box of the object in each visual token, or -1.
        cell_words: ``[cells, 5]`` token ids of its color and its shape, each without and with the space before a word,
            and of its detail; or -1.
        cell_objects: ``[cells]`` the same number for all cells of one object in one image, or -1.
        attention_rows: ``[N]`` row of each supervised token: those that predict the content of an answer.
        attention_positions: ``[N]`` its position in the row.
        attention_targets: ``[N, S]`` bool, the visual tokens of its target object.
    """

    input_ids: np.ndarray
    positions: np.ndarray
    branch: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    coordinates: np.ndarray
    is_first: np.ndarray
    pixel_values: np.ndarray
    grids: np.ndarray
    cell_coordinates: np.ndarray
    cell_words: np.ndarray
    cell_objects: np.ndarray
    attention_rows: np.ndarray
    attention_positions: np.ndarray
    attention_targets: np.ndarray


@dataclass
class _RowBuilder:
    ids: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    coordinates: list[int] = field(default_factory=list)
    is_first: list[bool] = field(default_factory=list)
    visual: list[int] = field(default_factory=list)
    supervised: list[tuple[int, list[int]]] = field(default_factory=list)

    def add(self, token: int, position: tuple[int, int, int], branch: int) -> None:
        self.ids.append(token)
        self.positions.append(position)
        self.branch.append(branch)
        self.labels.append(IGNORED)
        self.weights.append(0.0)
        self.coordinates.append(-1)
        self.is_first.append(False)


class Packer:
    """Convert rows to batches with a tokenizer and an image processor."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, images: Qwen2VLImageProcessor) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self._images = images
        self._end, self._pad, self._image_pad, self._vision_start, self._vision_end = (
            token_id(tokenizer, name)
            for name in ("<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>")
        )
        self._format = {token for text in (" \\boxed{", "}") for token in self._encode(text)} | {self._end}
        self._number_of = {index: number for number, index in enumerate(number_token_ids(tokenizer))}

    def pack(self, rows: Sequence[PackedRow], token_budget: int = 2000) -> list[Batch]:
        """Build batches of rows of similar length, each of at most about ``token_budget`` tokens with padding.

        No row is padded to more than one and a half times its length.
        """
        builders = sorted(((self._build_row(row), row) for row in rows), key=lambda pair: len(pair[0].ids))
        batches, start = [], 0
        for stop in range(1, len(builders) + 1):
            longest = len(builders[stop][0].ids) if stop < len(builders) else math.inf
            if (stop + 1 - start) * longest > token_budget or longest > 1.5 * len(builders[start][0].ids):
                batches.append(self._collate(builders[start:stop]))
                start = stop
        return batches

    def _collate(self, pairs: Sequence[tuple[_RowBuilder, PackedRow]]) -> Batch:
        builders, rows = [builder for builder, _ in pairs], [row for _, row in pairs]
        longest = max(len(builder.ids) for builder in builders)

        def pad(name: str, fill: float, dtype: type) -> np.ndarray:
            table: np.ndarray = np.full((len(builders), longest), fill, dtype)
            for index, builder in enumerate(builders):
                values = getattr(builder, name)
                table[index, : len(values)] = values
            return table

        positions = np.zeros((3, len(builders), longest), np.int64)
        for index, builder in enumerate(builders):
            positions[:, index, : len(builder.positions)] = np.array(builder.positions).T
        images = [part for row in rows for part in row.prefix if isinstance(part, np.ndarray)]
        # Images are in row order: the model fills placeholders from the first row on.
        pixels, grids = self._patches(images)
        supervised = [(index, at, seen) for index, builder in enumerate(builders) for at, seen in builder.supervised]
        attention_targets = np.zeros((len(supervised), longest), np.bool_)
        for index, (_, _, seen) in enumerate(supervised):
            attention_targets[index, seen] = True
        cells = [self._cells(row) for row in rows]
        return Batch(
            input_ids=pad("ids", self._pad, np.int64),
            positions=positions,
            branch=pad("branch", -1, np.int64),
            labels=pad("labels", IGNORED, np.int64),
            weights=pad("weights", 0.0, np.float32),
            coordinates=pad("coordinates", -1, np.int64),
            is_first=pad("is_first", False, np.bool_),
            pixel_values=pixels,
            grids=grids,
            cell_coordinates=np.concatenate([coordinates for coordinates, _ in cells]),
            cell_words=np.concatenate([words for _, words in cells]),
            cell_objects=_number_objects(rows, [len(words) for _, words in cells]),
            attention_rows=np.array([index for index, _, _ in supervised], np.int64),
            attention_positions=np.array([at for _, at, _ in supervised], np.int64),
            attention_targets=attention_targets,
        )

    def _patches(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Patches ``[patches, features]`` and grids ``[images, 3]``; empty without images."""
        if not images:
            return np.empty((0, 0), np.float32), np.empty((0, 3), np.int64)
        made = self._images(images=list(images), do_resize=False, return_tensors="np")
        return np.asarray(made["pixel_values"], np.float32), np.asarray(made["image_grid_thw"], np.int64)

    def _cells(self, row: PackedRow) -> tuple[np.ndarray, np.ndarray]:
        step = self._images.patch_size * MERGE
        images = [part for part in row.prefix if isinstance(part, np.ndarray)]
        count = sum((part.shape[0] // step) * (part.shape[1] // step) for part in images)
        coordinates, words = np.full((count, 4), -1, np.int64), np.full((count, 5), -1, np.int64)
        if row.cells and len(row.cells) != count:
            raise ValueError(f"expected one cell per visual token, got {len(row.cells)} for {count}")
        for index, cell in enumerate(row.cells):
            if cell.xyxy is not None:
                coordinates[index] = np.clip(np.rint(cell.xyxy), 0, 1000)
            color, shape, detail = cell.words
            spellings = (color, color and f" {color}", shape, shape and f" {shape}", detail)
            words[index] = [self._encode(word)[0] if word else -1 for word in spellings]
        return coordinates, words

    def _encode(self, text: str) -> list[int]:
        if text not in self._cache:
            if len(self._cache) > 200_000:
                self._cache.clear()
            self._cache[text] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._cache[text]

    def _build_row(self, row: PackedRow) -> _RowBuilder:
        builder = _RowBuilder()
        position = 0
        for part in row.prefix:
            if isinstance(part, str):
                for token in self._encode(part):
                    builder.add(token, (position, position, position), 0)
                    position += 1
            else:
                position = self._add_image(builder, part, position)
        for stem_number, stem in enumerate(dict.fromkeys(branch.stem for branch in row.branches), start=1):
            first = stem_number * STEM_STRIDE
            tokens = self._encode(stem)
            for offset, token in enumerate(tokens):
                builder.add(token, (position + offset,) * 3, first)
            stem_branches = [branch for branch in row.branches if branch.stem == stem]
            for number, branch in enumerate(stem_branches, start=first + 1):
                seen = [
                    at for at, cell in zip(builder.visual, row.cells, strict=False) if cell.xyxy == branch.target_box
                ]
                self._add_branch(builder, branch, number, position + len(tokens), seen if branch.target_box else [])
        return builder

    def _add_image(self, builder: _RowBuilder, image: np.ndarray, position: int) -> int:
        builder.add(self._vision_start, (position, position, position), 0)
        position += 1
        step = self._images.patch_size * MERGE
        rows, columns = image.shape[0] // step, image.shape[1] // step
        for row in range(rows):
            for column in range(columns):
                builder.visual.append(len(builder.ids))
                builder.add(self._image_pad, (position, position + row, position + column), 0)
        position += max(rows, columns)
        builder.add(self._vision_end, (position, position, position), 0)
        return position + 1

    def _add_branch(self, builder: _RowBuilder, branch: Branch, number: int, position: int, seen: list[int]) -> None:
        prompt, reply = self._encode(branch.prompt), [*self._encode(branch.reply), self._end]
        start, count = len(builder.ids), 0
        for offset, token in enumerate([*prompt, *reply[:-1]]):
            at = position + offset
            builder.add(token, (at, at, at), number)
        for offset, token in enumerate(reply):
            at = start + len(prompt) - 1 + offset
            builder.labels[at] = token
            value = self._number_of.get(token, -1) if branch.is_grounding else -1
            builder.coordinates[at] = value
            if value >= 0:
                builder.is_first[at] = count % 4 == 0
                count += 1
            is_content = value >= 0 if branch.is_grounding else token not in self._format
            builder.weights[at] = 1.0 if is_content else _FORMAT_WEIGHT
            if seen and is_content:
                builder.supervised.append((at, seen))


def _number_objects(rows: Sequence[PackedRow], counts: Sequence[int]) -> np.ndarray:
    """``[cells]``: one number per object and row, -1 for background and for rows without cells.

    Objects are identified by their box, which is relative to the image, so the same object in two crops has two
    numbers.
    """
    numbers: dict[tuple[int, tuple[float, ...]], int] = {}
    found = []
    for index, (row, count) in enumerate(zip(rows, counts, strict=True)):
        boxes = [cell.xyxy for cell in row.cells] or [None] * count
        found += [-1 if box is None else numbers.setdefault((index, box), len(numbers)) for box in boxes]
    return np.array(found, np.int64)
