"""Pretraining loss: token cross-entropy, with soft targets over adjacent numbers for coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

from hart_studio.experiments.pretraining.curriculum import HIT_MARGIN
from hart_studio.experiments.pretraining.packing import IGNORED, STEM_STRIDE, Batch

SUPERVISED_LAYER: Final = 2
"""Supervised decoder layer: the two layers before it encode the question, the one after it predicts."""


class AttentionSupervision:
    """Capture one attention layer in a forward pass and compute the loss of its first heads.

    Use as a context manager around one forward pass, then call ``loss``.
    """

    def __init__(self, model: Qwen3VLForConditionalGeneration) -> None:
        self._attention: Any = model.model.language_model.layers[SUPERVISED_LAYER].self_attn
        self._captured: dict[str, Any] = {}
        self._hook: Any = None

    def __enter__(self) -> AttentionSupervision:
        self._hook = self._attention.register_forward_pre_hook(self._capture_inputs, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _capture_inputs(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._captured = kwargs | ({"hidden_states": args[0]} if args else {})

    def loss(self, batch: Batch, mask: torch.Tensor) -> torch.Tensor:
        """Mean negative log of the attention to the target object.

        Args:
            batch: Its ``attention_*`` arrays define the targets.
            mask: ``[B, 1, S, S]`` bool attention mask.

        Returns:
            Scalar with gradient; 0 without targets.
        """
        if not len(batch.attention_rows):
            return torch.zeros(())
        rows, positions = torch.from_numpy(batch.attention_rows), torch.from_numpy(batch.attention_positions)
        query, key = self._queries_and_keys()
        heads = query.shape[1] // 2
        asked = query[rows, :heads, positions]  # [N, heads, width]
        logits = (asked[:, :, None] * key[rows, :heads]).sum(-1).float() * self._attention.scaling  # [N, heads, S]
        logits = logits.masked_fill(~mask[rows, 0, positions][:, None], -torch.inf)
        on_object = logits.masked_fill(~torch.from_numpy(batch.attention_targets)[:, None], -torch.inf)
        loss: torch.Tensor = logits.logsumexp(-1) - on_object.logsumexp(-1)
        return loss.mean()

    def _queries_and_keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``[B, heads, S, width]`` each, as computed by the layer."""
        attention, hidden = self._attention, self._captured["hidden_states"]
        shape = (*hidden.shape[:-1], -1, attention.head_dim)
        query = attention.q_norm(attention.q_proj(hidden).view(shape)).transpose(1, 2)
        key = attention.k_norm(attention.k_proj(hidden).view(shape)).transpose(1, 2)
        rotated: tuple[torch.Tensor, torch.Tensor] = apply_rotary_pos_emb(
            query, key, *self._captured["position_embeddings"]
        )
        return rotated


@dataclass
class LossTotals:
    """Sums over the trained tokens of one or more batches.

    Attributes:
        loss: Weighted cross-entropy, summed.
        weight: Sum of the weights.
        coordinates: Number of boxes and points, and how many first coordinates were within ``HIT_MARGIN`` thousandths.
        answers: Number of answer tokens (value and letter), and how many of them were right.
        words: Number of predicted colors and shapes of visual tokens, and how many of them were right.
        details: The same for details.
    """

    loss: float = 0.0
    weight: float = 0.0
    coordinates: tuple[int, int] = (0, 0)
    answers: tuple[int, int] = (0, 0)
    words: tuple[int, int] = (0, 0)
    details: tuple[int, int] = (0, 0)

    def __add__(self, other: LossTotals) -> LossTotals:
        return LossTotals(
            self.loss + other.loss,
            self.weight + other.weight,
            _add(self.coordinates, other.coordinates),
            _add(self.answers, other.answers),
            _add(self.words, other.words),
            _add(self.details, other.details),
        )

    def as_list(self) -> list[float]:
        """Convert to ten numbers that can be summed over processes; see ``from_list``."""
        return [self.loss, self.weight, *self.coordinates, *self.answers, *self.words, *self.details]

    @classmethod
    def from_list(cls, values: Sequence[float]) -> LossTotals:
        """Create totals from a sum of lists."""
        loss, weight, *counts = values
        pairs = [(int(counts[index]), int(counts[index + 1])) for index in range(0, len(counts), 2)]
        return cls(loss, weight, *pairs)

    @property
    def mean_loss(self) -> float:
        """Weighted mean cross-entropy."""
        return self.loss / self.weight if self.weight else float("nan")

    @property
    def coordinate_hit(self) -> float:
        """Share of first coordinates within ``HIT_MARGIN`` thousandths, nan if there are none."""
        return _share(self.coordinates)

    @property
    def answer_right(self) -> float:
        """Share of answer tokens that were right, nan if there are none."""
        return _share(self.answers)

    @property
    def word_accuracy(self) -> float:
        """Share of the visual tokens' colors and shapes that were right, nan if there are none."""
        return _share(self.words)

    @property
    def detail_accuracy(self) -> float:
        """Share of the visual tokens' details that were right, nan if there are none."""
        return _share(self.details)


