"""Built-in models, and the image domain that a model was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hart_studio.errors import ModelError
from hart_studio.image_domains import DOMAIN_TITLES, read_image_domain, supported_domains
from hart_studio.models.config_files import read_config

PROJECT_ROOT: Final = Path(__file__).resolve().parents[2]

BUILT_IN_MODEL: Final = str(PROJECT_ROOT / "assets" / "hart-tiny-base")
"""Folder of the small built-in model; needs no download and no GPU. The default start of training runs."""

TRAINED_MODEL: Final = str(PROJECT_ROOT / "assets" / "hart-tiny")
"""Folder of the same model after training with AP-GRPO and SFT."""

BUILT_IN: Final = "built-in"
"""Name of the built-in model on pages and in projects, independent of the machine."""

BUILT_IN_HART: Final = "built-in-hart"
"""Name of the same model after training with HART."""

BUILT_IN_FOLDERS: Final = {BUILT_IN: BUILT_IN_MODEL, BUILT_IN_HART: TRAINED_MODEL}
"""Name -> folder."""

INTENDED_DOMAIN_KEY: Final = "made_for"
"""Key of a model's ``config.json``: the only image domain that the model was made for. ``save_pretrained`` keeps it, so
every checkpoint that is trained from such a model has it too."""

GENERAL_MODEL: Final = "Qwen/Qwen2.5-VL-3B-Instruct"
"""Example of a model for photographs, named in warnings."""

_MAX_CONFIG_BYTES: Final = 1 << 20


def resolve_model_name(name: str) -> str:
    """Return the folder of a built-in model; any other name, a folder or a Hub id, is unchanged."""
    return BUILT_IN_FOLDERS.get(name, name)


def read_intended_domain(name: str) -> str:
    """Read the image domain that a model was made for; no weights are loaded.

    Args:
        name: A built-in name (``BUILT_IN_FOLDERS``), a local folder (a model or a LoRA adapter, whose base model
            counts), or a hub id.

    Returns:
        A key of ``image_domains.DOMAIN_TITLES``; empty for a model without such a limit, and for one that is not local.
    """
    folder = Path(resolve_model_name(name))
    config = _read_config(folder / "config.json")
    if not config and (base := _read_config(folder / "adapter_config.json").get("base_model_name_or_path")):
        config = _read_config(Path(resolve_model_name(str(base))) / "config.json")
    found = config.get(INTENDED_DOMAIN_KEY)
    return found if isinstance(found, str) and found in DOMAIN_TITLES else ""


def describe_domain_mismatch(name: str, image_domain: str, subject: str = "this image") -> str:
    """Return a warning if a model was not made for an image.

    Args:
        name: A built-in name (``BUILT_IN_FOLDERS``), a local folder, or a hub id.
        image_domain: From ``image_domains.read_image_domain``.
        subject: Subject of the answers, for the warning.

    Returns:
        The warning; empty if the model was made for such images or has no limit.
    """
    made_for = read_intended_domain(name)
    if not made_for or image_domain in supported_domains(made_for):
        return ""
    title = "".join(sign if sign.isprintable() else " " for sign in Path(resolve_model_name(name)).name)
    return (
        f"{title} was trained only on {DOMAIN_TITLES[made_for]}; its answers on {subject} are not meaningful. "
        f"Choose a model such as {GENERAL_MODEL}."
    )


def get_domain_warnings(name: str, image: Path | str) -> tuple[str, ...]:
    """List warnings about using a model on an image file.

    Args:
        name: A built-in name (``BUILT_IN_FOLDERS``), a local folder, or a hub id.
        image: Path of the image; read only if the model has a limit.
    """
    if not read_intended_domain(name):
        return ()
    warning = describe_domain_mismatch(name, read_image_domain(image))
    return (warning,) if warning else ()


def _read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object from a model folder; empty if it is missing or invalid."""
    try:
        return read_config(path, _MAX_CONFIG_BYTES)
    except ModelError:
        return {}
