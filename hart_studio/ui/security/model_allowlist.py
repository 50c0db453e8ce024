"""Allowlist of models: any model on a local page, listed models on a shared page.

A model name is a path or a hub id, so a user who chooses it makes the server read or download it. Every model name is
checked here before anything is opened.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hart_studio.errors import InputError, ModelError
from hart_studio.files import read_regular_file
from hart_studio.hub.repository import REPO_ID
from hart_studio.models.catalog import BUILT_IN, BUILT_IN_FOLDERS, GENERAL_MODEL
from hart_studio.models.config_files import read_config
from hart_studio.models.families import FAMILIES, supported_families
from hart_studio.models.published_models import find_published
from hart_studio.runs.checkpoints import list_checkpoints
from hart_studio.runs.layout import find_run
from hart_studio.ui.security.access import Profile

MODELS_VARIABLE: Final = "HART_STUDIO_MODELS"
"""Environment variable of a Space: additional allowed models, comma-separated."""

MODEL_VARIABLE: Final = "HART_STUDIO_MODEL"
"""Environment variable with the preselected model, as ``--model`` of ``app.py``."""

MODEL_FLAG: Final = "--allow-model"
"""Flag of ``app.py`` for the same, repeatable."""

_TITLES: Final = {"built-in": "Built-in (hart-tiny-base)", "built-in-hart": "Built-in, trained with HART (hart-tiny)"}
_SHOWN_NAMES: Final = 12


def check_start_model(name: str) -> str:
    """Check the preselected model when the server starts; the network is not used and no weights are loaded.

    Args:
        name: Value of ``--model`` or ``HART_STUDIO_MODEL``: a built-in name, a folder, a name of the model catalog, or
            a Hub id.

    Returns:
        The model to load; for a name of the catalog, its Hub id.

    Raises:
        InputError: If it is none of these, or the folder has no model of a supported family.
    """
    name = name.strip()
    source = f"The model {name[:200]!r} (--model or {MODEL_VARIABLE})"
    if name in BUILT_IN_FOLDERS:
        return name
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if (folder / "adapter_config.json").is_file():
            return name
        try:
            kind = read_config(folder / "config.json").get("model_type")
        except ModelError as error:
            raise InputError(f"{source} cannot be used: {error}") from error
        if not isinstance(kind, str) or kind not in FAMILIES:
            raise InputError(f"{source} has the unsupported model_type {kind!r}. Use one of {supported_families()}.")
        return name
    if (published := find_published(name)) is not None:
        return published.hub_id
    if REPO_ID.fullmatch(name) is None:
        raise InputError(f"{source} is neither built-in nor a folder nor a Hub id such as {GENERAL_MODEL}. Change it.")
    return name


@dataclass(frozen=True)
class ModelAllowlist:
    """Models that may be loaded; any by default."""

    names: tuple[str, ...] | None = None
    """Allowed names; None = any."""
    runs_root: Path | None = None
    """Folder of runs whose checkpoints are allowed in addition to ``names``; None = no checkpoints."""
    how_to_add: str = ""
    """Flag or variable that allows another model."""
    trusted: tuple[str, ...] = ()
    """Models chosen by the operator; see ``operator_models``."""

    @property
    def hint(self) -> str:
        """Help text of a model field."""
        if self.names is None:
            return "Built-in model, local folder or Hub id"
        return "Model from the list" + (", or checkpoint of a run here" if self.runs_root else "")

    def check(self, name: str) -> str:
        """Return the stripped name of an allowed model.

        Raises:
            InputError: If the model is not allowed.
        """
        wanted = name.strip()
        if self.names is None or wanted in self.names:
            return wanted
        if self.runs_root is not None and self._is_checkpoint(wanted, self.runs_root, self.names):
            return wanted
        shown = ", ".join(self.names[:_SHOWN_NAMES]) + (", …" if len(self.names) > _SHOWN_NAMES else "")
        raise InputError(
            f"Model {wanted[:80]!r} is not allowed on this server. Choose one of {shown}, or ask the administrator to "
            f"allow it with {self.how_to_add}."
        )

    def is_local(self, name: str, runs_root: Path) -> bool:
        """Whether a model is built in, chosen by the operator, or a local checkpoint.

        Args:
            name: A folder or hub id from an untrusted file.
            runs_root: Folder of runs whose checkpoints are local.
        """
        known = (*BUILT_IN_FOLDERS, *BUILT_IN_FOLDERS.values(), *self.trusted)
        return name in known or self._is_checkpoint(name, runs_root, known)

    @staticmethod
    def _is_checkpoint(name: str, runs_root: Path, bases: Collection[str]) -> bool:
        """Whether this is a complete checkpoint of a run here; an adapter must have one of the given base models.

        Loading an adapter also loads the base model named in its config.
        """
        if "\0" in name:
            return False
        root = runs_root.resolve()
        try:
            place = Path(name).resolve()
            layout = find_run(root, place.relative_to(root).parts[0])
        except (ValueError, IndexError, OSError, RuntimeError, InputError):
            return False
        if not any(found.folder.resolve() == place for found in list_checkpoints(layout)):
            return False
        adapter = place / "adapter_config.json"
        if not adapter.exists() and not adapter.is_symlink():
            return True
        try:
            base = json.loads(read_regular_file(adapter)).get("base_model_name_or_path")
        except (OSError, ValueError, RecursionError, AttributeError):
            return False
        if not isinstance(base, str):
            return False
        # The base of an adapter is a full model, so one recursion with no allowed bases is enough.
        return base in (*bases, *BUILT_IN_FOLDERS.values()) or (
            place != Path(base).resolve() and ModelAllowlist._is_checkpoint(base, runs_root, ())
        )


def offered_models(
    default: str = BUILT_IN, profile: Profile = "local", added: Collection[str] = ()
) -> list[tuple[str, str]]:
    """(title, name) of the models in the lists: default, built-in, added, and one of each family.

    Args:
        default: Preselected model.
        profile: On a Space only built-in and added models are offered.
        added: Names from ``parse_added_models``.
    """
    families = () if profile == "space" else (family.checkpoint for family in FAMILIES.values())
    names = dict.fromkeys([*operator_models(default, added), *families])
    return [(_TITLES.get(name, name), name) for name in names]


def operator_models(default: str, added: Collection[str]) -> tuple[str, ...]:
    """Names of the models that the operator chose: default, built-in and added.

    Args:
        default: Preselected model.
        added: Names from ``parse_added_models``.
    """
    return tuple(dict.fromkeys([default, *BUILT_IN_FOLDERS, *added]))


def parse_added_models(profile: Profile, flags: Collection[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Models added by the operator with flags or, on a Space, with the environment variable."""
    named = environment.get(MODELS_VARIABLE, "").split(",") if profile == "space" else []
    return tuple(dict.fromkeys(name.strip() for name in (*flags, *named) if name.strip()))


def build_allowlist(
    profile: Profile, offered: Collection[tuple[str, str]], runs_root: Path, trusted: Collection[str] = ()
) -> ModelAllowlist:
    """Build the allowlist of a server profile.

    Args:
        profile: From ``load_auth_config``.
        offered: From ``offered_models``.
        runs_root: Folder of the runs; ``lab`` allows their checkpoints.
        trusted: From ``operator_models``.
    """
    named = tuple(trusted)
    if profile == "local":
        return ModelAllowlist(None, runs_root, trusted=named)
    names = tuple(name for _, name in offered)
    if profile == "lab":
        return ModelAllowlist(names, runs_root, MODEL_FLAG, named)
    return ModelAllowlist(names, None, f"the variable {MODELS_VARIABLE}", named)
