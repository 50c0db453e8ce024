"""From a folder or a hub id to a model that answers. Never runs remote code, never unpickles weights.

A hub model is fetched as a snapshot of its data files only (JSON, templates, tokenizer, safetensors), and its
``config.json`` is checked before the weights are. From there on a hub model is a folder like any other.
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
from hart_studio.models.families import FAMILIES, Family, supported_families
from hart_studio.models.generation import LocalChatModel
from hart_studio.models.inputs import image_token_id
from hart_studio.models.memory import is_out_of_memory, memory_errors

CONFIG_FILE_PATTERNS = ["*.json", "*.jinja", "*.txt", "*.model"]
WEIGHT_FILE_PATTERNS = ["*.safetensors"]
REMOTE_CODE_TYPES = {"internvl_chat": "internvl"}
"""``model_type`` of checkpoints that exist only as remote code -> the family that loads natively."""

# Where trust_remote_code does not reach an inner call, transformers asks on the terminal: with no time it refuses.
dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(name: str, *, device: str = "auto", dtype: str = "auto", allow_download: bool = True) -> LocalChatModel:
    """Load a vision-language model with its processor.

    Args:
        name: A local folder or a hub id ``owner/model``. A folder with a LoRA adapter loads its base model too; the
            adapter is merged into it.
        device: ``auto`` (CUDA when there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto`` (float32 on the CPU, bfloat16 on CUDA), ``float32``, ``bfloat16`` or ``float16``.
        allow_download: Whether the hub may be asked; otherwise only its local cache is.

    Returns:
        The model in eval mode on its device.

    Raises:
        ModelError: If the model cannot be found, is of no supported family, needs remote code or pickled weights, or
            does not fit the device.
    """
    target = _resolve_device(device)
    number_type = _resolve_dtype(dtype, target)
    folder = _resolve_folder(name, allow_download)
    base_name, base = name, folder
    if (folder / "adapter_config.json").is_file():
        base_name = _read_base_model_name(name, folder)
        base = _resolve_folder(base_name, allow_download)
        check_base_folder(base_name, base)
    family = detect_family(base_name, base)
    # An adapter folder may hold a processor of its own, or only the tokenizer that its trainer saved beside it.
    has_processor = any((folder / file).is_file() for file in ("processor_config.json", "preprocessor_config.json"))
    config = _load_config(base_name, base)
    processor = _load_processor(name, folder if has_processor else base, config)
    with memory_errors(target):
        base = _download_weights(base_name, base, allow_download)
        _check_weights(base_name, base)
        model = _load_weights(base_name, base, number_type, target)
        if base_name != name:
            folder = _download_weights(name, folder, allow_download)
            check_adapter_weights(name, folder)
            model = _merge_adapter(name, model, folder)
    model.train(False)
    return LocalChatModel(model, processor, family, name)


def unwrap_model(model: torch.nn.Module) -> PreTrainedModel:
    """The model inside the wrappers of a training run: data parallel, compiled, LoRA.

    Adapters live in the layers of the model itself, so what is returned computes with them.

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
                f"expected a transformers model, wrapped or not, got {type(model).__name__} around "
                f"{type(inner).__name__}; give the model, or a trainer's wrapper of it"
            )
    return inner


def get_family(model: PreTrainedModel) -> Family:
    """The family of a model that is in memory.

    Raises:
        ModelError: If it is of no supported family.
    """
    return _match_family(model.config.model_type, type(model).__name__)


def _resolve_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ModelError(f"expected the device auto, cpu, cuda or cuda:N, got {device!r}")
    found = torch.device(device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"expected a CUDA device for {device!r}, this machine has {torch.cuda.device_count()}; "
            "use device='cpu', or install a torch build with CUDA and a driver"
        )
    return found


def _resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ModelError(f"expected the dtype auto, {', '.join(DTYPES)}, got {dtype!r}")
    return DTYPES[dtype]