def _add(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    return first[0] + second[0], first[1] + second[1]


def _share(counts: tuple[int, int]) -> float:
    return counts[1] / counts[0] if counts[0] else float("nan")


class PretrainingModel(nn.Module):
    """The model and the heads of the auxiliary loss, which are discarded after training.

    The auxiliary loss predicts the content at each visual token, with the words and numbers that the language model
    uses. It is a dense training signal for the vision tower, while answers cover one object at a time. Color and
    shape have no head: the visual token itself must resemble the word embeddings, so that finding "red" among
    visual tokens is the same lookup as finding it among words.
    """

    def __init__(self, model: Qwen3VLForConditionalGeneration) -> None:
        super().__init__()
        width = model.config.get_text_config().hidden_size
        self.model = model
        self.box_readers = nn.Linear(width, 4 * width)
        self.detail_reader = nn.Linear(width, width)

    def cell_loss(
        self, features: torch.Tensor, batch: Batch, number_ids: torch.Tensor, sigma: float
    ) -> tuple[torch.Tensor, LossTotals]:
        """Auxiliary loss of visual tokens, for single tokens and for pooled objects.

        Sum of mean cross-entropies of the four edges, the words and the words of the object.

        Tokens of an object share information only after attention has learned to; their mean is used as well,
        because it can be learned earlier.

        Args:
            features: ``[cells, hidden]`` visual tokens as input of the language model.
            batch: Its ``cell_*`` arrays are the targets of each token.
            number_ids: ``[1001]`` token ids of the numbers.
            sigma: Spread of the soft coordinate target in thousandths.

        Returns:
            The loss, and the counts of the words of single tokens.
        """
        table: torch.Tensor = self.model.model.language_model.embed_tokens.weight
        coordinates, words = torch.from_numpy(batch.cell_coordinates), torch.from_numpy(batch.cell_words)
        objects = torch.from_numpy(batch.cell_objects)
        features = functional.layer_norm(features, features.shape[-1:])
        has_box = coordinates[:, 0] >= 0
        read_box = self.box_readers(features[has_box]).unflatten(-1, (4, -1))
        box_logits = (read_box @ table[number_ids].T).float().flatten(0, 1)
        log_probs = functional.log_softmax(box_logits, -1)
        box_loss = -(soft_numbers(coordinates[has_box].flatten(), sigma) * log_probs).sum(-1)
        word_loss, counts = self._word_loss(features, words, table)
        pooled, pooled_words = mean_pool_objects(features, words, objects)
        object_loss, _ = self._word_loss(pooled, pooled_words, table)
        return box_loss.sum() / max(1, int(has_box.sum())) + word_loss + object_loss, counts

    def _word_loss(
        self, features: torch.Tensor, words: torch.Tensor, table: torch.Tensor
    ) -> tuple[torch.Tensor, LossTotals]:
        """Sum of the mean cross-entropies of the words (-1 = no target), and the counts."""
        names = (features @ table.T).float()
        details = (self.detail_reader(features) @ table.T).float()
        loss, right = torch.zeros(()), []
        for column in range(words.shape[1]):
            logits = details if column == words.shape[1] - 1 else names
            asked = words[:, column] >= 0
            target = words[asked, column]
            loss = loss + functional.cross_entropy(logits[asked], target, reduction="sum") / max(1, len(target))
            known = torch.unique(target)
            right.append(known[logits[asked][:, known].argmax(-1)] == target if len(target) else target > 0)
        return loss, LossTotals(words=_count(torch.cat(right[:-1])), details=_count(right[-1]))


def mean_pool_objects(
    features: torch.Tensor, words: torch.Tensor, objects: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean feature and words of each object: ``[cells, hidden]``, ``[cells, W]``, ``[cells]`` -> one row per object."""
    kept = objects >= 0
    count = int(objects.max()) + 1 if kept.any() else 0
    sums = features.new_zeros(count, features.shape[1]).index_add(0, objects[kept], features[kept])
    sizes = torch.bincount(objects[kept], minlength=count)[:, None]
    pooled_words = words.new_full((count, words.shape[1]), -1).scatter_reduce(
        0, objects[kept][:, None].expand(-1, words.shape[1]), words[kept], "amax"
    )
    return sums / sizes, pooled_words


def tree_mask(branch: torch.Tensor) -> torch.Tensor:
    """Attention mask of packed rows: ``[B, S]`` branch numbers -> bool ``[B, 1, S, S]``, True = attend.

    A token attends to earlier tokens of the prefix (branch 0), of its stem and of its own branch. The diagonal stays
    True so that padding rows have no empty softmax.
    """
    size = branch.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    key, query = branch[:, None, :], branch[:, :, None]
    allowed = causal & ((key == query) | (key == 0) | (key == query // STEM_STRIDE * STEM_STRIDE)) & (key >= 0)
    return (allowed | torch.eye(size, dtype=torch.bool))[:, None]


def compute_loss(
    trainable: PretrainingModel, batch: Batch, number_ids: torch.Tensor, sigma: float
) -> tuple[torch.Tensor, torch.Tensor, LossTotals]:
    """Run the model on a packed batch and score its predictions.

    Args:
        trainable: The model with its auxiliary heads.
        batch: Packed rows.
        number_ids: ``[1001]`` token ids of the numbers in order.
        sigma: Spread of the soft coordinate target in thousandths.

    Returns:
        The summed weighted token loss and the mean auxiliary loss, scalars with gradient, and the counts.
    """
    model = trainable.model
    labels = torch.from_numpy(batch.labels)
    images: dict[str, Any] = {}
    cells, counts = torch.zeros(()), LossTotals()
    if len(batch.grids):
        encoded = model.model.get_image_features(
            torch.from_numpy(batch.pixel_values), torch.from_numpy(batch.grids), return_dict=True
        )
        images["mm_encoder_outputs"] = {"image": encoded}
        cells, counts = trainable.cell_loss(torch.cat(list(encoded.pooler_output)), batch, number_ids, sigma)
    if not (labels != IGNORED).any():
        return torch.zeros(()), cells, counts
    mask = tree_mask(torch.from_numpy(batch.branch))
    with AttentionSupervision(model) as supervision:
        hidden = model.model(
            input_ids=torch.from_numpy(batch.input_ids),
            position_ids=torch.from_numpy(batch.positions),
            attention_mask=mask,
            use_cache=False,
            **images,
        ).last_hidden_state
        cells = cells + supervision.loss(batch, mask)
    learned = labels != IGNORED
    logits = model.lm_head(hidden[learned]).float()
    target = labels[learned]
    weight = torch.from_numpy(batch.weights)[learned]
    value = torch.from_numpy(batch.coordinates)[learned]
    losses = functional.cross_entropy(logits, target, reduction="none")
    is_coordinate = value >= 0
    soft = soft_numbers(value[is_coordinate], sigma)
    log_probs = functional.log_softmax(logits[is_coordinate], dim=-1)[:, number_ids]
    losses = losses.masked_scatter(is_coordinate, -(soft * log_probs).sum(-1))
    loss = (losses * weight).sum()
    with torch.no_grad():
        guess = logits[is_coordinate][:, number_ids].argmax(-1)
        is_hit = (guess - value[is_coordinate]).abs() <= HIT_MARGIN
        is_hit = is_hit[torch.from_numpy(batch.is_first)[learned][is_coordinate]]
        right = logits.argmax(-1) == target
        is_answer = (weight == 1.0) & ~is_coordinate
    counts += LossTotals(float(loss.detach()), float(weight.sum()), _count(is_hit), _count(right[is_answer]))
    return loss, cells, counts


def soft_numbers(values: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian over the numbers 0..1000 around each value: ``[N]`` -> ``[N, 1001]``, rows sum to 1."""
    distance = torch.arange(1001)[None] - values[:, None]
    return torch.softmax(-(distance**2).float() / (2 * sigma**2), dim=-1)


def _count(flags: torch.Tensor) -> tuple[int, int]:
    return flags.numel(), int(flags.sum())
