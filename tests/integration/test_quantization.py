"""4-bit and 8-bit models of every architecture, with random weights, on the CPU; and QLoRA training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from hart_studio import ask
from hart_studio.errors import ModelError
from hart_studio.models.catalog import BUILT_IN_MODEL
from hart_studio.models.loading import load_model
from hart_studio.models.quantization import is_quantized_layer
from hart_studio.runs.writer import create_run
from hart_studio.training import hart_trainer
from hart_studio.training.dry_run import estimate_memory
from hart_studio.training.initial_model import lora_config
from hart_studio.training.train import run
from hart_studio.training.trainable_model import TrainableModel
from tests import tiny_models
from tests.integration.conversations import GREEDY, one_image
from tests.integration.training_runs import (
    ScriptedPolicy,
    disturb,
    gradients_of,
    make_samples,
    make_trainer,
    small_config,
    write_jsonl,
)
from tests.tiny_models import FAMILY_KEYS

pytest.importorskip(
    "bitsandbytes", reason="bitsandbytes is not installed: pip install -r requirements-quantization.txt"
)
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::FutureWarning")]

BITS = ("4bit", "8bit")


def build_wide(key: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model whose layers have whole blocks of 64 inputs, as the published ones have."""
    text = tiny_models._text
    monkeypatch.setattr(
        tiny_models, "_text", lambda tokenizer, **more: text(tokenizer, **more) | {"intermediate_size": 128}
    )
    return tiny_models.build_tiny(key, folder)


def kinds_of_layers(model: torch.nn.Module) -> dict[str, str]:
    return {name: type(part).__name__ for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("key", FAMILY_KEYS)
def test_the_language_model_of_every_family_is_quantized_and_answers(
    key: str, bits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_wide(key, tmp_path, monkeypatch)
    model = load_model(str(folder), device="cpu", quantization=bits)
    kinds = kinds_of_layers(model.model)
    quantized = {name for name, kind in kinds.items() if kind in ("Linear4bit", "Linear8bitLt")}
    assert len(quantized) == 14, "two layers of seven matrices"
    assert quantized == {name for name in kinds if is_quantized_layer(name)}
    request = one_image(model)
    prompt = model.prepare(request)
    exact = load_model(str(folder), device="cpu").prepare(request)
    for own, other in zip(prompt.images, exact.images, strict=True):
        assert torch.equal(own.features, other.features), "the vision tower is not quantized"
    ((answer,),) = model.generate([request], GREEDY)
    assert answer.token_ids


def test_layers_without_whole_blocks_are_refused_in_4_bits(tmp_path: Path) -> None:
    folder = tiny_models.build_tiny("qwen2_5_vl", tmp_path)
    with pytest.raises(
        ModelError, match=r"down_proj has 96 inputs, which is not a multiple of 64. Use quantization 8bit"
    ):
        load_model(str(folder), device="cpu", quantization="4bit")


@pytest.mark.parametrize("bits", BITS)
def test_the_ask_command_quantizes_the_built_in_model(
    bits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sample,) = make_samples(tmp_path, 1)
    flags = ["--choice", "red", "--choice", "blue", "--protocol", "direct", "--json", "--device", "cpu"]
    assert ask.main([sample.image, "Which?", *flags, "--quantization", bits]) == 0
    assert json.loads(capsys.readouterr().out)["protocols"].keys() == {"direct"}


@pytest.mark.parametrize("is_scripted", [True, False], ids=["scripted", "sampled"])
def test_qlora_has_gradients_in_adapters_only_and_a_reference_without_them(is_scripted: bool, tmp_path: Path) -> None:
    config = small_config(Path(BUILT_IN_MODEL), model={"lora": "on", "quantization": "4bit"}, method={"beta": 0.04})
    trainer = make_trainer(config, make_samples(tmp_path / "data"), tmp_path / "out", is_scripted=is_scripted)
    trained = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name and weight.dtype == torch.float32 for name, weight in trained.items())
    assert trainer.ref_model is None
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    for name, weight in trainer.model.named_parameters():
        if name not in trained:
            assert torch.equal(before[name], weight), name
        elif is_scripted and "lora_B" in name:  # samples of the real model may all have the same reward
            assert not torch.equal(before[name], weight), name
    first, *_ = trainer.state.log_history
    assert first["kl"] == pytest.approx(0, abs=1e-6), "at the first step policy and reference are equal"


def test_a_qlora_run_trains_the_built_in_model_and_its_adapters_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_jsonl(tmp_path / "data", 8)
    config = small_config(
        Path(BUILT_IN_MODEL),
        stages="ap_grpo+sft",
        data={"source": "jsonl", "path": str(data)},
        model={"quantization": "4bit"},
    )
    layout = create_run(tmp_path / "runs", "training", config, config.method.stages, config.total_steps)
    monkeypatch.setattr(hart_trainer, "TrainableModel", ScriptedPolicy)
    result = run(config, layout.folder)
    assert result.model is not None and (result.model / "adapter_config.json").is_file()
    for bits in ("none", "4bit"):
        model = load_model(str(result.model), device="cpu", quantization=bits)
        has_adapters = any("lora_B" in name for name, _ in model.model.named_parameters())
        assert has_adapters is (bits == "4bit"), "adapters are merged into whole weights only"
        ((answer,),) = model.generate([one_image(model)], GREEDY)
        base = load_model(BUILT_IN_MODEL, device="cpu", quantization=bits)
        assert answer.token_ids
        assert not torch.equal(first_logits(model), first_logits(base)), "the adapters change the output"


@torch.no_grad()
def first_logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([model.processor.tokenizer.encode("Which digit?")])
    found: torch.Tensor = model.model(input_ids=ids).logits
    return found


def test_sampling_does_not_cut_the_gradients_of_4_bit_layers(tmp_path: Path) -> None:
    config = small_config(Path(BUILT_IN_MODEL), model={"lora": "on", "quantization": "4bit"})
    found = []
    for samples_first in (False, True):
        loaded = load_model(BUILT_IN_MODEL, device="cpu", quantization="4bit")
        torch.manual_seed(0)
        adapted: Any = get_peft_model(loaded.model, lora_config(config.model))
        disturb(adapted)
        policy = TrainableModel(adapted, loaded.processor, "policy")
        if samples_first:
            policy.generate([one_image(policy)], GREEDY)
        adapted.train()
        ids = torch.tensor([loaded.processor.tokenizer.encode("Which digit?")])
        adapted(input_ids=ids).logits.float().square().mean().backward()
        found.append(gradients_of(adapted))
    before, after = found
    assert before.keys() == after.keys() and all("lora_" in name for name in before)
    first = [name for name in before if "layers.0.self_attn.q_proj.lora_B" in name]
    assert first and all(float(before[name].abs().max()) > 0 for name in first)
    for name, gradient in before.items():
        assert torch.allclose(after[name], gradient, rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("bits", BITS)
def test_the_estimate_is_the_size_of_the_loaded_weights(bits: str, tmp_path: Path) -> None:
    config = small_config(Path(BUILT_IN_MODEL), model={"quantization": bits, "dtype": "bfloat16"})
    plan = estimate_memory(config, torch.device("cpu"))
    assert plan is not None and plan.is_lora and plan.reference == 0
    model = load_model(BUILT_IN_MODEL, device="cpu", dtype="bfloat16", quantization=bits).model
    loaded = sum(weight.nbytes for weight in model.parameters())
    adapters = 4 * plan.trained_count
    assert plan.weight_count == model.num_parameters()
    assert plan.weights - adapters == pytest.approx(loaded, rel=0.02), "scales of 4-bit weights are 1.6 % more"
