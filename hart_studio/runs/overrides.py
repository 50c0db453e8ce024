"""Parse and write settings: JSON files, ``name=value`` on a command line, and the command that repeats a run.

Every source of a ``RunConfig`` uses ``read_config``, so a file, a command line and a form refuse the same values
with the same messages.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from hart_studio.errors import InputError
from hart_studio.files import read_regular_file
from hart_studio.runs.config import RunConfig, Section
from hart_studio.runs.config_file import read_config_file
from hart_studio.runs.layout import RunLayout
from hart_studio.runs.presets import get_preset
from hart_studio.runs.redaction import redact


def _list_fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from _list_fields(info.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, info


SETTINGS: Final = dict(_list_fields(RunConfig))
"""All settings by full name, such as ``optim.learning_rate``, in the order of the sections."""


def read_config(values: Mapping[str, Any]) -> RunConfig:
    """Build settings from nested values; missing ones keep their defaults.

    Raises:
        InputError: If a name is unknown, or a value is out of range or conflicts with another; all problems are
            listed, one per line.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise _explain(error) from error


def load_config(path: Path) -> RunConfig:
    """Load settings from a JSON file, such as the ``config.json`` of an earlier run.

    Raises:
        InputError: If the file cannot be read, is not JSON, or as for ``read_config``.
    """
    try:
        return RunConfig.model_validate_json(read_regular_file(path, follow_symlinks=True))
    except OSError as error:
        raise InputError(f"Cannot read the settings file {path}: {error.strerror}. Check the path.") from error
    except ValidationError as error:
        raise InputError(f"{path} contains invalid settings:\n{_explain(error)}") from error


def load_run_config(layout: RunLayout) -> RunConfig:
    """Load the settings of a training run from its folder.

    Raises:
        InputError: As for ``load_config``, or if this process was started for this run with another config.
    """
    try:
        return RunConfig.model_validate_json(read_config_file(layout))
    except OSError as error:
        raise InputError(f"The settings of run {layout.run_id} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise InputError(f"{layout.config} contains invalid settings:\n{_explain(error)}") from error


def dump_config(config: BaseModel) -> str:
    """Dump the settings, including defaults, as indented JSON for ``load_config``.

    Raises:
        InputError: If a path or a text is not UTF-8.
    """
    try:
        return config.model_dump_json(indent=2) + "\n"
    except PydanticSerializationError as error:
        raise InputError(
            "A setting contains a path or a text that is not UTF-8, which cannot be saved. Rename the folder or file."
        ) from error


def apply_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Change settings by name.

    Args:
        config: The settings to start from.
        overrides: ``name=value`` each. A value is JSON or, for text settings, plain text; a list may also
            be written ``a,b``. The last of several values for one name wins.

    Returns:
        The changed settings, checked together: a pair that is only valid jointly can be changed in one call.

    Raises:
        InputError: If an override has no ``=``, or as for ``read_config``.
    """
    values = config.model_dump()
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign:
            raise InputError(f"expected name=value, got {override!r}; for example optim.learning_rate=1e-5")
        if name not in SETTINGS:
            raise InputError(_describe_unknown(name))
        *sections, last = name.split(".")
        parent = values
        for section in sections:
            parent = parent[section]
        parent[last] = _parse(values, name, parent, text)
    return read_config(values)


def list_overrides(config: RunConfig, base: RunConfig) -> list[str]:
    """List the overrides with which ``apply_overrides`` turns ``base`` into ``config``."""
    old = _values(base)
    return [f"{name}={_write_value(value)}" for name, value in _values(config).items() if value != old[name]]


def to_arguments(config: RunConfig, preset: str) -> list[str]:
    """Arguments of ``python -m hart_studio.training`` for these settings.

    Args:
        config: The settings.
        preset: Name of the preset to start from.

    Raises:
        InputError: If there is no such preset.
    """
    changes = list_overrides(config, get_preset(preset).config)
    return ["--preset", preset, *(part for change in changes for part in ("--set", change))]


def _values(config: RunConfig) -> dict[str, Any]:
    """Map full names to JSON values."""
    sections = config.model_dump(mode="json")
    return {name: reduce(getitem, name.split("."), sections) for name in SETTINGS}


def _parse(values: dict[str, Any], name: str, parent: dict[str, Any], text: str) -> Any:
    """Return the first interpretation of a text that the setting accepts, otherwise the text."""
    readings: list[Any] = [text, text.split(","), *([None] if text.lower() == "none" else [])]
    with suppress(ValueError, RecursionError):
        readings.insert(0, json.loads(text))
    last = name.split(".")[-1]
    kept = parent[last]
    for reading in readings:
        parent[last] = reading
        accepted = not _has_problem(values, name)
        parent[last] = kept
        if accepted:
            return reading
    return text


def _has_problem(values: dict[str, Any], name: str) -> bool:
    """Whether the value of this setting alone is invalid."""
    try:
        RunConfig.model_validate(deepcopy(values))
    except ValidationError as error:
        parts = tuple(name.split("."))
        return any(problem["loc"][: len(parts)] == parts for problem in error.errors())
    return False


def _write_value(value: Any) -> str:
    """Write a value for ``_parse``: text is unquoted unless it could be parsed as JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value)


def _explain(error: ValidationError) -> InputError:
    lines = []
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            lines.append(_describe_unknown(name))
        elif problem["type"] == "value_error":
            lines.append(f"{name or 'settings'}: {problem['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(f"{name or 'settings'}: {problem['msg']}, got {_shorten(repr(problem['input']))}")
    return InputError(redact("\n".join(lines)))


def _describe_unknown(name: str) -> str:
    """Suggest similar names, by the full name and by the last part, as the section is often omitted."""
    settings = list(SETTINGS)
    sections = dict.fromkeys(full.split(".")[0] for full in settings if "." in full)
    ends = {full: full.split(".")[-1] for full in settings}
    similar_ends = difflib.get_close_matches(name.split(".")[-1], set(ends.values()), n=2, cutoff=0.75)
    similar = [full for end in similar_ends for full in settings if ends[full] == end]
    candidates = settings if "." in name else [*settings, *(section for section in sections if section != name)]
    similar += [full for full in difflib.get_close_matches(name, candidates, n=2, cutoff=0.75) if full not in similar]
    if similar:
        return f"unknown setting {name!r}; did you mean {' or '.join(similar[:3])}?"
    section = name.split(".")[0]
    listed = [full for full in settings if full.startswith(f"{section}.")] or settings
    return f"unknown setting {name!r}; available: {', '.join(listed)}"


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "..."
