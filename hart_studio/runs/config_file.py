"""Read the ``config.json`` of a run, and verify that a job uses the checked config.

The server checks a config and then starts a process that reads the file again. The server passes the digest of the
checked config, so a file that is replaced in between is refused. Each attempt keeps a copy, so that changes since the
previous attempt are reported.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, Final

from hart_studio.errors import InputError
from hart_studio.files import read_regular_file, write_atomically
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.redaction import redact

CONFIG_VARIABLE: Final = "HART_STUDIO_CONFIG_SHA256"
"""Environment variable of a job: id of its run, a space, and the SHA-256 of the config that was checked."""

MAX_SHOWN_CHANGES: Final = 20
"""Maximum number of changed settings that are listed; the others are counted. Project default."""

_LONGEST_VALUE: Final = 80


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


def record_settings(layout: RunLayout, attempt: int) -> list[str]:
    """Copy ``config.json`` for an attempt, and describe the changes since the previous attempt.

    Args:
        layout: The run.
        attempt: Number of the new attempt, from 1.

    Returns:
        One sentence for each changed setting, such as ``optim.learning_rate changed from 1e-05 to 0.5 since attempt
        1.``; empty for a first attempt, for unchanged settings, and if the copy cannot be read.
    """
    try:
        text = read_config_file(layout)
        now = flatten_settings(json.loads(text))
    except (InputError, OSError, ValueError, RecursionError):
        return []  # reading the settings reports it
    changes: list[str] = []
    previous = attempt - 1
    while previous > 0 and not layout.config_of(previous).is_file():
        previous -= 1
    if previous:
        try:
            before = flatten_settings(json.loads(read_regular_file(layout.config_of(previous))))
        except (InputError, OSError, ValueError, RecursionError):
            before = now
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        changes = [
            f"{name} changed from {_show(before.get(name))} to {_show(now.get(name))} since attempt {previous}."
            for name in names[:MAX_SHOWN_CHANGES]
        ]
        if len(names) > MAX_SHOWN_CHANGES:
            changes.append(f"{len(names) - MAX_SHOWN_CHANGES} other settings changed since attempt {previous}.")
    write_atomically(layout.config_of(attempt), text)
    return changes


def flatten_settings(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten settings to dotted names, such as ``optim.learning_rate``; an empty section is a value."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {
        name: leaf
        for key, part in value.items()
        for name, leaf in flatten_settings(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _show(value: Any) -> str:
    text = redact(json.dumps(value, ensure_ascii=True))
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"
