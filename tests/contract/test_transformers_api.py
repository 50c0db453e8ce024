"""Undocumented transformers API used by sampling and scoring. Each failure names the file to edit."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from transformers import (
    InternVLForConditionalGeneration,
    InternVLModel,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen2VLForConditionalGeneration,
    Qwen2VLModel,
    Qwen3Config,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
)
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import slice_logits_to_keep

from hart_studio.models.families import FAMILIES
from hart_studio.models.features import VisionOutput
from hart_studio.training.trainable_model import DeferredVisionTower

CLASSES: dict[str, tuple[Any, Any]] = {
    "qwen2_5_vl": (Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel),
    "qwen2_vl": (Qwen2VLForConditionalGeneration, Qwen2VLModel),
    "qwen3_vl": (Qwen3VLForConditionalGeneration, Qwen3VLModel),
    "internvl": (InternVLForConditionalGeneration, InternVLModel),
    "llava_onevision": (LlavaOnevisionForConditionalGeneration, LlavaOnevisionModel),
}


def test_every_family_is_checked() -> None:
    assert CLASSES.keys() == FAMILIES.keys()


@pytest.mark.parametrize("key", CLASSES)
def test_forward_takes_encoded_images_positions_and_a_choice_of_logits(key: str) -> None:
    whole, core = CLASSES[key]
    wanted = {"input_ids", "attention_mask", "position_ids", "mm_encoder_outputs"}
    missing = wanted - set(inspect.signature(core.forward).parameters)
    assert not missing, (
        f"{core.__name__}.forward lost {missing}: edit hart_studio/training/sequence_logps.py, models/features.py"
    )
    missing = (wanted | {"logits_to_keep"}) - set(inspect.signature(whole.forward).parameters)
    assert not missing, f"{whole.__name__}.forward lost {missing}: edit hart_studio/training/sequence_logps.py"
    assert callable(whole.get_image_features), "edit encode_processed in hart_studio/models/features.py"


@pytest.mark.parametrize("key", CLASSES)
def test_forward_reads_only_what_a_tower_output_has(key: str) -> None:
    source = inspect.getsource(CLASSES[key][1].forward)
    read = set(re.findall(r'mm_encoder_outputs\["image"\]\.(\w+)', source))
    fields = set(VisionOutput.__dataclass_fields__)
    assert read and read <= fields, f"{key} reads {read - fields}: edit VisionOutput in hart_studio/models/features.py"
    assert all(isinstance(getattr(DeferredVisionTower, name), property) for name in fields), "edit training/tower.py"


@pytest.mark.parametrize("key", CLASSES)
def test_the_function_of_grid_positions(key: str) -> None:
    core = CLASSES[key][1]
    hint = "edit hart_studio/models/features.py and uses_mrope in models/families.py"
    assert hasattr(core, "get_rope_index") == FAMILIES[key].uses_mrope, hint
    if FAMILIES[key].uses_mrope:
        wanted = {"input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask"}
        assert wanted <= set(inspect.signature(core.get_rope_index).parameters), hint


def test_a_mask_of_four_axes_is_handed_on_as_it_is() -> None:
    config = Qwen3Config(num_hidden_layers=1)
    for attention in ("sdpa", "eager"):
        config._attn_implementation = attention
        mask = torch.rand(2, 1, 5, 5) > 0.5
        made = create_causal_mask(
            config=config,
            inputs_embeds=torch.zeros(2, 5, 8),
            attention_mask=mask,
            past_key_values=None,
            position_ids=torch.zeros(2, 5, dtype=torch.long),
        )
        assert made is mask, (
            "a tree mask is no longer handed on: edit attention_mask in hart_studio/training/sequence_logps.py"
        )


def test_logits_of_chosen_places_only() -> None:
    hidden = torch.arange(12.0).view(2, 3, 2)
    chosen = torch.tensor([[True, False, True], [False, True, False]])
    kept = slice_logits_to_keep(hidden, chosen)
    assert torch.equal(kept, hidden[chosen]), (
        "logits_to_keep takes no mask: edit compute_logps in hart_studio/training/sequence_logps.py"
    )
