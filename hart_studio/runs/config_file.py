"""Read the ``config.json`` of a run, and verify that a job uses the checked config.

The server checks a config and then starts a process that reads the file again. The server passes the digest of the
checked config, so a file that is replaced in between is refused.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

from hart_studio.errors import InputError
from hart_studio.files import read_regular_file
from hart_studio.runs.layout import RunLayout

CONFIG_VARIABLE: Final = "HART_STUDIO_CONFIG_SHA256"
"""Environment variable of a job: id of its run, a space, and the SHA-256 of the config that was checked."""


def hash_config(data: bytes) -> str:
    """SHA-256 of a config file, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def config_variables(run_id: str, sha256: str) -> dict[str, str]:
    """Environment variables with which a job verifies its config."""
    return {CONFIG_VARIABLE: f"{run_id} {sha256}"}


def read_config_file(layout: RunLayout) -> bytes:
    """Read the config file of a run.

    Raises:
        OSError: If it is missing, a link, or not a regular file.
        InputError: If this process was started for this run with another config.
    """
    data = read_regular_file(layout.config)
    run_id, _, expected = os.environ.get(CONFIG_VARIABLE, "").partition(" ")
    if run_id == layout.run_id and hash_config(data) != expected:
        raise InputError(
            f"The settings of run {run_id} were changed after it was started ({layout.config}). They were not used. "
            "Restore the file and resume the run, or start a new run."
        )
    return data
