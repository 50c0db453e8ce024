"""A model folder that names a class, a file or a model outside the supported families is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hart_studio.errors import ModelError
from hart_studio.models.catalog import BUILT_IN_FOLDERS
from hart_studio.models.config_files import check_adapter_weights, check_base_folder, check_config_files

FAMILY_KEYS = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "internvl", "llava_onevision")


@pytest.mark.parametrize("family", FAMILY_KEYS)
def test_every_family_passes_as_transformers_saves_it(tiny_folder: Callable[[str], Path], family: str) -> None:
    check_config_files("it", tiny_folder(family))


def test_the_built_in_models_pass() -> None:
    for folder in BUILT_IN_FOLDERS.values():
        check_config_files("it", Path(folder))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("processor_config.json", {"audio_tokenizer": {"audio_tokenizer_class": "AutoModel"}}),
        ("processor_config.json", {"feature_extractor": {"auto_map": {"AutoFeatureExtractor": "a--b.C"}}}),
        ("processor_config.json", {"audio_tokenizer_name_or_path": "owner/model"}),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "owner/model--x.Y"}}),
        ("video_preprocessor_config.json", {"auto_map": {"AutoVideoProcessor": "x.Y"}}),
        ("tokenizer_config.json", {"auto_map": [None, "x.Y"]}),
        ("tokenizer_config.json", {"init_inputs": ["/srv/vocab.json"]}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}),
        ("special_tokens_map.json", {"tokenizer_file": "/srv/tokenizer.json"}),
        ("special_tokens_map.json", {"vocab_file": "/srv/vocab.json"}),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "x.Y"}}}),
        ("config.json", {"configuration_files": ["config.4.0.0.json"]}),
        ("config.json", {"transformers_weights": "adapter_model.bin"}),
        ("config.json", {"vision_config": {"use_pretrained_backbone": True}}),
        ("config.json", {"vision_config": {"backbone": "resnet50"}}),
        ("config.json", {"parts": [[{"encoder_name_or_path": "owner/model"}]]}),
        ("config.json", {"attn_implementation": "owner/kernel"}),
        ("config.json", {"attn_implementation": {"text_config": "owner/kernel@v1:f"}}),
        ("generation_config.json", {"custom_generate": "owner/model"}),
        ("adapter_config.json", {"megatron_config": {"a": 1}}),
        ("adapter_config.json", {"lora_ga_config": {"cache_file": "/srv/cache.pt"}}),
    ],
)  # fmt: skip
def test_what_names_something_else_is_refused(tmp_path: Path, file: str, content: dict[str, Any]) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=f"{file} of my model names something else to open: .*Remove the entry"):
        check_config_files("my model", tmp_path)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("processor_config.json", "processor_class", "BarkProcessor"),
        ("processor_config.json", "processor_class", ["Qwen3VLProcessor"]),
        ("preprocessor_config.json", "image_processor_type", "DetrImageProcessor"),
        ("preprocessor_config.json", "feature_extractor_type", "ClapFeatureExtractor"),
        ("video_preprocessor_config.json", "video_processor_type", "AutoModel"),
        ("tokenizer_config.json", "tokenizer_class", "RagTokenizer"),
        ("config.json", "tokenizer_class", "MistralCommonBackend"),
        ("config.json", "processor_class", "Pix2StructProcessor"),
    ],
)
def test_only_classes_of_the_families_are_loaded(tmp_path: Path, file: str, key: str, value: Any) -> None:
    (tmp_path / file).write_text(json.dumps({"inside": [{key: value}]}))
    with pytest.raises(
        ModelError, match=f"{file} of it names an unsupported processor or tokenizer class: {key} = .*it is not loaded"
    ):
        check_config_files("it", tmp_path)


@pytest.mark.parametrize("kind", ["timm_wrapper", "rag", "qwen2_audio", 3, None, ["qwen2"]])
def test_only_parts_of_the_families_are_built(tmp_path: Path, kind: Any) -> None:
    content = {"model_type": "llava_onevision", "text_config": {"model_type": kind}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"config.json of it has a part with the unsupported model"):
        check_config_files("it", tmp_path)


@pytest.mark.parametrize(
    "shard", ["../other.safetensors", "/srv/a.safetensors", "a.bin", "", ".safetensors", 3, "a/b.safetensors"]
)
def test_shards_are_files_of_the_folder(tmp_path: Path, shard: Any) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"must name \.safetensors files in the same folder"):
        check_config_files("it", tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, '"x"'], ids=["cut", "list", "deep", "text"])
def test_what_cannot_be_read_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "processor_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"(must contain a JSON object|is not valid JSON)"):
        check_config_files("it", tmp_path)


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(tmp_path / "later.json")
    with pytest.raises(ModelError, match="is not valid JSON"):
        check_config_files("it", tmp_path)


def test_adapter_weights_are_one_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="got none"):
        check_adapter_weights("it", tmp_path)
    (tmp_path / "adapter_model_x.safetensors").touch()
    with pytest.raises(ModelError, match=r"got adapter_model_x.safetensors"):
        check_adapter_weights("it", tmp_path)
    (tmp_path / "adapter_model.safetensors").touch()
    check_adapter_weights("it", tmp_path)
    (tmp_path / "adapter_model.bin").symlink_to("nowhere")
    with pytest.raises(ModelError, match=r"got adapter_model.bin. They are never loaded"):
        check_adapter_weights("it", tmp_path)
    (tmp_path / "adapter_model.bin").unlink()
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "adapter_model.bin").touch()
    with pytest.raises(ModelError, match=r"got default/adapter_model.bin"):
        check_adapter_weights("it", tmp_path)


def test_a_base_is_a_whole_model(tmp_path: Path) -> None:
    check_base_folder("it", tmp_path)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ModelError, match=r"The base model it is itself an adapter \(adapter_config.json\). Merge"):
        check_base_folder("it", tmp_path)
