"""Each row of the catalog against a model that transformers builds from its sizes, without weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from hart_studio.models.families import FAMILIES
from hart_studio.models.meta_model import count_quantized, describe_architecture
from hart_studio.models.published_models import PUBLISHED_MODELS, PublishedModel, find_published

VOCABULARIES = {"qwen2_5_vl": 152_064, "qwen2_vl": 152_064, "qwen3_vl": 151_936, "internvl": 151_674}
TIED = {"Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen3-VL-2B-Instruct",
        "Qwen/Qwen3-VL-4B-Instruct"}  # fmt: skip


def build(row: PublishedModel) -> Any:
    sizes, is_tied = row.architecture, row.hub_id in TIED
    vocabulary = VOCABULARIES.get(sizes.family, 152_064)
    text: dict[str, Any] = {
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "intermediate_size": sizes.intermediate_size,
        "vocab_size": 151_936 if is_tied else vocabulary,
        "tie_word_embeddings": is_tied,
    }
    hidden, wide = sizes.vision_hidden_size, sizes.vision_intermediate_size
    if sizes.family == "qwen2_5_vl":
        vision: dict[str, Any] = {"depth": 32, "hidden_size": hidden, "intermediate_size": wide}
        vision["out_hidden_size"] = sizes.hidden_size
        kind: Any = transformers.Qwen2_5_VLConfig
    elif sizes.family == "qwen2_vl":
        vision = {"depth": 32, "embed_dim": hidden, "hidden_size": sizes.hidden_size}
        kind = transformers.Qwen2VLConfig
    elif sizes.family == "qwen3_vl":
        vision = {"depth": 24 if hidden == 1024 else 27, "hidden_size": hidden, "intermediate_size": wide}
        vision |= {"out_hidden_size": sizes.hidden_size, "num_position_embeddings": 2304}
        vision["deepstack_visual_indexes"] = [5, 11, 17] if hidden == 1024 else [8, 16, 24]
        text["head_dim"] = sizes.head_dim
        kind = transformers.Qwen3VLConfig
    elif sizes.family == "internvl":
        is_small = hidden == 1024
        vision = {"hidden_size": hidden, "intermediate_size": wide, "image_size": [448, 448], "patch_size": [14, 14]}
        vision |= {"num_hidden_layers": 24 if is_small else 45, "num_attention_heads": 16 if is_small else 25}
        vision |= {"attention_bias": is_small, "use_qk_norm": not is_small}
        vision["norm_type"] = "layer_norm" if is_small else "rms_norm"
        text["model_type"] = "qwen2"
        kind = transformers.InternVLConfig
    else:
        vision = {"model_type": "siglip_vision_model", "hidden_size": hidden, "intermediate_size": wide}
        vision |= {"num_hidden_layers": 26, "image_size": 384, "patch_size": 14, "vision_use_head": False}
        text["model_type"] = "qwen2"
        kind = transformers.LlavaOnevisionConfig
    config = kind(text_config=text, vision_config=vision, tie_word_embeddings=is_tied)
    auto: Any = transformers.AutoModelForImageTextToText
    with torch.device("meta"):
        return auto.from_config(config)


@pytest.mark.parametrize("row", PUBLISHED_MODELS, ids=lambda row: row.name)
def test_a_row_has_the_sizes_and_the_weights_of_its_model(row: PublishedModel) -> None:
    model = build(row)
    assert describe_architecture(model) == row.architecture
    assert count_quantized(model) == row.architecture.quantized_parameters


def test_names_are_unique_and_found_in_any_case() -> None:
    assert len({row.name for row in PUBLISHED_MODELS}) == len(PUBLISHED_MODELS)
    assert {row.architecture.family for row in PUBLISHED_MODELS} == set(FAMILIES)
    assert {family.checkpoint for family in FAMILIES.values()} <= {row.hub_id for row in PUBLISHED_MODELS}
    found = find_published("QWEN2.5-VL-3B")
    assert found is not None and found == find_published("Qwen/Qwen2.5-VL-3B-Instruct")
    assert find_published("qwen") is None
