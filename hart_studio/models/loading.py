"""Load a model from a folder or the Hub. Never runs remote code, never unpickles weights.

A Hub model is downloaded as a snapshot of its data files only (JSON, templates, tokenizer, safetensors), and its
``config.json`` is checked before the weights are downloaded. From then on it is loaded like any folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    dynamic_module_utils,
)

from hart_studio.errors import ModelError
from hart_studio.files import is_url
from hart_studio.models.config_files import (
    check_adapter_weights,
    check_base_folder,
    check_config_files,
    read_config,
)
from hart_studio.models.devices import resolve_device, resolve_dtype
from hart_studio.models.families import FAMILIES, Family, supported_families
from hart_studio.models.generation import LocalChatModel, is_out_of_memory, memory_errors
from hart_studio.models.inputs import image_token_id
from hart_studio.models.quantization import check_quantized_shapes, make_quantization_config

CONFIG_FILE_PATTERNS = ["*.json", "*.jinja", "*.txt", "*.model"]
WEIGHT_FILE_PATTERNS = ["*.safetensors"]
REMOTE_CODE_TYPES = {"internvl_chat": "internvl"}
"""``model_type`` of checkpoints that need remote code -> family with native support."""

# If an inner call gets no trust_remote_code, transformers prompts on the terminal; a timeout of 0 refuses.
dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantization: str = "none",
    allow_download: bool = True,
) -> LocalChatModel:
    """Load a vision-language model with its processor.

    Args:
        name: A local folder or a Hub id ``owner/model``. A folder with a LoRA adapter loads its base model too; the
            adapter is merged into it, unless the base model is quantized.
        device: See ``resolve_device``.
        dtype: See ``resolve_dtype``.
        quantization: ``none``, ``4bit`` or ``8bit`` weights of the language model.
        allow_download: Whether to download from the Hub; otherwise only the local cache is used.

    Returns:
        The model in eval mode on its device.

    Raises:
        ModelError: If the model cannot be found, is of no supported family, needs remote code or pickled weights, or
            does not fit the device.
    """
    target = resolve_device(device)
    make_quantization_config(quantization, target, resolve_dtype(dtype, target))  # fails before a download
    folder = _resolve_folder(name, allow_download)
    base_name, base = name, folder
    if (folder / "adapter_config.json").is_file():
        base_name = _read_base_model_name(name, folder)
        base = _resolve_folder(base_name, allow_download)
        check_base_folder(base_name, base)
    family = detect_family(base_name, base)
    # An adapter folder may contain a complete processor, or only the tokenizer that its trainer saved.
    has_processor = any((folder / file).is_file() for file in ("processor_config.json", "preprocessor_config.json"))
    config = _load_config(base_name, base)
    processor = _load_processor(name, folder if has_processor else base, config)
    with memory_errors(target):
        base = _download_weights(base_name, base, allow_download)
        _check_weights(base_name, base)
        number_type = resolve_dtype(dtype, target, sum(file.stat().st_size for file in base.glob("model*.safetensors")))
        model = _load_weights(base_name, base, number_type, target, quantization)
        if base_name != name:
            folder = _download_weights(name, folder, allow_download)
            check_adapter_weights(name, folder)
            model = _merge_adapter(name, model, folder)
    model.train(False)
    return LocalChatModel(model, processor, family, name)


def unwrap_model(model: torch.nn.Module) -> PreTrainedModel:
    """Unwrap a model of a training run: data parallel, compiled, LoRA.

    Adapters are part of the layers, so the returned model uses them.

    Args:
        model: A vision-language model, wrapped any number of times or not at all.

    Raises:
        ModelError: If there is no transformers model inside.
    """
    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        if isinstance(inner, PeftModel):
            inner = inner.get_base_model()
        elif isinstance(inner, torch.nn.Module) and (hasattr(inner, "module") or hasattr(inner, "_orig_mod")):
            inner = inner.module if hasattr(inner, "module") else inner._orig_mod
        else:
            raise ModelError(
                f"expected a transformers model or a wrapper of one, got {type(model).__name__} around "
                f"{type(inner).__name__}"
            )
    return inner


def get_family(model: PreTrainedModel) -> Family:
    """Return the family of a loaded model.

    Raises:
        ModelError: If the family is not supported.
    """
    return _match_family(model.config.model_type, type(model).__name__)


def _resolve_folder(name: str, allow_download: bool) -> Path:
    """Resolve a name to a folder; of a Hub model only the small files are downloaded here."""
    if is_url(name):
        raise ModelError(
            f"Cannot load a model from the URL "
            f"{name[:200]!r}. Give a Hub id such as {FAMILIES['qwen3_vl'].checkpoint}, or download the model and give "
            "its folder."
        )
    folder = _local_folder(name)
    if folder is None:
        if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
            raise ModelError(
                f"Model {name!r} not found: there is no such folder. "
                f"Give a folder or a Hub id such as {FAMILIES['qwen3_vl'].checkpoint}."
            )
        folder = _download(name, CONFIG_FILE_PATTERNS, allow_download)
    if not ((folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()):
        raise ModelError(
            f"{name} contains no config.json and no adapter_config.json. Give a folder written by save_pretrained."
        )
    if not (folder / "adapter_config.json").is_file():
        detect_family(name, folder)  # reject an unsupported family before the processor is read
    check_config_files(name, folder)
    return folder


def _local_folder(name: str) -> Path | None:
    """Resolve ``name`` as a local folder; None if there is none."""
    try:
        folder = Path(name).expanduser()
        return folder.resolve() if name and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, an unknown ~user, a null byte: not a folder name
        return None


def _download(name: str, patterns: list[str], allow_download: bool) -> Path:
    """Download files of a Hub model that are missing in the local cache."""
    try:
        # Nested files are copies in other formats or examples, so only the top level is downloaded.
        found = snapshot_download(
            name, allow_patterns=patterns, ignore_patterns=["*/*"], local_files_only=not allow_download
        )
    except GatedRepoError as error:
        raise ModelError(
            f"Access to {name} is restricted. Accept its terms on its Hub page, then log in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"Model {name!r} not found, neither as a folder nor on the Hub. Check the spelling, "
            "or log in with `hf auth login` if it is private."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = "the Hub cannot be reached" if allow_download else "downloads are disabled"
        raise ModelError(
            f"Model {name!r} is neither a local folder nor in the local cache, and {reason}. "
            "Connect to the network once, or give a local folder."
        ) from error
    return Path(found)


def _read_base_model_name(name: str, folder: Path) -> str:
    """Read the name of the base model of an adapter."""
    config = read_config(folder / "adapter_config.json")
    base, kind = config.get("base_model_name_or_path"), config.get("peft_type")
    if kind != "LORA" or not isinstance(base, str):
        raise ModelError(
            f"{name} is not a LoRA adapter with a base model (type {kind!r}, base {base!r}). Merge it into a model."
        )
    return base


def detect_family(name: str, folder: Path) -> Family:
    """Detect the family of the model in a folder.

    Args:
        name: Name of the model, for messages.
        folder: Folder with ``config.json``.

    Raises:
        ModelError: If the family is not supported, or the model needs remote code.
    """
    kind = read_config(folder / "config.json").get("model_type")
    if kind in REMOTE_CODE_TYPES:
        family = FAMILIES[REMOTE_CODE_TYPES[kind]]
        raise ModelError(
            f"{name} needs remote code, which is never run. "
            f"Use the same model with the suffix -hf, such as {family.checkpoint}."
        )
    return _match_family(kind, name)


def _match_family(kind: Any, name: str) -> Family:
    if kind not in FAMILIES:
        raise ModelError(f"{name} has the unsupported model_type {kind!r}. Use one of {supported_families()}.")
    return FAMILIES[kind]


def _download_weights(name: str, folder: Path, allow_download: bool) -> Path:
    """Return the folder with its weights; those of a Hub model are downloaded after all other checks."""
    if _local_folder(name) is None:
        folder = _download(name, CONFIG_FILE_PATTERNS + WEIGHT_FILE_PATTERNS, allow_download)
        check_config_files(name, folder)  # the model may have changed on the Hub since the check
    return folder


def _check_weights(name: str, folder: Path) -> None:
    if not any(folder.glob("model*.safetensors")):
        found = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        raise ModelError(
            f"{name} contains no model*.safetensors, found {', '.join(found) or 'no weights'}. Pickled weights "
            "are never loaded. Save the model again with save_pretrained."
        )


def _load_config(name: str, folder: Path) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a damaged file can raise any error
        raise ModelError(
            f"config.json of {name} is invalid: {_summarize(error)}. Download or save the model again."
        ) from error
    return config


def _load_processor(name: str, folder: Path, config: Any) -> ProcessorMixin:
    try:
        auto: Any = AutoProcessor
        processor = auto.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # as above
        raise ModelError(
            f"Cannot load the processor of {name} (processor_config.json or preprocessor_config.json, tokenizer.json): "
            f"{_summarize(error)}. Save the processor in the folder of the model."
        ) from error
    if not isinstance(processor, ProcessorMixin) or not (processor.chat_template or processor.tokenizer.chat_template):
        raise ModelError(
            f"The processor of {name}, {type(processor).__name__}, has no image processor or no chat template. "
            "Use the instruction-tuned checkpoint, or save its chat_template.jinja in the folder of the model."
        )
    if config.image_token_id != image_token_id(processor):
        raise ModelError(
            f"The image token of the model {name} is {config.image_token_id}, of its processor "
            f"{image_token_id(processor)}; they belong to different models. Save the matching processor with the model."
        )
    processor.tokenizer.padding_side = "left"  # for callers of the processor; batches here are padded explicitly
    return processor


def _load_weights(
    name: str, folder: Path, dtype: torch.dtype, device: torch.device, quantization: str
) -> PreTrainedModel:
    quantized = make_quantization_config(quantization, device, dtype)
    try:
        auto: Any = AutoModelForImageTextToText
        model, report = auto.from_pretrained(
            folder,
            dtype=dtype,
            **({"quantization_config": quantized} if quantized else {}),
            device_map={"": device},  # directly to the device, without a copy in main memory
            attn_implementation="sdpa",
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"The weights of {name} do not match config.json: {_summarize(error)}. Download or save the model again."
        ) from error
    if report["missing_keys"]:  # transformers initializes these randomly and continues
        raise ModelError(
            f"{len(report['missing_keys'])} weights are missing in {name}, "
            f"such as {min(report['missing_keys'])}. Download or save the model again."
        )
    check_quantized_shapes(name, model, quantization, device)
    loaded: PreTrainedModel = model
    return loaded


def _merge_adapter(name: str, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Merge a LoRA adapter into the weights; keep it beside quantized weights, which would round it."""
    try:
        adapted: Any = PeftModel.from_pretrained(model, folder, local_files_only=True)
        is_quantized = getattr(model, "is_quantized", False)
        merged: PreTrainedModel = adapted.get_base_model() if is_quantized else adapted.merge_and_unload()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"The adapter {name} does not match its base model: {_summarize(error)}. "
            "Check base_model_name_or_path in adapter_config.json."
        ) from error
    return merged


def _summarize(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
