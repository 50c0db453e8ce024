"""Small models with random weights and the REAL architecture of each family, saved with a processor built here.

The tokenizer is byte-level without merges, so every text survives encoding and decoding. Weights are drawn wider than
usual, so that a change of input changes the output.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

FAMILY_KEYS = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "internvl", "llava_onevision")

PADDING, END = "<|endoftext|>", "<|im_end|>"
QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN2_BOX_TOKENS = ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>")

IN_PLACE_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}IMAGE_SLOT{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGES_FIRST_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content if part.type == 'image' %}<image>\n{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny(family_key: str, folder: Path) -> Path:
    """Save a tiny model of a family with its processor.

    Args:
        family_key: One of ``FAMILY_KEYS``.
        folder: Where to save it; made when missing.

    Returns:
        The folder, ready for ``load_model``.
    """
    torch.manual_seed(0)
    model, processor = BUILDERS[family_key]()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(*special: str, **named: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: 256 bytes, the chat tokens, and ``special``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [PADDING, "<|im_start|>", END, *special]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PADDING,
        padding_side="left",
        **named,
    )
    tokenizer.add_tokens(tokens, special_tokens=True)
    return tokenizer


def _text(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "vocab_size": len(tokenizer),
        "initializer_range": 0.15,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        **more,
    }


def _qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = tokenizer.convert_tokens_to_ids(list(QWEN_TOKENS))
    return dict(zip(names, ids, strict=True))


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e6, **more}


def _qwen_template() -> str:
    return IN_PLACE_TEMPLATE.replace("IMAGE_SLOT", "<|vision_start|><|image_pad|><|vision_end|>")


def _qwen2_5_vl() -> tuple[Any, Any]:
    tokenizer = _tokenizer(*QWEN_TOKENS)
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "out_hidden_size": 64}
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer, rope_parameters=_rope()),
        vision_config={**vision, "fullatt_block_indexes": [1], "initializer_range": 0.15},
        **_qwen_ids(tokenizer),
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 64 * 28 * 28}),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_qwen_template(),
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen2_vl() -> tuple[Any, Any]:
    tokenizer = _tokenizer(*QWEN_TOKENS, *QWEN2_BOX_TOKENS)
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2}
    config = Qwen2VLConfig(
        text_config=_text(tokenizer, rope_parameters=_rope()),
        vision_config={**vision, "initializer_range": 0.15},
        **_qwen_ids(tokenizer),
    )
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 64 * 28 * 28}),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_qwen_template(),
    )
    return Qwen2VLForConditionalGeneration(config), processor


def _qwen3_vl() -> tuple[Any, Any]:
    tokenizer = _tokenizer(*QWEN_TOKENS)
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "out_hidden_size": 64}
    config = Qwen3VLConfig(
        text_config=_text(tokenizer, head_dim=16, rope_parameters=_rope(mrope_interleaved=True)),
        vision_config={
            **vision,
            "patch_size": 16,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0],
            "initializer_range": 0.15,
        },
        **_qwen_ids(tokenizer),
    )
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": 36_864, "longest_edge": 50_176}, patch_size=16, merge_size=2
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=_qwen_template(),
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _internvl() -> tuple[Any, Any]:
    tokenizer = _tokenizer(
        *("<img>", "</img>", "<IMG_CONTEXT>", "<video>", "<ref>", "</ref>", "<box>", "</box>"),
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    side = 56
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "image_size": (side, side),
            "patch_size": (14, 14),
            "initializer_range": 0.15,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(side // 28) ** 2,
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size={"height": side, "width": side}, crop_to_patches=True),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size={"height": side, "width": side}),
        image_seq_length=config.image_seq_length,
        chat_template=IN_PLACE_TEMPLATE.replace("IMAGE_SLOT", "<IMG_CONTEXT>\n"),
    )
    return InternVLForConditionalGeneration(config), processor


def _llava_onevision() -> tuple[Any, Any]:
    tokenizer = _tokenizer("<image>", "<video>")
    side = 56
    grids = [[rows * side, columns * side] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "image_size": side,
            "patch_size": 14,
            "vision_use_head": False,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size={"height": side, "width": side}, image_grid_pinpoints=grids),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size={"height": side, "width": side}),
        num_image_tokens=(side // 14) ** 2,
        vision_feature_select_strategy="full",
        chat_template=IMAGES_FIRST_TEMPLATE,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen2_vl": _qwen2_vl,
    "qwen3_vl": _qwen3_vl,
    "internvl": _internvl,
    "llava_onevision": _llava_onevision,
}
