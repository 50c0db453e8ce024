"""The initial model of a stage is checked like any other, also if it is a checkpoint of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from hart_studio.errors import ModelError
from hart_studio.runs.config import ModelConfig, RunConfig
from hart_studio.runs.presets import DEFAULT_PRESET, get_preset
from hart_studio.training.checkpoints import RunCheckpoints
from hart_studio.training.dry_run import estimate_memory
from hart_studio.training.initial_model import (
    LARGE_MODEL,
    is_adapted,
    is_lora,
    load_initial_model,
    lora_config,
    uses_gradient_checkpointing,
)
from hart_studio.training.trainable_model import freeze_vision_tower, is_vision_tower_trained
from tests.tiny_models import BUILDERS, FAMILY_KEYS

# peft asks transformers in a way that transformers is about to retire.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CPU = torch.device("cpu")


@pytest.fixture
def base(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("qwen3_vl")


@pytest.fixture
def checkpoint(base: Path, tmp_path: Path) -> Path:
    """Adapters at the end of a stage."""
    model = AutoModelForImageTextToText.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def _config(model: Path) -> RunConfig:
    config = get_preset(DEFAULT_PRESET).config
    return config.model_copy(update={"model": config.model.model_copy(update={"id": str(model)})})


def _spoil(checkpoint: Path, how: str) -> None:
    if how == "pickled":
        weights = checkpoint / "adapter_model.safetensors"
        (checkpoint / "adapter_model.bin").hardlink_to(weights)
        weights.rename(checkpoint / "adapter_model_x.safetensors")
    else:
        (checkpoint / "config.json").write_text(json.dumps({"transformers_weights": "adapter_model.bin"}))


def test_adapters_of_the_stage_before_are_loaded(base: Path, checkpoint: Path) -> None:
    assert load_initial_model(_config(base), CPU, checkpoint).new_adapters is None


@pytest.mark.parametrize(("how", "words"), [("pickled", "no pickled weights"), ("config", "something else to open")])
def test_a_spoiled_checkpoint_is_refused(
    base: Path, checkpoint: Path, how: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    _spoil(checkpoint, how)
    with pytest.raises(ModelError, match=words):
        load_initial_model(_config(base), CPU, checkpoint)


@pytest.mark.parametrize(("how", "words"), [("pickled", "no pickled weights"), ("config", "something else to open")])
def test_a_spoiled_checkpoint_is_not_resumed(base: Path, checkpoint: Path, how: str, words: str) -> None:
    model: Any = load_initial_model(_config(base), CPU, checkpoint).model
    _spoil(checkpoint, how)
    trainer: Any = SimpleNamespace(model=model)
    with pytest.raises(ModelError, match=words):
        RunCheckpoints._load_from_checkpoint(trainer, str(checkpoint))


def test_memory_is_not_planned_for_a_model_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl", "auto_map": {"AutoConfig": "x.Y"}}))
    with pytest.raises(ModelError, match="something else to open"):
        estimate_memory(_config(tmp_path), CPU)


def trained_names(key: str, target: str) -> list[str]:
    model, _ = BUILDERS[key]()
    adapted = get_peft_model(
        model, lora_config(ModelConfig(lora="on", lora_r=2, freeze_vision_tower=target == "language_model"))
    )
    return [name for name, weight in adapted.named_parameters() if weight.requires_grad]


@pytest.mark.integration
@pytest.mark.parametrize("key", FAMILY_KEYS)
def test_no_vision_weight_is_adapted_unless_asked(key: str) -> None:
    names = trained_names(key, "language_model")
    # 2 layers x 7 projections x 2 matrices
    assert len(names) == 28
    assert all("model.language_model.layers." in name and ".lora_" in name for name in names)


@pytest.mark.integration
@pytest.mark.parametrize("key", FAMILY_KEYS)
def test_adapters_are_put_on_the_named_layers(key: str) -> None:
    settings = ModelConfig(lora="on", lora_r=2, lora_target_modules=("q_proj", "v_proj"))
    model, _ = BUILDERS[key]()
    adapted = get_peft_model(model, lora_config(settings))
    names = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert len(names) == 2 * 2 * 2
    assert {name.split(".")[-4] for name in names} == {"q_proj", "v_proj"}
    assert all("language_model.layers." in name for name in names)


@pytest.mark.integration
@pytest.mark.parametrize("key", FAMILY_KEYS)
def test_the_vision_tower_can_be_asked_for(key: str) -> None:
    names = trained_names(key, "all")
    assert any("language_model" in name for name in names)
    assert any("visual" in name or "vision" in name for name in names)
    assert not any("lm_head" in name for name in names)


@pytest.mark.integration
@pytest.mark.parametrize("key", FAMILY_KEYS)
@pytest.mark.parametrize("target", ["language_model", "all"])
def test_the_plan_counts_the_adapters_that_are_put_on(key: str, target: str) -> None:
    settings = ModelConfig(lora="on", lora_r=2, freeze_vision_tower=target == "language_model")
    model, _ = BUILDERS[key]()
    expected = sum(
        2 * (layer.in_features + layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and is_adapted(name, settings)
    )
    adapted = get_peft_model(model, lora_config(settings))
    assert sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad) == expected


@pytest.mark.integration
@pytest.mark.parametrize("key", FAMILY_KEYS)
def test_no_vision_weight_is_trained_in_full_unless_asked(key: str) -> None:
    model, _ = BUILDERS[key]()
    assert is_vision_tower_trained(model)
    freeze_vision_tower(model)
    assert not is_vision_tower_trained(model)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any("language_model" in name for name in trained)
    assert not any("vis" in name or "projector" in name for name in trained)


@pytest.mark.integration
def test_auto_means_large_models() -> None:
    for decide, field in ((is_lora, "lora"), (uses_gradient_checkpointing, "gradient_checkpointing")):
        assert not decide(ModelConfig(), LARGE_MODEL - 1)
        assert decide(ModelConfig(), LARGE_MODEL)
        assert decide(ModelConfig.model_validate({field: "on"}), 1)
        assert not decide(ModelConfig.model_validate({field: "off"}), LARGE_MODEL)
