"""Check the configuration files of a model folder before transformers or PEFT read them.

Some keys of these files name a class, a file, or a second model. The libraries then open it, also on the Hub,
and do not pass on that remote code and downloads are disabled. A folder that names anything outside itself is refused.
No torch import.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hart_studio.errors import ModelError
from hart_studio.files import read_regular_file
from hart_studio.models.families import FAMILIES, supported_families

CONFIG_FILES: Final = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "adapter_config.json",
)
"""Files whose keys become class arguments. Vocabularies and templates are text only."""

ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
"""The only name under which PEFT finds adapter weights that are not a pickle."""

_WEIGHT_INDEX: Final = "model.safetensors.index.json"
_AUDIO_FILE: Final = "audio_tokenizer_config.json"
_PICKLED_ADAPTER: Final = "adapter_model.bin"

_REFERENCE_KEYS: Final = frozenset(
    {
        "audio_tokenizer", "auto_map", "backbone", "backbone_config", "configuration_files", "custom_generate",
        "fast_tokenizer_files", "init_inputs", "speaker_embeddings", "tokenizer_object", "transformers_weights",
        "use_pretrained_backbone", "use_timm_backbone",
    }
)  # fmt: skip
_REFERENCE_ENDINGS: Final = ("_file", "_files", "_path", "_dir", "_repo", "_repo_id", "_url")
_INERT_KEYS: Final = frozenset({"_name_or_path", "name_or_path", "special_tokens_map_file"})
"""Original paths of a model. Transformers overwrites them with the folder that it reads, or ignores them."""

_CLASS_KEYS: Final = frozenset({"image_processor_type", "video_processor_type", "feature_extractor_type"})
_KERNEL_KEYS: Final = frozenset(
    {"attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"}
)
"""A value with a slash is a repository of compiled code."""

_INNER_MODEL_TYPES: Final = frozenset(
    {"gpt_oss", "internvl_vision", "llama", "qwen2", "qwen3", "qwen3_moe", "siglip_vision_model"}
    | {f"{key}{part}" for key in FAMILIES for part in ("", "_text", "_vision")}
)
"""``model_type`` of the language models and vision towers inside the supported families."""

_MAX_INDEX_BYTES: Final = 64 * 2**20
_MAX_SHOWN_CHARS: Final = 80


def read_config(path: Path, max_bytes: int = 32 * 2**20) -> dict[str, Any]:
    """Read a JSON object of a model folder.

    Raises:
        ModelError: If it is missing or not a JSON object.
    """
    try:
        content = json.loads(read_regular_file(path, max_bytes, follow_symlinks=True))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}. Download or save the model again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must contain a JSON object, got {type(content).__name__}. Save the model again.")
    return content


def check_config_files(name: str, folder: Path) -> None:
    """Refuse a model folder whose configuration files name classes, files or models outside the supported families.

    Args:
        name: Name of the model, for messages.
        folder: Folder of a model, or of a LoRA adapter.

    Raises:
        ModelError: If a file names another resource to open, or cannot be read.
    """
    if _exists(folder / _AUDIO_FILE):
        raise ModelError(
            f"{name} has {_AUDIO_FILE}, which names a second model. Models with audio are not supported. "
            "Remove the file if you trust the rest."
        )
    for file in CONFIG_FILES:
        if _exists(folder / file):
            content = read_config(folder / file)
            for key, value in _walk(content):
                _check_entry(name, file, key, value)
            if file == "config.json":
                _check_parts(name, list(content.values()))
    if _exists(folder / _WEIGHT_INDEX):
        _check_index(name, folder / _WEIGHT_INDEX)


def check_base_folder(name: str, folder: Path) -> None:
    """Refuse an adapter as the base model of an adapter; transformers would open a third model with it.

    Raises:
        ModelError: If it is an adapter.
    """
    if _exists(folder / "adapter_config.json"):
        raise ModelError(
            f"The base model {name} is itself an adapter (adapter_config.json). Merge "
            "it into its base model and save the result."
        )


def check_adapter_weights(name: str, folder: Path) -> None:
    """Refuse an adapter whose weights PEFT would not load from ``ADAPTER_WEIGHTS``.

    Args:
        name: Name of the adapter, for messages.
        folder: Folder of the adapter, with its weights.

    Raises:
        ModelError: If the file is missing, or the folder also has pickled weights.
    """
    # A trainer that resumes also reads adapters in subfolders.
    pickled = [folder / _PICKLED_ADAPTER] if _exists(folder / _PICKLED_ADAPTER) else []
    pickled += folder.glob(f"*/{_PICKLED_ADAPTER}")
    if pickled or not (folder / ADAPTER_WEIGHTS).is_file():
        paths = pickled or folder.glob("adapter_model*")
        found = sorted(path.relative_to(folder).as_posix() for path in paths)
        raise ModelError(
            f"{name} must contain {ADAPTER_WEIGHTS} and no pickled weights, got {', '.join(found[:8]) or 'none'}. They "
            f"are never loaded. Save the adapter again with save_pretrained, and remove {_PICKLED_ADAPTER}."
        )


def _check_entry(name: str, file: str, key: str, value: Any) -> None:
    if key in _INERT_KEYS or value in (None, False, "", [], {}):
        return
    if file == "adapter_config.json" and key == "base_model_name_or_path":
        return  # the same loader opens and checks the base model
    refers = key in _REFERENCE_KEYS or key.startswith("audio_tokenizer") or key.endswith("name_or_path")
    refers = refers or (key.endswith(_REFERENCE_ENDINGS) and isinstance(value, str | list | dict))
    if file == "adapter_config.json":
        refers = refers or (key.endswith("_config") and key != "loftq_config")
    elif key.endswith("_class") or key in _CLASS_KEYS:
        _check_class(name, file, key, value)
    if refers or (key in _KERNEL_KEYS and "/" in json.dumps(value)):
        raise ModelError(
            f"{file} of {name} names something else to open: "
            f"{key[:_MAX_SHOWN_CHARS]} = {_shorten(value)}. It is not opened, and remote code is never run. Remove the "
            f"entry if you trust the rest, or use one of {supported_families()}"
        )


def _check_parts(name: str, values: list[Any]) -> None:
    """Refuse an unsupported language model or vision tower; ``detect_family`` checks the model itself."""
    for key, value in _walk(values):
        if key == "model_type" and not (isinstance(value, str) and value in _INNER_MODEL_TYPES):
            raise ModelError(
                f"config.json of {name} has a part with the unsupported model_type "
                f"{_shorten(value)}. Use one of {supported_families()}."
            )


def _check_class(name: str, file: str, key: str, value: Any) -> None:
    known = frozenset().union(*(family.processing_classes for family in FAMILIES.values()))
    if not isinstance(value, str) or re.sub(r"(Fast|Pil)$", "", value) not in known:
        raise ModelError(
            f"{file} of {name} names an unsupported processor or tokenizer class: "
            f"{key[:_MAX_SHOWN_CHARS]} = {_shorten(value)}; it is not loaded. Save the processor "
            f"of the model's family in the same folder. Supported: {supported_families()}."
        )


def _check_index(name: str, path: Path) -> None:
    shards = read_config(path, _MAX_INDEX_BYTES).get("weight_map")
    files = shards.values() if isinstance(shards, dict) else ()
    for file in files:
        if not isinstance(file, str) or not re.fullmatch(r"\w[\w.-]*\.safetensors", file):
            raise ModelError(
                f"{path.name} of {name} must name .safetensors files in the same folder, got "
                f"{_shorten(file)}; it is not opened. Download or save the model again."
            )


def _walk(content: Any) -> Iterator[tuple[str, Any]]:
    """Iterate over every (key, value) of the JSON objects in a JSON value, at any depth."""
    rest: list[Any] = [content]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            yield from part.items()
            rest += part.values()
        elif isinstance(part, list):
            rest += part


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"
