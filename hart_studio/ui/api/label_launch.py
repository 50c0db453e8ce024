"""Check and sign labeling runs before a page starts or resumes them, and find the model of a project's newest run."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from hart_studio.errors import HartError, InputError
from hart_studio.labeling.job import LabelingConfig
from hart_studio.labeling.project import Project
from hart_studio.models.catalog import BUILT_IN_HART
from hart_studio.runs.config_file import config_variables
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.queue import LaunchPlan, write_plan
from hart_studio.runs.reader import list_runs
from hart_studio.ui.security.config_check import Origin, check_config, check_resumable, is_signed, read_config_and_hash
from hart_studio.ui.security.model_allowlist import ModelAllowlist

MODULE: Final = "hart_studio.labeling"
"""Module that ``python -m`` runs for labeling."""

Command = tuple[tuple[str, ...], dict[str, str]]
"""Program with arguments, and environment variables."""

_MAX_SHOWN_LENGTH: Final = 80


def sign_run(root: Path, project: Project, layout: RunLayout, config_sha256: str) -> Command:
    """Write a signed launch plan of a labeling run.

    Args:
        root: Folder of all projects, which holds the signing key.
        project: The project that was opened.
        layout: A run of this project.
        config_sha256: Hash of the checked config.

    Returns:
        The command to start.
    """
    argv = (sys.executable, "-m", MODULE, "run", str(project.folder), "--resume", layout.run_id)
    write_plan(layout, LaunchPlan(argv=argv, config_sha256=config_sha256), root)
    return argv, config_variables(layout.run_id, config_sha256)


def check_run(root: Path, project: Project, layout: RunLayout, allowed: ModelAllowlist) -> str:
    """Check the config of a labeling run that is about to be resumed; arguments as for ``sign_run``.

    Returns:
        SHA-256 of the checked config.

    Raises:
        InputError: As for ``check_resumable``.
    """
    argv = ("python", "-m", MODULE, "run", str(project.folder), "--resume", layout.run_id)
    origin = Origin(root, (project.folder,), allowed.runs_root or project.runs, argv)
    return check_resumable(layout, LabelingConfig, allowed, origin)


def find_model(root: Path, project: Project, allowed: ModelAllowlist) -> tuple[str, str]:
    """(run id, model) of the newest run of a project; edited boxes are verified with the same model.

    Args:
        root: Folder of all projects, which holds the signing key.
        project: The project.
        allowed: Models that may be loaded.

    Raises:
        InputError: If the model is not allowed, or an unsigned config names a model that is not local.
    """
    for run in list_runs(project.runs):
        with suppress(HartError):
            config, sha256 = read_config_and_hash(run.layout, LabelingConfig)
            break
    else:
        return "", BUILT_IN_HART
    check_config(config, allowed)
    is_known = allowed.is_local(config.model, allowed.runs_root or project.runs)
    if not (is_known or is_signed(run.layout, sha256, root)):
        name = config.model[:_MAX_SHOWN_LENGTH]
        raise InputError(
            f"The newest labeling run, {run.layout.run_id}, was not started by this server, so its model {name!r} is "
            f"not loaded. If you trust it, start the server with --allow-model {name}, or label with another model."
        )
    return run.layout.run_id, config.model