def _resolve_folder(name: str, allow_download: bool) -> Path:
    """The folder behind a name; of a hub id only the small files are fetched here."""
    if is_url(name):
        raise ModelError(
            f"expected a folder or a hub id such as {FAMILIES['qwen3_vl'].checkpoint}, got the address "
            f"{name[:200]!r}; nothing is fetched from addresses: give the hub id alone, or fetch the model and give "
            "its folder"
        )
    folder = _local_folder(name)
    if folder is None:
        if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
            raise ModelError(
                f"expected a folder or a hub id such as {FAMILIES['qwen3_vl'].checkpoint}, "
                f"got {name!r}: there is no such folder"
            )
        folder = _download(name, CONFIG_FILE_PATTERNS, allow_download)
    if not ((folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()):
        raise ModelError(
            f"expected config.json or adapter_config.json in {name}, found neither; "
            "give the folder that save_pretrained wrote"
        )
    if not (folder / "adapter_config.json").is_file():
        detect_family(name, folder)  # a model of another family is told so before its processor is looked at
    check_config_files(name, folder)
    return folder


def _local_folder(name: str) -> Path | None:
    """The folder called ``name`` on this machine, resolved; None when there is none."""
    try:
        folder = Path(name).expanduser()
        return folder.resolve() if name and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, an unknown ~user, a null byte: no folder is called so
        return None


def _download(name: str, patterns: list[str], allow_download: bool) -> Path:
    """Files of a hub model in the local cache, downloaded when they are missing."""
    try:
        # Nested files are copies in other formats or examples, so only the top level is taken.
        found = snapshot_download(
            name, allow_patterns=patterns, ignore_patterns=["*/*"], local_files_only=not allow_download
        )
    except GatedRepoError as error:
        raise ModelError(
            f"expected access to {name}, its owner asks for permission first; accept its terms on its hub page, "
            "then log in with `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"expected a folder or a hub model, found no {name!r}; check the spelling, "
            "or log in with `hf auth login` if it is private"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = "the hub cannot be reached" if allow_download else "downloads are off"
        raise ModelError(
            f"expected {name!r} as a local folder or in the local cache, found neither, and {reason}; "
            "go online once, or give a local folder"
        ) from error
    return Path(found)


def _read_base_model_name(name: str, folder: Path) -> str:
    """The model that an adapter was trained on."""
    config = read_config(folder / "adapter_config.json")
    base, kind = config.get("base_model_name_or_path"), config.get("peft_type")
    if kind != "LORA" or not isinstance(base, str):
        raise ModelError(
            f"expected a LoRA adapter that names its base model, {name} is {kind!r} on {base!r}; merge it into a model"
        )
    return base


def detect_family(name: str, folder: Path) -> Family:
    """The family of the model in a folder.

    Args:
        name: What people call it, for messages.
        folder: With its ``config.json``.

    Raises:
        ModelError: If it is of none, or needs code of its own.
    """
    kind = read_config(folder / "config.json").get("model_type")
    if kind in REMOTE_CODE_TYPES:
        family = FAMILIES[REMOTE_CODE_TYPES[kind]]
        raise ModelError(
            f"expected a checkpoint without remote code, {name} runs its own; "
            f"use the same model with the ending -hf, such as {family.checkpoint}"
        )
    return _match_family(kind, name)


def _match_family(kind: Any, name: str) -> Family:
    if kind not in FAMILIES:
        raise ModelError(f"expected a model of a supported family, {name} is {kind!r}; use {supported_families()}")
    return FAMILIES[kind]


def _download_weights(name: str, folder: Path, allow_download: bool) -> Path:
    """The same folder with its weights in it: a hub model's are fetched only now that everything else is known."""
    if _local_folder(name) is None:
        folder = _download(name, CONFIG_FILE_PATTERNS + WEIGHT_FILE_PATTERNS, allow_download)
        check_config_files(name, folder)  # the model may have been changed on the hub since it was checked
    return folder


def _check_weights(name: str, folder: Path) -> None:
    if not any(folder.glob("model*.safetensors")):
        found = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        raise ModelError(
            f"expected weights called model*.safetensors in {name}, got {', '.join(found) or 'none'}; pickled weights "
            "are never loaded: save the model again with save_pretrained"
        )


def _load_config(name: str, folder: Path) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a damaged file raises whatever its many readers make of it
        raise ModelError(
            f"expected a valid config.json in {name}, got: {_summarize(error)}; fetch or save the model again"
        ) from error
    return config


def _load_processor(name: str, folder: Path, config: Any) -> ProcessorMixin:
    try:
        auto: Any = AutoProcessor
        processor = auto.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # as above
        raise ModelError(
            f"expected a processor (processor_config.json or preprocessor_config.json, tokenizer.json) in {name}, "
            f"got: {_summarize(error)}; save the processor beside the model"
        ) from error
    if not isinstance(processor, ProcessorMixin) or not (processor.chat_template or processor.tokenizer.chat_template):
        raise ModelError(
            f"expected a vision processor with a chat template in {name}, got {type(processor).__name__}; "
            "use the instruction-tuned checkpoint, or save its chat_template.jinja beside the model"
        )
    if config.image_token_id != image_token_id(processor):
        raise ModelError(
            f"expected the image token {config.image_token_id} of the model in the processor of {name}, got "
            f"{image_token_id(processor)}; they belong to different models: save the right processor beside the model"
        )
    processor.tokenizer.padding_side = "left"  # for users of the processor; the batches here are padded by hand
    return processor


def _load_weights(name: str, folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    try:
        auto: Any = AutoModelForImageTextToText
        model, report = auto.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device},  # straight to the device, without a second copy in main memory
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
            f"expected weights that fit config.json in {name}, got: {_summarize(error)}; fetch or save the model again"
        ) from error
    if report["missing_keys"]:  # transformers fills these with random numbers and carries on
        raise ModelError(
            f"expected every weight of the model in {name}, {len(report['missing_keys'])} are missing, "
            f"such as {min(report['missing_keys'])}; fetch or save the model again"
        )
    loaded: PreTrainedModel = model
    return loaded


def _merge_adapter(name: str, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Fold a LoRA adapter into the weights: the same function, and no wrapper between us and the model."""
    try:
        adapted: Any = PeftModel.from_pretrained(model, folder, local_files_only=True)
        merged: PreTrainedModel = adapted.merge_and_unload()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"expected an adapter that fits its base model in {name}, got: {_summarize(error)}; "
            "check base_model_name_or_path in adapter_config.json"
        ) from error
    return merged


def _summarize(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
