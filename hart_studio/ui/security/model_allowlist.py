"""Which models may be opened: any on a page of one's own, those of a list where others come in.

A name of a model is a path or a hub id, so whoever may choose it makes the server read, or fetch and keep, what they
name. Every place that a name enters asks here before anything is opened.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hart_studio.errors import InputError
from hart_studio.files import read_regular_file
from hart_studio.models.catalog import BUILT_IN, BUILT_IN_FOLDERS
from hart_studio.models.families import FAMILIES
from hart_studio.runs.checkpoints import list_checkpoints
from hart_studio.runs.layout import find_run
from hart_studio.ui.security.auth import Profile

MODELS_VARIABLE: Final = "HART_STUDIO_MODELS"
"""Environment variable of a Space with further models that may be opened, by commas."""

MODEL_FLAG: Final = "--allow-model"
"""The same as a flag of ``app.py``, repeated."""

_TITLES: Final = {"built-in": "Built-in (hart-tiny-base)", "built-in-hart": "Built-in, trained with HART (hart-tiny)"}
_SHOWN_NAMES: Final = 12


@dataclass(frozen=True)
class ModelAllowlist:
    """Models that may be opened; the default is any."""

    names: tuple[str, ...] | None = None
    """Exactly these; None = any."""
    runs_root: Path | None = None
    """Folder of runs whose checkpoints may be opened, too, where only some models are allowed; None = of none."""
    how_to_add: str = ""
    """What the operator does to allow another one."""
    trusted: tuple[str, ...] = ()
    """Names that the operator gave when the server was started; see ``operator_models``."""

    @property
    def label(self) -> str:
        """The label of a field for a model's name."""
        if self.names is None:
            return "Model: built-in, local folder or hub id"
        return "Model: one of the list" + (", or a checkpoint of a run here" if self.runs_root else "")

    def check(self, name: str) -> str:
        """The name without blanks around it.

        Raises:
            InputError: If the model may not be opened here.
        """
        wanted = name.strip()
        if self.names is None or wanted in self.names:
            return wanted
        if self.runs_root is not None and self._is_checkpoint(wanted, self.runs_root, self.names):
            return wanted
        shown = ", ".join(self.names[:_SHOWN_NAMES]) + (", …" if len(self.names) > _SHOWN_NAMES else "")
        raise InputError(
            f"expected a model that is allowed here ({shown}), got {wanted[:80]!r}; choose one from the list, or have "
            f"the operator add it with {self.how_to_add}"
        )

    def is_local(self, name: str, runs_root: Path) -> bool:
        """Whether opening a model reads only what is on this machine already or what the operator named.

        Args:
            name: A folder or hub id, from a file that anyone may have written.
            runs_root: Folder of runs whose checkpoints are local.
        """
        known = (*BUILT_IN_FOLDERS, *BUILT_IN_FOLDERS.values(), *self.trusted)
        return name in known or self._is_checkpoint(name, runs_root, known)

    @staticmethod
    def _is_checkpoint(name: str, runs_root: Path, bases: Collection[str]) -> bool:
        """Whether this is the folder of a complete checkpoint of a run here; one of an adapter, on one of these bases.

        An adapter names its base model in a file of its own, and loading it opens that model too.
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
        # The base of an adapter is a whole model, so one more look is enough: no base, no further one.
        return base in (*bases, *BUILT_IN_FOLDERS.values()) or (
            place != Path(base).resolve() and ModelAllowlist._is_checkpoint(base, runs_root, ())
        )


def offered_models(
    default: str = BUILT_IN, profile: Profile = "local", added: Collection[str] = ()
) -> list[tuple[str, str]]:
    """(title, name) of the models in the lists: the default, the built-in ones, those added, one of each family.

    Args:
        default: The one that is chosen at first.
        profile: On a Space no model of another family is offered unless it was added.
        added: Names from ``parse_added_models``.
    """
    families = () if profile == "space" else (family.checkpoint for family in FAMILIES.values())
    names = dict.fromkeys([*operator_models(default, added), *families])
    return [(_TITLES.get(name, name), name) for name in names]


def operator_models(default: str, added: Collection[str]) -> tuple[str, ...]:
    """Names of the models that the operator stands for, without those that are there to be tried.

    Args:
        default: The one that is chosen at first.
        added: Names from ``parse_added_models``.
    """
    return tuple(dict.fromkeys([default, *BUILT_IN_FOLDERS, *added]))


def parse_added_models(profile: Profile, flags: Collection[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Names of models that the operator has added, by flags or, on a Space, by a variable."""
    named = environment.get(MODELS_VARIABLE, "").split(",") if profile == "space" else []
    return tuple(dict.fromkeys(name.strip() for name in (*flags, *named) if name.strip()))


def build_allowlist(
    profile: Profile, offered: Collection[tuple[str, str]], runs_root: Path, trusted: Collection[str] = ()
) -> ModelAllowlist:
    """What may be opened on a page that is reached in this way.

    Args:
        profile: From ``load_auth_config``.
        offered: From ``offered_models``.
        runs_root: Folder of the runs, whose checkpoints a lab may open.
        trusted: From ``operator_models``.
    """
    named = tuple(trusted)
    if profile == "local":
        return ModelAllowlist(None, runs_root, trusted=named)
    names = tuple(name for _, name in offered)
    if profile == "lab":
        return ModelAllowlist(names, runs_root, MODEL_FLAG, named)
    return ModelAllowlist(names, None, f"the variable {MODELS_VARIABLE}", named)
