"""Quantization: its option, the refusals, and what is quantized."""

import argparse
import importlib.util

import pytest
import torch

from hart_studio.errors import InputError, ModelError
from hart_studio.models.model_loading import load_chat_model
from hart_studio.models.quantization import add_quantization_option, is_quantized_layer, make_quantization_config
from hart_studio.models.served_settings import ServedSettings, add_served_options, read_served

CPU = torch.device("cpu")
SERVED = ["--served", "http://127.0.0.1:1/v1", "--served-family", "qwen3_vl"]


def test_none_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail(f"searched for {name}"))
    assert make_quantization_config("none", torch.device("mps"), torch.float32) is None


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"4bit needs bitsandbytes.*pip install -r requirements-quantization\.txt"):
        make_quantization_config("4bit", CPU, torch.float32)


def test_other_devices_and_names_are_refused() -> None:
    with pytest.raises(ModelError, match="8bit is not supported on mps, only on cpu and cuda"):
        make_quantization_config("8bit", torch.device("mps"), torch.float32)
    with pytest.raises(ModelError, match="Invalid quantization '2bit': use none, 4bit, 8bit"):
        make_quantization_config("2bit", CPU, torch.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.language_model.layers.0.self_attn.q_proj", True),
        ("model.visual.blocks.0.attn.qkv", False),
        ("model.vision_tower.encoder.layer.0.mlp.fc1", False),
        ("model.multi_modal_projector.linear_1", False),
        ("lm_head", False),
        ("model.visual_notes.proj", True),
    ],
)
def test_only_the_language_model_is_quantized(name: str, expected: bool) -> None:
    assert is_quantized_layer(name) is expected


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_quantization_option(parser)
    add_served_options(parser)
    return parser.parse_args(arguments)


def test_a_served_model_refuses_it() -> None:
    assert parse().quantization == "none" and read_served(parse(*SERVED)) is not None
    with pytest.raises(InputError, match="--quantization does not apply to a served model"):
        read_served(parse(*SERVED, "--quantization", "4bit"))
    served = ServedSettings(url="http://127.0.0.1:1/v1", family="qwen3_vl")
    with pytest.raises(ModelError, match="Quantize it in its server"):
        load_chat_model("x", served=served, quantization="8bit")
    with pytest.raises(argparse.ArgumentError):
        parse("--quantization", "2bit")
