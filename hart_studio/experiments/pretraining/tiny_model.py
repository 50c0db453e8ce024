"""The built-in small Qwen3-VL: tokenizer, processor, architecture and initial weights.

Qwen3-VL, because its learned position table allows a model this small to learn localization. The initial weights have
two priors that larger models learn from data: patch positions and the order of numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Final

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from hart_studio import prompts
from hart_studio.image_domains import NEEDLE
from hart_studio.models.catalog import INTENDED_DOMAIN_KEY
from hart_studio.needle.questions import all_question_forms
from hart_studio.needle.scenes import CHARACTERS, COLORS, SHAPES

PATCH: Final = 16

MERGE: Final = 2

MIN_PIXELS: Final = 192 * 192

MAX_PIXELS: Final = 224 * 224
"""Pixel budget of overviews and crops: 256 x 192 for a 4:3 image, 224 x 224 for a square crop."""

_SPECIAL: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

_WORDS: Final = r"bbox_2d| ?\p{L}+|\p{N}{1,4}| ?[^\s\p{L}\p{N}]+\s*|\s+"

_CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}<|im_start|>{{ message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif -%}"
)


def _sine_cosine(values: torch.Tensor, width: int, longest_period: float) -> torch.Tensor:
    """Sine-cosine code of scalar values: ``[N]`` -> ``[N, width]`` in [-1, 1]."""
    frequencies = torch.exp(torch.linspace(0, -math.log(longest_period), width // 2))
    angles = values[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def set_width_scaled_weights(model: Qwen3VLForConditionalGeneration) -> None:
    """Linear layers <- normal with standard deviation 1 / sqrt(inputs), half of it in the output layer of a block.

    The default 0.02 suits widths of thousands; at 128 the output of each block is close to zero. The embedding table
    is also the output layer: scaled to its width, a unit of the last hidden state moves a logit by about one.
    """
    table = model.model.language_model.embed_tokens.weight
    torch.nn.init.normal_(table, std=1.0 / math.sqrt(table.shape[1]))
    for name, layer in model.model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            is_written = name.endswith(("attn.proj", "o_proj", "down_proj", "mlp.linear_fc2"))
            torch.nn.init.normal_(layer.weight, std=(0.5 if is_written else 1.0) / math.sqrt(layer.in_features))


def set_position_prior(model: Qwen3VLForConditionalGeneration) -> None:
    """Vision position table <- 2-D sine-cosine of row and column, half strength."""
    table = model.model.visual.pos_embed.weight.data
    side = math.isqrt(len(table))
    code = _sine_cosine(torch.arange(side, dtype=torch.float32), table.shape[1] // 2, longest_period=4.0 * side)
    rows = code[:, None].expand(side, side, -1)
    columns = code[None].expand(side, side, -1)
    table.copy_(0.5 * torch.cat([rows, columns], dim=-1).reshape(side * side, -1))


def set_number_prior(model: Qwen3VLForConditionalGeneration, number_ids: list[int]) -> None:
    """Embeddings of the number tokens <- sine-cosine of their value, at the scale of the other embeddings.

    A third of the code is that of the vision table, with thousandths mapped to table cells: a position and the
    number for it start a rotation apart. The rest is finer, so that adjacent numbers are distinguishable.
    """
    table: torch.Tensor = model.model.language_model.embed_tokens.weight.data
    spread = float(table.std())
    vision = model.model.visual.pos_embed.weight.data
    side = math.isqrt(len(vision))
    numbers = torch.arange(1001, dtype=torch.float32)
    shared = _sine_cosine(numbers * side / 1000 - 0.5, vision.shape[1] // 2, longest_period=4.0 * side)
    fine = _sine_cosine(numbers, table.shape[1] - shared.shape[1], longest_period=2000.0)
    table[number_ids] = torch.cat([shared, fine], dim=1) * spread * math.sqrt(2)


def set_patch_prior(model: Qwen3VLForConditionalGeneration, patches: torch.Tensor) -> None:
    """Patch embedding <- the whitened principal components of real patches, half strength.

    Raw patches differ mainly in mean color; with random filters, edges are negligible in comparison. After whitening,
    an edge has the same weight as a color, and shapes can be learned.

    Args:
        model: The model.
        patches: ``[N, features]`` normalized patches from the processor, N much larger than the width.
    """
    layer = model.model.visual.patch_embed.proj
    mean = patches.mean(dim=0)
    centered = (patches - mean).double()
    values, vectors = torch.linalg.eigh(centered.T @ centered / len(patches))
    kept = vectors[:, -layer.weight.shape[0] :] / (values[-layer.weight.shape[0] :] + 1e-4).sqrt()
    filters = 0.5 * kept.T.float()
    layer.weight.data.copy_(filters.view_as(layer.weight))
    layer.bias.data.copy_(-filters @ mean)


def _corpus() -> Iterator[str]:
    """All text of needle questions, so that its words become single tokens; other text is encoded as bytes."""
    fixed = [
        prompts.GROUNDING_INSTRUCTION,
        prompts.CROPS_ONLY_BEFORE,
        prompts.CROPS_ONLY_AFTER,
        prompts.CHOICE_HINT,
        prompts.FULL_AND_CROPS,
        'user\nassistant\nsystem\n```json\n[\n\t{"bbox_2d": [, , , ], "label": "red star"},\n\t{"bbox_2d": [\n]\n```',
        "red \\boxed{A} blue \\boxed{B} left \\boxed{C} star \\boxed{D}",
        "\n(A) left\n(B) right\n(C) red\n(D) star\n",
        "Where is the object? What is this? Which picture shows it? Yes, it is there. No, it is not.",
    ]
    names = [*COLORS, *SHAPES, *CHARACTERS, "left", "right"]
    for _ in range(20):
        yield from fixed
        yield from all_question_forms()
        yield from (f"({name}) {name} {name}\n" for name in names)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer with a single token for each number from 0 to 1000."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator(_corpus(), trainer)
    merges = [_pair(merge) for merge in _bpe_state(learner)["merges"]]
    merges = [(left, right) for left, right in merges if not (left + right).isdigit()] + list(_number_merges())
    vocab = {token: index for index, token in enumerate(_SPECIAL)}
    for token in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab.setdefault(token, len(vocab))
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in _SPECIAL if token not in ("<|im_end|>", "<|endoftext|>")],
        padding_side="left",
        model_max_length=8192,
        chat_template=_CHAT_TEMPLATE,
    )


def _bpe_state(tokenizer: Tokenizer) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return state


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _number_merges() -> Iterator[tuple[str, str]]:
    """Merges that make 10..1000 single tokens regardless of the order of merges."""
    for number in range(10, 100):
        yield str(number)[0], str(number)[1]
    for number in range(100, 1000):
        digits = str(number)
        yield digits[:2], digits[2]
        if digits[1] != "0":
            yield digits[0], digits[1:]
    yield "100", "0"


def number_token_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Token ids of the numbers 0 to 1000, in order."""
    return [token_id(tokenizer, str(number)) for number in range(1001)]


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Id of a token of the vocabulary.

    Raises:
        KeyError: If it is not a token.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int):
        raise KeyError(token)
    return found


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Build the processor: the Qwen image processor with the patch size and pixel budget of this model."""
    geometry: dict[str, Any] = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    images = Qwen2VLImageProcessor(
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        **geometry,
    )
    videos = Qwen3VLVideoProcessor(**geometry)
    return Qwen3VLProcessor(  # type: ignore[no-untyped-call]
        image_processor=images, tokenizer=tokenizer, video_processor=videos, chat_template=_CHAT_TEMPLATE
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3VLForConditionalGeneration:
    """Build the untrained model, about 3.6 million weights, float32."""
    torch.manual_seed(seed)
    hidden = 192
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": math.ceil(len(tokenizer) / 64) * 64,
            "hidden_size": hidden,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 48,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [8, 8, 8],
                "mrope_interleaved": True,
            },
            "pad_token_id": token_id(tokenizer, "<|endoftext|>"),
            "eos_token_id": token_id(tokenizer, "<|im_end|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "num_heads": 4,
            "intermediate_size": 384,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": hidden,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [1],
        },
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=True,
    )
    config.update({INTENDED_DOMAIN_KEY: NEEDLE})
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=token_id(tokenizer, "<|im_end|>"),
        pad_token_id=token_id(tokenizer, "<|endoftext|>"),
        do_sample=False,
    )
    set_width_scaled_weights(model)
    set_position_prior(model)
    set_number_prior(model, number_token_ids(tokenizer))
    return model
