"""Settings of each attempt of a run: report which settings changed since the previous attempt."""

from __future__ import annotations

import json
from typing import Any, Final

from hart_studio.errors import InputError
from hart_studio.files import read_regular_file, write_atomically
from hart_studio.runs.config_file import read_config_file
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.redaction import redact

MOST_CHANGES: Final = 20
"""Maximum number of changed settings that are listed; the others are counted. Project default."""

_LONGEST_VALUE: Final = 80


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
            for name in names[:MOST_CHANGES]
        ]
        if len(names) > MOST_CHANGES:
            changes.append(f"{len(names) - MOST_CHANGES} other settings changed since attempt {previous}.")
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
