"""Check what the config of a run reaches (models, data, endpoints, environment variables) before a page starts it.

Training, labeling and evaluation all pass through ``check_config``, when a run is made and every time it is resumed. A
``config.json`` may have been edited or copied from elsewhere, so an unsigned run is resumed only if its config reaches
nothing outside this server's own folders.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from hart_studio.data.benchmarks.catalog import BENCHMARKS
from hart_studio.errors import InputError
from hart_studio.evaluation.config import EvaluationConfig
from hart_studio.files import is_url
from hart_studio.labeling.job import LabelingConfig
from hart_studio.models.catalog import BUILT_IN
from hart_studio.runs.config import RunConfig
from hart_studio.runs.config_file import hash_config, read_config_file
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.overrides import dump_config
from hart_studio.runs.queue import load_verified_plan
from hart_studio.ui.security.model_allowlist import ModelAllowlist

Config = RunConfig | EvaluationConfig | LabelingConfig
ConfigT = TypeVar("ConfigT", RunConfig, EvaluationConfig, LabelingConfig)

NETWORK_TRACKERS: Final = {"wandb": "WANDB_API_KEY", "trackio": "HF_TOKEN"}
"""Trackers that send metrics over the network, and the environment variable whose key they use."""

_MAX_SHOWN_LENGTH: Final = 80


@dataclass(frozen=True)
class ConfigResources:
    """Models, data, endpoints, variables and services named in a config."""

    models: tuple[str, ...] = ()
    """Folders, hub ids or names of the catalog."""
    data: tuple[str, ...] = ()
    """Files, folders or hub ids of samples and images."""
    endpoints: tuple[str, ...] = ()
    """URLs."""
    variables: tuple[str, ...] = ()
    """Environment variables whose values are sent."""
    trackers: tuple[str, ...] = ()
    """Services that metrics are sent to."""


@dataclass(frozen=True)
class Origin:
    """Location of a resumed run, and the command that resumes it without a page.

    Attributes:
        root: Folder with the signing key of its kind of run.
        folders: Folders whose files a run that was not signed may read.
        runs_root: Folder of the runs whose checkpoints such a run may open.
        argv: Command that resumes it in a terminal.
    """

    root: Path
    folders: tuple[Path, ...]
    runs_root: Path
    argv: Sequence[str]


def list_resources(config: Config) -> ConfigResources:
    """List everything in a config that names a model, data, an endpoint, an environment variable or a service."""
    if isinstance(config, RunConfig):
        trackers = tuple(name for name in config.trackers if name in NETWORK_TRACKERS)
        return ConfigResources(
            models=_given(config.model.id),
            data=_given(config.data.path, config.data.image_root),
            variables=tuple(NETWORK_TRACKERS[name] for name in trackers),
            trackers=trackers,
        )
    data: tuple[str, ...] = ()
    if isinstance(config, EvaluationConfig):
        published = BENCHMARKS[config.benchmark].hub_id if config.benchmark in BENCHMARKS else ""
        data = _given(config.path or published, config.image_root, config.exclude)
    if config.served is None:
        return ConfigResources(models=_given(config.model), data=data)
    return ConfigResources(data=data, endpoints=(config.served.url,), variables=(config.served.api_key_variable,))


def check_config(config: Config, allowed: ModelAllowlist, command: str = "") -> None:
    """Raise if a page may not start a config, whether it is signed or not.

    Args:
        config: Of a new run, or of one that is resumed.
        allowed: Models that may be opened now.
        command: What resumes the run in a terminal; empty for a new one.

    Raises:
        InputError: If a model is not allowed, an endpoint is named, or a path is an address.
    """
    found = list_resources(config)
    if found.endpoints:
        advice = f"Resume it in a terminal: {command}" if command else "Start it in a terminal."
        raise InputError(
            f"This run uses a served model: it sends images to {found.endpoints[0]} with the key in the environment "
            f"variable {found.variables[0]}. For safety, runs with served models can only be started in a terminal. "
            f"{advice}"
        )
    for name in found.models:
        allowed.check(name)
    for name in (*found.models, *found.data):
        if "\0" in name or is_url(name):
            shown = name[:_MAX_SHOWN_LENGTH]
            raise InputError(f"{shown!r} is a URL, not a path or hub id. Download it and give the local path.")


def check_resumable(layout: RunLayout, kind: type[ConfigT], allowed: ModelAllowlist, origin: Origin) -> str:
    """Check the config of a run that a page is about to resume.

    Args:
        layout: The run.
        kind: Class of its config.
        allowed: Models that may be opened now.
        origin: Where it lies.

    Returns:
        SHA-256 of the config file that was checked; the job has to refuse any other.

    Raises:
        InputError: If the config cannot be read, or the page may not run it.
    """
    config, sha256 = read_config_and_hash(layout, kind)
    command = shlex.join(origin.argv)
    check_config(config, allowed, command)
    if is_signed(layout, sha256, origin.root):
        return sha256
    problem = _find_outside(config, allowed, origin)
    if problem:
        raise InputError(
            f"Run {layout.run_id} was not started by this server, or its files were changed since, and {problem}. If "
            f"you trust its settings, resume it in a terminal: {command}"
        )
    return sha256


def read_config_and_hash(layout: RunLayout, kind: type[ConfigT]) -> tuple[ConfigT, str]:
    """The config of a run, and the SHA-256 of the very bytes that it was read from.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        data = read_config_file(layout)
        return kind.model_validate_json(data), hash_config(data)
    except (OSError, ValidationError) as error:
        raise InputError(f"The settings of run {layout.run_id} cannot be read. Start a new run.") from error


