"""Estimate of the memory of a model: the one place for weights by precision, and for one question. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from hart_studio.models.families import FAMILIES

Precision = Literal["float32", "bfloat16", "8bit", "4bit"]
"""Precision of the weights. With 8 and 4 bits, only the linear layers of the language model are quantized."""

PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "bfloat16", "8bit", "4bit")

FLOAT_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a weight that is not quantized."""

QUANTIZED_BYTES: Final = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}
"""Bytes of a quantized weight. 4-bit weights have an 8-bit scale for 64 of them, and a float32 scale for 256 scales."""

TEXT_TOKENS: Final = 512
"""Tokens of the prompt of one question besides its images, in the estimate. Project default."""

ANSWER_TOKENS: Final = 512
"""Tokens of the answer in the estimate. Project default."""

CROPS: Final = 4
"""Crops of the answer turn in the estimate, unless the family allows fewer. Project default."""

_TILE_TOKENS: Final = {"tiles": 256, "anyres": 729}
"""Visual tokens of one tile."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of a model that determine its memory.

    Attributes:
        family: Key of ``families.FAMILIES``.
        parameters: Number of weights; a tied output layer counts once.
        layers: Layers of the language model.
        heads: Attention heads of a layer.
        kv_heads: Heads of keys and values.
        head_dim: Size of a head.
        hidden_size: Width of the language model.
        intermediate_size: Width of its MLP.
        vision_hidden_size: Width of the vision tower.
        vision_intermediate_size: Width of its MLP.
    """

    family: str
    parameters: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    vision_hidden_size: int
    vision_intermediate_size: int

    @property
    def quantized_parameters(self) -> int:
        """Weights that quantization applies to: attention and MLP matrices of the language model."""
        attention = 2 * self.hidden_size * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden_size * self.intermediate_size)


@dataclass(frozen=True)
class InferenceMemory:
    """Memory in bytes of a loaded model that answers one question.

    Attributes:
        weights: The weights.
        kv_cache: Keys and values of all tokens of the larger turn.
        activations: Largest intermediate results of the vision tower or the language model.
    """

    weights: int
    kv_cache: int
    activations: int

    @property
    def working_set(self) -> int:
        """Bytes besides the weights."""
        return self.kv_cache + self.activations

    @property
    def total(self) -> int:
        """Total bytes, without the libraries themselves."""
        return self.weights + self.working_set


def estimate_weight_bytes(
    parameters: int, quantized_parameters: int, quantization: str = "none", float_bytes: int = 2
) -> int:
    """Bytes of the weights of a model.

    Args:
        parameters: Number of weights.
        quantized_parameters: Those that quantization applies to.
        quantization: ``none``, ``4bit`` or ``8bit``.
        float_bytes: Bytes of a weight that is not quantized.
    """
    if quantization == "none":
        return parameters * float_bytes
    kept = (parameters - quantized_parameters) * float_bytes
    return kept + round(quantized_parameters * QUANTIZED_BYTES[quantization])


def estimate_inference_memory(architecture: Architecture, precision: Precision) -> InferenceMemory:
    """Estimate the memory of a model that answers one question with the default pixel budgets.

    The working set is that of the larger turn: the overview, or ``CROPS`` crops, each at the maximum of its budget,
    with ``TEXT_TOKENS`` and ``ANSWER_TOKENS``. Fused attention is assumed, whose score matrix is not stored.

    Args:
        architecture: Sizes of the model.
        precision: Precision of the weights. Computations are in bfloat16, with ``float32`` weights in float32.
    """
    size = 4 if precision == "float32" else 2
    quantization = precision if precision in QUANTIZED_BYTES else "none"
    weights = estimate_weight_bytes(architecture.parameters, architecture.quantized_parameters, quantization, size)
    visual = _count_visual_tokens(architecture.family)
    tokens = visual + TEXT_TOKENS + ANSWER_TOKENS
    kv_cache = 2 * architecture.layers * architecture.kv_heads * architecture.head_dim * tokens * size
    # Residual, normalized input, attention output, query, key and value; gate, up and product of the MLP.
    language = tokens * (6 * architecture.hidden_size + 3 * architecture.intermediate_size) * size
    patches = visual if FAMILIES[architecture.family].budget_kind == "anyres" else 4 * visual  # 2 x 2 merged
    vision = patches * (6 * architecture.vision_hidden_size + 3 * architecture.vision_intermediate_size) * size
    return InferenceMemory(weights, kv_cache, max(language, vision))


def _count_visual_tokens(family_key: str) -> int:
    """Maximum visual tokens of one turn with the default budgets."""
    family = FAMILIES[family_key]
    square = family.resize_factor**2
    overview = family.overview_budget.max_pixels // square
    crop = family.crop_budget.max_pixels // square
    crops = min(CROPS, family.max_crops or CROPS)
    if family.budget_kind == "area":
        return max(overview, crops * crop)
    per_tile = _TILE_TOKENS[family.budget_kind]  # and one thumbnail of each image
    return max((overview + 1) * per_tile, crops * (crop + 1) * per_tile)
