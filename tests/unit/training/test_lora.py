"""Adapted layers of all families, on meta-device models."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from hart_studio.runs.config import ModelConfig
from hart_studio.training.lora import LARGE_MODEL, is_adapted, is_lora, lora_config, uses_gradient_checkpointing
from hart_studio.training.vision_tower import freeze_vision_tower, is_vision_tower_trained
from tests.tiny_models import BUILDERS, FAMILY_KEYS

pytestmark = pytest.mark.integration


def trained_names(key: str, target: str) -> list[str]:
    model, _ = BUILDERS[key]()
    adapted = get_peft_model(model, lora_config(ModelConfig(lora="on", lora_r=2, trainable_part=target)))
    return [name for name, weight in adapted.named_parameters() if weight.requires_grad]


@pytest.mark.parametrize("key", FAMILY_KEYS)
def test_no_vision_weight_is_adapted_unless_asked(key: str) -> None:
    names = trained_names(key, "language_model")
    # 2 layers x 7 projections x 2 matrices
    assert len(names) == 28
    assert all("model.language_model.layers." in name and ".lora_" in name for name in names)


@pytest.mark.parametrize("key", FAMILY_KEYS)
def test_the_vision_tower_can_be_asked_for(key: str) -> None:
    names = trained_names(key, "all")
    assert any("language_model" in name for name in names)
    assert any("visual" in name or "vision" in name for name in names)
    assert not any("lm_head" in name for name in names)


@pytest.mark.parametrize("key", FAMILY_KEYS)
@pytest.mark.parametrize("target", ["language_model", "all"])
def test_the_plan_counts_the_adapters_that_are_put_on(key: str, target: str) -> None:
    settings = ModelConfig(lora="on", lora_r=2, trainable_part=target)
    model, _ = BUILDERS[key]()
    expected = sum(
        2 * (layer.in_features + layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and is_adapted(name, settings)
    )
    adapted = get_peft_model(model, lora_config(settings))
    assert sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad) == expected


@pytest.mark.parametrize("key", FAMILY_KEYS)
def test_no_vision_weight_is_trained_in_full_unless_asked(key: str) -> None:
    model, _ = BUILDERS[key]()
    assert is_vision_tower_trained(model)
    freeze_vision_tower(model)
    assert not is_vision_tower_trained(model)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any("language_model" in name for name in trained)
    assert not any("vis" in name or "projector" in name for name in trained)


def test_auto_means_large_models() -> None:
    for decide, field in ((is_lora, "lora"), (uses_gradient_checkpointing, "gradient_checkpointing")):
        assert not decide(ModelConfig(), LARGE_MODEL - 1)
        assert decide(ModelConfig(), LARGE_MODEL)
        assert decide(ModelConfig.model_validate({field: "on"}), 1)
        assert not decide(ModelConfig.model_validate({field: "off"}), LARGE_MODEL)
