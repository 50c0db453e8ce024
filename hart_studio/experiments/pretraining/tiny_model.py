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
from hart_studio.experiments.pretraining.priors import set_number_prior, set_position_prior, set_width_scaled_weights
from hart_studio.image_domains import NEEDLE
from hart_studio.models.catalog import INTENDED_DOMAIN_KEY
from hart_studio.needle.scenes import CHARACTERS, COLORS, SHAPES
from hart_studio.needle.wording import all_question_forms

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