def hash_new_config(config: Config) -> str:
    """SHA-256 of the file that ``create_run`` writes for a config."""
    return hash_config(dump_config(config).encode())


def is_signed(layout: RunLayout, sha256: str, root: Path) -> bool:
    """Whether this server signed the run with exactly this config.

    Args:
        layout: The run.
        sha256: Of the config.
        root: Folder with the signing key.

    Raises:
        InputError: If the run lies outside of the root.
    """
    try:
        plan = load_verified_plan(layout, root)
    except OSError:  # a key that this user may not read signs nothing here
        return False
    return plan is not None and plan.config_sha256 == sha256


def check_checkpoint(layout: RunLayout, model: str, base: str, allowed: ModelAllowlist, runs_root: Path) -> str:
    """Check a checkpoint of a training run before a page offers to open it beside the model that its run began with.

    Args:
        layout: The run.
        model: Folder of the checkpoint.
        base: Name of the other model, from the config of the run.
        allowed: Models that may be opened.
        runs_root: Folder of all runs.

    Returns:
        The model to offer beside it: the base, or the built-in one if this server did not sign the run and has no such
        model.

    Raises:
        InputError: If the checkpoint is not allowed, or is an adapter of an unsigned run on a model that is not one of
            this server.
    """
    allowed.check(model)
    _, sha256 = read_config_and_hash(layout, RunConfig)
    if is_signed(layout, sha256, runs_root):
        return base
    if not allowed.is_local(model, runs_root):
        raise InputError(
            f"Run {layout.run_id} was not started by this server, and its checkpoint opens a base model that is not a "
            f"model of this server. Check adapter_config.json; if you trust it, enter the path on the Ask tab: {model}"
        )
    return base if allowed.is_local(base, runs_root) else BUILT_IN


def find_offered_model(layout: RunLayout, allowed: ModelAllowlist, runs_root: Path) -> str | None:
    """Find the model of an evaluation that a page may put into a form, where one click opens it.

    Args:
        layout: The evaluation.
        allowed: Models that may be opened.
        runs_root: Folder of all runs, with the signing key.

    Returns:
        Its name; None if it is served, if it is not allowed, or if this server did not sign the evaluation with the
        config that it has now and the model is not one of this server.

    Raises:
        InputError: If the config cannot be read.
    """
    config, sha256 = read_config_and_hash(layout, EvaluationConfig)
    if config.served is not None:
        return None
    try:
        allowed.check(config.model)
        is_trusted = is_signed(layout, sha256, runs_root)
    except InputError:
        return None
    return config.model if is_trusted or allowed.is_local(config.model, runs_root) else None


def _find_outside(config: Config, allowed: ModelAllowlist, origin: Origin) -> str:
    """Describe what a config reaches outside this server's folders; empty = nothing."""
    found = list_resources(config)
    if found.trackers:
        return f"it sends metrics to {found.trackers[0]} with the key in {found.variables[0]}"
    for name in found.models:
        if not allowed.is_local(name, origin.runs_root):
            return f"it opens the model {name[:_MAX_SHOWN_LENGTH]!r}, which is not a model of this server"
    for name in found.data:
        if not any(_is_inside(name, folder) for folder in origin.folders):
            return f"it reads {name[:_MAX_SHOWN_LENGTH]!r}, which is outside of {origin.folders[0]}"
    return ""


def _is_inside(name: str, folder: Path) -> bool:
    """Whether an absolute path lies in a folder, with every link resolved."""
    path = Path(name)
    try:
        return path.is_absolute() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def _given(*names: str) -> tuple[str, ...]:
    return tuple(name for name in names if name)
