"""Models with their memory, whether they are on this machine, and whether they fit it. Loads no weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hart_studio.errors import HartError, HubError, ModelError
from hart_studio.hub.cache import CachedSnapshot, find_snapshot
from hart_studio.hub.download import plan_download, run_download
from hart_studio.hub.repository import REPO_ID, is_offline
from hart_studio.image_domains import DOMAIN_TITLES
from hart_studio.models.catalog import BUILT_IN_FOLDERS, read_intended_domain, resolve_model_name
from hart_studio.models.config_files import read_config
from hart_studio.models.families import FAMILIES
from hart_studio.models.loading import CONFIG_FILE_PATTERNS, WEIGHT_FILE_PATTERNS, detect_family
from hart_studio.models.machine_memory import DeviceMemory
from hart_studio.models.memory import PRECISIONS, Architecture, InferenceMemory, Precision, estimate_inference_memory
from hart_studio.models.meta_model import read_architecture
from hart_studio.models.published_models import PUBLISHED_MODELS, PublishedModel, find_published

MODEL_PATTERNS = (*CONFIG_FILE_PATTERNS, *WEIGHT_FILE_PATTERNS)
"""Files of a model that are loaded: no remote code, no pickled weights."""

NESTED = ("*/*",)
"""Files in subfolders, which are copies in other formats or examples."""

_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class PrecisionRow:
    """Memory of a model in one precision.

    Attributes:
        precision: Precision of the weights.
        weights_bytes: The weights.
        working_set_bytes: Key-value cache and activations of one question.
        fits: Devices whose free memory is sufficient for both.
    """

    precision: Precision
    weights_bytes: int
    working_set_bytes: int
    fits: tuple[str, ...]


@dataclass(frozen=True)
class ModelRow:
    """A model of the list.

    Attributes:
        name: Name for commands: a short name, a Hub id, or a folder.
        model: Value for the model field and ``--model``: a Hub id, a folder or a built-in name.
        family: Display name of the family.
        parameters: Number of weights.
        license: License identifier; empty if it is not known for sure.
        download_bytes: Size of the model's files, cached or not (those in the cache, if the Hub was not asked); 0 for a
            local folder.
        location: ``folder``, ``cache`` (complete), ``partial`` (some files are in the cache), or ``hub``.
        image_domain: Images that the model was made for; empty if it has no such limit.
        precisions: Memory by precision.
    """

    name: str
    model: str
    family: str
    parameters: int
    license: str
    download_bytes: int
    location: str
    image_domain: str
    precisions: tuple[PrecisionRow, ...]

    @property
    def fits(self) -> tuple[str, ...]:
        """Precisions that fit at least one device."""
        return tuple(row.precision for row in self.precisions if row.fits)

    def to_dict(self) -> dict[str, Any]:
        """JSON object of the commands and the page."""
        return {**asdict(self), "fits": list(self.fits)}


def list_models(devices: Sequence[DeviceMemory]) -> tuple[ModelRow, ...]:
    """List the catalog with the state of the local cache; the network is not used.

    Args:
        devices: Devices of this machine.
    """
    return tuple(_describe_published(row, devices) for row in PUBLISHED_MODELS)


def check_model(name: str, devices: Sequence[DeviceMemory]) -> ModelRow:
    """Describe a model and check that it is supported.

    Of a Hub model that is neither in the catalog nor in the cache, the settings are downloaded, which are small.

    Args:
        name: A short name of the catalog, a built-in name, a local folder, or a Hub id.
        devices: Devices of this machine.

    Raises:
        HartError: If the model is missing or not supported.
    """
    folder = Path(resolve_model_name(name)).expanduser()
    if folder.is_dir():
        return _describe_folder(name, folder, devices)
    published = find_published(name)
    if published is not None:
        return _describe_published(published, devices)
    if REPO_ID.fullmatch(name) is None:
        raise ModelError(
            f"Model {name[:200]!r} not found: it is neither in the catalog (python -m hart_studio.models list) nor a "
            "folder nor a Hub id such as owner/name."
        )
    snapshot = find_snapshot(name)
    if snapshot is not None and "config.json" in snapshot.sizes and (is_offline() or is_complete(snapshot)):
        return _describe_cached(name, snapshot, devices)
    plan = plan_download(name, patterns=MODEL_PATTERNS, excluded=NESTED)
    config_plan = plan_download(name, patterns=CONFIG_FILE_PATTERNS, excluded=NESTED)
    folder = run_download(config_plan)
    if not any(file.path.endswith(".safetensors") for file in plan.files):
        raise ModelError(f"{name} has no safetensors weights. Pickled weights are never loaded. Choose another model.")
    architecture = _read_sizes(name, folder)
    return ModelRow(
        name=name,
        model=name,
        family=FAMILIES[architecture.family].title,
        parameters=architecture.parameters,
        license=plan.repository.license,
        download_bytes=plan.total_bytes,
        location="partial" if plan.missing else "cache",
        image_domain=DOMAIN_TITLES.get(read_intended_domain(str(folder)), ""),
        precisions=list_precisions(architecture, devices),
    )


def list_precisions(architecture: Architecture, devices: Sequence[DeviceMemory]) -> tuple[PrecisionRow, ...]:
    """Memory of a model in every precision, and the devices that have it free.

    Args:
        architecture: Sizes of the model.
        devices: Devices of this machine; one whose free memory is unknown does not count as fitting.
    """
    rows = []
    for precision in PRECISIONS:
        memory: InferenceMemory = estimate_inference_memory(architecture, precision)
        is_quantized = precision in ("8bit", "4bit")
        fits = tuple(
            each.device
            for each in devices
            if each.free_bytes is not None
            and memory.total <= each.free_bytes
            and not (is_quantized and each.device == "mps")  # bitsandbytes supports CUDA and the CPU
        )
        rows.append(PrecisionRow(precision, memory.weights, memory.working_set, fits))
    return tuple(rows)


def is_complete(snapshot: CachedSnapshot) -> bool:
    """Whether the cache has the settings and every weight file of a model."""
    if "config.json" not in snapshot.sizes:
        return False
    if _INDEX not in snapshot.sizes:
        return "model.safetensors" in snapshot.sizes
    try:
        files = read_config(snapshot.folder / _INDEX).get("weight_map")
    except ModelError:
        return False
    return isinstance(files, dict) and bool(files) and all(str(file) in snapshot.sizes for file in files.values())


def _describe_published(row: PublishedModel, devices: Sequence[DeviceMemory]) -> ModelRow:
    snapshot = find_snapshot(row.hub_id)
    location = "hub" if snapshot is None else "cache" if is_complete(snapshot) else "partial"
    return ModelRow(
        name=row.name,
        model=row.hub_id,
        family=FAMILIES[row.architecture.family].title,
        parameters=row.architecture.parameters,
        license=row.license,
        download_bytes=row.download_bytes,
        location=location,
        image_domain="",
        precisions=list_precisions(row.architecture, devices),
    )


def _describe_folder(name: str, folder: Path, devices: Sequence[DeviceMemory]) -> ModelRow:

    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        base_name = str(read_config(folder / "adapter_config.json").get("base_model_name_or_path") or "")
        try:
            row = check_model(base_name, devices)
        except HartError as error:
            raise ModelError(f"The base model of the adapter {name} cannot be used: {error}") from error
        return ModelRow(**{**vars(row), "name": name, "model": name})
    architecture = _read_sizes(name, folder)
    if not any(folder.glob("model*.safetensors")):
        raise ModelError(f"{name} has no model*.safetensors. Save the model again with save_pretrained.")
    return ModelRow(
        name=name,
        model=name if name in BUILT_IN_FOLDERS else str(folder),
        family=FAMILIES[architecture.family].title,
        parameters=architecture.parameters,
        license="",
        download_bytes=0,
        location="folder",
        image_domain=DOMAIN_TITLES.get(read_intended_domain(str(folder)), ""),
        precisions=list_precisions(architecture, devices),
    )


def _describe_cached(name: str, snapshot: CachedSnapshot, devices: Sequence[DeviceMemory]) -> ModelRow:
    architecture = _read_sizes(name, snapshot.folder)
    return ModelRow(
        name=name,
        model=name,
        family=FAMILIES[architecture.family].title,
        parameters=architecture.parameters,
        license="",
        download_bytes=snapshot.total,
        location="cache" if is_complete(snapshot) else "partial",
        image_domain=DOMAIN_TITLES.get(read_intended_domain(str(snapshot.folder)), ""),
        precisions=list_precisions(architecture, devices),
    )


def _read_sizes(name: str, folder: Path) -> Architecture:
    """Check the family, and read the sizes."""
    detect_family(name, folder)
    return read_architecture(folder)


def resolve_hub_id(name: str) -> str:
    """The Hub id of a name of the catalog, or the name itself if it is a Hub id.

    Raises:
        HubError: If it is neither.
    """
    published = find_published(name)
    if published is not None:
        return published.hub_id
    if REPO_ID.fullmatch(name) is None:
        raise HubError(f"{name[:200]!r} is neither a name of the catalog nor a Hub id such as owner/name.")
    return name


def to_json(rows: Sequence[ModelRow], devices: Sequence[DeviceMemory]) -> str:
    """JSON of the commands: the devices and the models."""
    return json.dumps(
        {"devices": [asdict(each) for each in devices], "models": [row.to_dict() for row in rows]}, indent=2
    )
