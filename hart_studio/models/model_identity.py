"""Identity of a model: a digest of the files of a local folder, or the id and revision of a Hub model."""

from __future__ import annotations

import hashlib
import io
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from hart_studio.files import open_regular_file, read_regular_file

FULL_BYTES: Final = 64 * 2**20
"""Maximum size of files that are hashed completely. Project default."""

SAMPLED_BLOCKS: Final = 1024
"""Number of evenly spaced blocks that are hashed of a larger file, including the first and the last. Project
default."""

BLOCK_BYTES: Final = 16 * 1024
"""Size of such a block. Project default."""

_EDGE_BYTES: Final = 2**20
_WEIGHTS: Final = "*.safetensors"
_PATTERNS: Final = (
    _WEIGHTS,
    "*.safetensors.index.json",
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "*processor_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
)
_MAX_CONFIG_BYTES: Final = 1 << 20


class ModelIdentity(NamedTuple):
    """Identity of a model."""

    name: str
    """Hub id, or name of the folder. For a folder it is only a title."""
    digest: str
    """``digest_model`` of a local folder; empty for any other model."""
    revision: str
    """Commit of a hub model in the local cache; empty if unknown."""


class _File(NamedTuple):
    """A file of a model folder, with the attributes that change with its content."""

    name: str
    device: int
    inode: int
    size: int
    mtime_ns: int


def identify_model(model: str) -> ModelIdentity:
    """Identify a model without loading it.

    Args:
        model: A local folder, a hub id, or the title of a served model.
    """
    folder = Path(model)
    if folder.is_dir():
        return ModelIdentity(folder.resolve().name, digest_model(folder), "")
    return ModelIdentity(model, "", _read_revision(model))


def digest_model(folder: Path) -> str:
    """Digest of the files that determine the output of a local model.

    It covers names, sizes and content of the weights (``*.safetensors``), the configurations, the tokenizer and the
    chat template in the folder itself, and the base model of a LoRA adapter. Of a file larger than ``FULL_BYTES`` it
    covers the first and last MiB and ``SAMPLED_BLOCKS`` blocks between them: training changes all of a weight matrix,
    but a change of a few bytes elsewhere is not detected. Other files, such as the README, are ignored.

    Args:
        folder: The folder.

    Returns:
        SHA-256, hexadecimal; empty for a folder without weights, and for one that cannot be read.
    """
    return _digest(folder, has_base=True)


def _digest(folder: Path, *, has_base: bool) -> str:
    try:
        names = {path.name for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()}
        files = tuple(_stat_file(folder / name) for name in sorted(names))
        if not any(Path(file.name).match(_WEIGHTS) for file in files):
            return ""
        found = _digest_files(str(folder.resolve()), files)
        base = _read_base(folder) if has_base else ""
    except OSError:
        return ""
    if not base:
        return found
    base_digest = _digest(Path(base), has_base=False) or base
    return hashlib.sha256(f"{found}\n{base_digest}".encode("utf-8", "surrogatepass")).hexdigest()


def _stat_file(path: Path) -> _File:
    status = path.stat()
    return _File(path.name, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest_files(folder: str, files: tuple[_File, ...]) -> str:
    """Hash files; unchanged files are cached."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{len(os.fsencode(file.name))} {file.size}\n".encode() + os.fsencode(file.name))
        with open_regular_file(Path(folder) / file.name, follow_symlinks=True) as stream:
            digest.update(_hash_content(stream, file.size))
    return digest.hexdigest()


def _hash_content(stream: io.BufferedReader, size: int) -> bytes:
    if size <= FULL_BYTES:
        return hashlib.file_digest(stream, "sha256").digest()
    digest = hashlib.sha256(stream.read(_EDGE_BYTES))
    last = size - BLOCK_BYTES
    for number in range(SAMPLED_BLOCKS):
        stream.seek(last * number // (SAMPLED_BLOCKS - 1))
        digest.update(stream.read(BLOCK_BYTES))
    stream.seek(size - _EDGE_BYTES)
    digest.update(stream.read(_EDGE_BYTES))
    return digest.digest()


def _read_base(folder: Path) -> str:
    """Base model of a LoRA adapter; empty for any other model."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return ""
    try:
        found = json.loads(read_regular_file(path, _MAX_CONFIG_BYTES, follow_symlinks=True))
    except (ValueError, RecursionError):
        return ""
    return str(found.get("base_model_name_or_path") or "") if isinstance(found, dict) else ""


def _read_revision(model: str) -> str:
    """Commit of a hub model that an offline load would use; empty if it is not in the cache."""
    import huggingface_hub  # noqa: PLC0415 - takes a second, and only hub ids need it
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        path = huggingface_hub.try_to_load_from_cache(model, "config.json")
    except (HFValidationError, ValueError, OSError):  # the title of a served model is not a Hub id
        return ""
    return Path(path).parent.name if isinstance(path, str) else ""
